"""Rules about options that a launcher does not have, or does not see."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.core.suggestions import nearest
from muster.lint.model import Option
from muster.lint.rule import ERROR, SCRIPT, WARNING, Finding, Rule
from muster.lint.scene import TORCHRUN, Scene

_OF_TORCHRUN = frozenset(
    f"--{name}"
    for name in (
        *("nnodes", "nproc-per-node", "node-rank", "master-addr", "master-port", "local-addr", "role", "standalone"),
        *("rdzv-backend", "rdzv-endpoint", "rdzv-id", "rdzv-conf", "max-restarts", "monitor-interval"),
        *("start-method", "log-dir", "redirects", "tee", "local-ranks-filter", "logs-specs", "event-log-handler"),
        *("module", "no-python", "run-path", "use-env", "help", "numa-binding", "signals-to-handle"),
        *("virtual-local-rank", "duplicate-stdout-filters", "duplicate-stderr-filters", "print-completion"),
    )
)
"""Options of torchrun in torch 2.13."""

_OF_LAUNCH = ("--nnodes", "--nproc-per-node", "--node-rank", "--standalone", "--rdzv-backend", "--rdzv-endpoint")
"""Options that no training script is likely to have itself."""


def launcher_option_misspelled(scene: Scene) -> Iterator[Finding]:
    """An option that torchrun does not have, and that is almost one of its own."""
    for launch in scene.launches:
        for option in launch.program.options if launch.program.name in TORCHRUN else ():
            if _is_unknown(option) and (near := nearest(option.name, _OF_TORCHRUN)):
                yield Finding(option.span, f"torchrun has no option {option.name}: probably {near}")


def _is_unknown(option: Option) -> bool:
    """Return whether argparse refuses an option; it takes the beginning of a name for the name."""
    return option.name.startswith("--") and not any(known.startswith(option.name) for known in _OF_TORCHRUN)


def launcher_option_after_script(scene: Scene) -> Iterator[Finding]:
    """An option of torchrun behind the script."""
    for launch in scene.launches:
        program = launch.program
        if program.name not in TORCHRUN or not program.is_known:
            continue
        for word in program.operands[1:]:
            name = re.sub("_", "-", word.start.partition("=")[0])
            if name in _OF_LAUNCH and not program.has(name):
                script = program.operands[0].shown
                yield Finding(word.span, f"{name} is behind {script}, which gets it; {program.name} does not see it")


def deepspeed_include_and_count(scene: Scene) -> Iterator[Finding]:
    """--include or --exclude with --num_nodes or --num_gpus."""
    for launch in scene.launches:
        chosen = launch.program.option("--include", "--exclude")
        count = launch.program.option("--num-gpus", "--num-nodes")
        if launch.program.name == "deepspeed" and chosen is not None and count is not None:
            yield Finding(count.span, f"deepspeed refuses {count.name} together with {chosen.name}")


_ONE = "#!/bin/bash\nexport OMP_NUM_THREADS=4\n"
RULES = (
    Rule(
        "launcher-option-misspelled",
        ERROR,
        SCRIPT,
        launcher_option_misspelled,
        "a misspelled option of torchrun",
        "torchrun prints its usage, and nothing starts.",
        "Write the option as `torchrun --help` has it.",
        f"{_ONE}torchrun --standalone --nproc_per_nodes=4 train.py\n",
        f"{_ONE}torchrun --standalone --nproc_per_node=4 train.py\n",
    ),
    Rule(
        "launcher-option-after-script",
        WARNING,
        SCRIPT,
        launcher_option_after_script,
        "an option of torchrun behind the script",
        "What is behind the script belongs to the script. torchrun takes its default, such as one rank.",
        "Write the option before the script.",
        f"{_ONE}torchrun --standalone train.py --nproc_per_node 4\n",
        f"{_ONE}torchrun --standalone --nproc_per_node 4 train.py\n",
    ),
    Rule(
        "deepspeed-include-and-count",
        ERROR,
        SCRIPT,
        deepspeed_include_and_count,
        "`--include` or `--exclude` of deepspeed with `--num_gpus` or `--num_nodes`",
        "deepspeed ends with `Cannot specify num_nodes/gpus with include/exclude`.",
        "Leave out one of them.",
        f"{_ONE}deepspeed --num_gpus=2 --include=n1:0,1 train.py\n",
        f"{_ONE}deepspeed --include=n1:0,1 train.py\n",
    ),
)
