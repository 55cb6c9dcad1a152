"""Rules about the shell itself: loops, heredocs, processes, and how environments are activated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.model import Command, Expansion, Script, Span
from muster.lint.rule import ERROR, SCRIPT, WARNING, Finding, Rule
from muster.lint.scene import TORCHRUN, Scene

_KILLED = re.compile(r"python|torchrun|deepspeed|accelerate|\btrain|\.py\b|torch|\bray\b", re.IGNORECASE)


_DATA = (".json", ".yaml", ".yml", ".toml", ".cfg", ".conf", ".txt", ".ini", "hostfile", "hosts", ".hosts")


_HOOK = re.compile(r"conda\.sh|mamba\.sh|bashrc|bash_profile|\.profile|/profile|bin/activate|conda/activate|zshrc")


_CONDA = re.compile(r"conda|mamba|python|forge", re.IGNORECASE)


def kills_all_python(scene: Scene) -> Iterator[Finding]:
    """`pkill -f python`."""
    for command in scene.commands:
        last = command.programs[-1] if command.programs else None
        words = [word.shown for word in command.argv]
        if last is None:
            continue
        names = [program.name for program in command.programs]
        if "pkill" in names or "killall" in names:
            at = words.index(next(word for word in words if word.rpartition("/")[2] in ("pkill", "killall")))
            given = words[at + 1 :]
            limited = any(re.match(r"-(P|g|s|t|-parent|-pgroup|-session|-ns)", word) for word in given)
            if not limited and any(_KILLED.search(word) for word in given if not word.startswith("-")):
                yield Finding(
                    command.span, "this kills every process of yours with that name on the host, also of other jobs"
                )
        elif last.name == "kill" and any(_finds_python(part) for word in command.argv for part in word.expansions):
            yield Finding(
                command.span, "this kills every process of yours with that name on the host, also of other jobs"
            )
        elif (
            last.name == "kill"
            and command.programs[0].name == "xargs"
            and command.piped_from in ("awk", "grep", "pgrep", "cut", "tr")
        ):
            line = scene.script.source.line(scene.script.source.place(command.span.start)[0])
            if re.search(r"(ps |pgrep).*(python|torch|train)", line):
                yield Finding(
                    command.span, "this kills every process of yours with that name on the host, also of other jobs"
                )


def _finds_python(part: Expansion) -> bool:
    """`$(pgrep -f python)`, `$(ps aux | grep python | …)`."""
    finds = any(command.name in ("pgrep", "ps", "pidof") for command in part.commands)
    words = (word.shown for command in part.commands for word in command.argv[1:])
    return finds and any(_KILLED.search(word) for word in words)


def _activates(command: Command) -> bool:
    name, words = command.name, [word.shown for word in command.argv]
    if name in ("conda", "mamba", "micromamba") and words[1:2] == ["activate"]:
        return True
    return name in ("source", ".") and len(words) > 1 and bool(re.search(r"(^|/)activate$", words[1]))


def conda_without_hook(scene: Scene) -> Iterator[Finding]:
    """`conda activate` in a shell that has no such function."""
    for script in scene.script.scripts():
        if script.shell.kind in ("remote", "file") or _is_login(script):
            continue
        ready = False
        for command in script.commands:
            words = " ".join(word.shown for word in command.argv)
            hook = command.name in ("source", ".", "eval") and (
                _HOOK.search(words) or "hook" in words or "activate" in words
            )
            unknown = command.name in ("source", ".") or (command.name in ("module", "ml") and _CONDA.search(words))
            if (
                hook
                or unknown
                or (command.name in script.functions and _sets_up(script, command.name))
                or "conda.sh" in words
            ):
                ready = True
            if (
                not ready
                and command.words
                and command.words[0].text in ("conda", "mamba", "micromamba")
                and words.split()[1:2] == ["activate"]
            ):
                yield Finding(
                    command.span,
                    f"`{command.words[0].text} activate` is a function of interactive shells; a script does not have "
                    f"it",
                )
                ready = True


def _sets_up(script: Script, function: str) -> bool:
    return any(
        command.function == function and command.name in ("source", ".", "eval", "module")
        for command in script.commands
    )


def _is_login(script: Script) -> bool:
    if re.search(r"\s(-\w*[li]\w*|--login)\b", script.shebang):
        return True
    last = script.shell.launchers[-1] if script.shell.launchers else None
    return last is not None and last.name == "bash" and last.has("-l", "-i", "--login")


def module_after_activate(scene: Scene) -> Iterator[Finding]:
    """`module load` behind the activation of an environment."""
    for script in scene.script.scripts():
        active: Command | None = None
        for command in script.commands:
            words = [word.shown for word in command.argv]
            if _activates(command):
                active = command
            elif words[:2] in (["conda", "deactivate"], ["deactivate"]) or words[:1] == ["deactivate"]:
                active = None
            loads = (command.name == "module" and words[1:2] in (["load"], ["add"], ["switch"], ["swap"])) or (
                command.name == "ml" and len(words) > 1 and words[1] not in ("list", "avail", "purge", "-t")
            )
            if loads and active is not None and command.function == active.function:
                line = scene.script.source.place(active.span.start)[0]
                yield Finding(command.span, f"this puts its directories before those of the environment of line {line}")


def torch_distributed_launch(scene: Scene) -> Iterator[Finding]:
    """The deprecated launcher."""
    for launch in scene.launches:
        program = launch.program
        if program.name != "torch.distributed.launch":
            continue
        passes = "" if program.has("--use-env") else "; it passes --local-rank as an argument"
        yield Finding(program.word.span, f"torch.distributed.launch is deprecated{passes}")


def local_rank_argument(scene: Scene) -> Iterator[Finding]:
    """`--local_rank=0` for the script of torchrun."""
    for launch in scene.launches:
        if launch.program.name not in (*TORCHRUN, "accelerate"):
            continue
        operands = launch.program.operands
        for at, word in enumerate(operands[1:], 1):
            match = re.match(r"--local[-_]rank(=|$)", word.start)
            value = (
                (word.text or "").partition("=")[2]
                if match and match[1]
                else (operands[at + 1].text if match and at + 1 < len(operands) else None)
            )
            if match and value is not None and re.fullmatch(r"\d+", value):
                yield Finding(
                    word.span, f"all ranks get the local rank {value}: {launch.program.name} sets LOCAL_RANK for each"
                )


def heredoc_literal_variable(scene: Scene) -> Iterator[Finding]:
    """A quoted heredoc with variables of the script, for a file that nobody expands."""
    read = {
        option.value.shown
        for launch in scene.launches
        for option in launch.program.options
        if option.name in ("--config-file", "--hostfile") and option.value is not None
    }
    for script in scene.script.scripts():
        own = {item.name for item in script.assignments}
        for heredoc in script.heredocs:
            target = heredoc.target or ""
            if not heredoc.literal or not target.endswith(_DATA):
                continue
            for match in re.finditer(r"\$\{?([A-Za-z_]\w*)\}?", heredoc.body.text or ""):
                if match[1] in own or match[1].startswith("SLURM_") or target in read:
                    first = heredoc.body.parts[0]
                    start = first.at if not isinstance(first, Expansion) else first.span.start
                    at = start + match.start()
                    yield Finding(
                        Span(at, at + len(match[0])),
                        f"`{match[0]}` is written to {target} as it is: the delimiter of the heredoc is quoted",
                    )
                    break


def heredoc_expanded_early(scene: Scene) -> Iterator[Finding]:
    """SLURM variables of a job, expanded while its script is written."""
    submits = any(command.program("sbatch") for command in scene.commands)
    for script in scene.script.scripts():
        for inner in script.nested:
            reader = inner.shell.launchers[-1].name if inner.shell.launchers else ""
            if reader not in ("", "sbatch") or inner.shell.kind not in ("batch", "file"):
                continue
            is_job = bool(inner.directives or reader or submits)
            if script.shell.kind != "script" or scene.is_run_by_srun or not is_job:
                continue
            seen: set[Span] = set()
            for command in inner.everything():
                for word in command.words:
                    for part in word.expansions:
                        names = [name for name in part.names if name.startswith("SLURM_")]
                        early = part.shell.number == script.shell.number and part.kind in (
                            "variable",
                            "default",
                            "command",
                            "arithmetic",
                        )
                        if names and early and part.span not in seen:
                            seen.add(part.span)
                            yield Finding(
                                part.span,
                                f"{names[0]} is expanded while the job script is written, when there is no job",
                            )


_ONE = "#!/bin/bash\n"


RULES = (
    Rule(
        "kills-all-python",
        ERROR,
        SCRIPT,
        kills_all_python,
        "`pkill -f python` and the like",
        "It kills every process of yours with that name on the host: other jobs, notebooks, editors.",
        "Kill what the script has started: `kill $!`, `kill 0`, `scancel`, or `muster clean`.",
        f"{_ONE}pkill -9 -f python\n",
        f"{_ONE}python train.py &\nkill $!\nwait\n",
    ),
    Rule(
        "conda-without-hook",
        ERROR,
        SCRIPT,
        conda_without_hook,
        "`conda activate` in a script, without the function of conda",
        "Only interactive shells have the function. In a script: `CondaError: Run 'conda init' before 'conda "
        "activate'`, and the script goes on with another Python.",
        'Write `source "$(conda info --base)/etc/profile.d/conda.sh"` before it, or call the Python of the '
        "environment by its path.",
        f"{_ONE}conda activate train\npython train.py\n",
        f'{_ONE}eval "$(conda shell.bash hook)"\nconda activate train\npython train.py\n',
    ),
    Rule(
        "module-after-activate",
        WARNING,
        SCRIPT,
        module_after_activate,
        "`module load` after an environment was activated",
        "A module puts its own python and libraries before those of the environment in PATH and LD_LIBRARY_PATH.",
        "Load modules first, then activate.",
        f"{_ONE}source venv/bin/activate\nmodule load cuda/12.4\npython train.py\n",
        f"{_ONE}module load cuda/12.4\nsource venv/bin/activate\npython train.py\n",
    ),
    Rule(
        "torch-distributed-launch",
        WARNING,
        SCRIPT,
        torch_distributed_launch,
        "`python -m torch.distributed.launch`",
        "It is deprecated in favour of torchrun, and passes `--local-rank` to the script unless it has `--use-env`; "
        "scripts for torchrun do not know that argument.",
        'Use torchrun; read `os.environ["LOCAL_RANK"]` in the script.',
        f"{_ONE}export OMP_NUM_THREADS=8\npython -m torch.distributed.launch --nproc_per_node=4 train.py\n",
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --nproc_per_node=4 train.py\n",
    ),
    Rule(
        "local-rank-constant",
        ERROR,
        SCRIPT,
        local_rank_argument,
        "`--local_rank=0` for the script of torchrun or accelerate",
        "All ranks of a node get the same number, and with it the same GPU.",
        'Leave it out; read `os.environ["LOCAL_RANK"]` in the script.',
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=4 train.py --local_rank=0\n",
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=4 train.py --rank-file=0\n",
    ),
    Rule(
        "heredoc-literal-variable",
        ERROR,
        SCRIPT,
        heredoc_literal_variable,
        "a heredoc with a quoted delimiter that writes variables to a configuration or a host file",
        "With `<<'EOF'` nothing is expanded. The file contains `$GPUS`, and no shell reads it later.",
        "Write `<<EOF` without quotes.",
        f"{_ONE}GPUS=4\ncat >hostfile <<'EOF'\nn1 slots=$GPUS\nEOF\n",
        f"{_ONE}GPUS=4\ncat >hostfile <<EOF\nn1 slots=$GPUS\nEOF\n",
    ),
    Rule(
        "heredoc-expanded-early",
        ERROR,
        SCRIPT,
        heredoc_expanded_early,
        "`$SLURM_…` in an unquoted heredoc that is the script of a job",
        "It is expanded when the script is written, on the login node, where it is empty.",
        "Quote the delimiter, `<<'EOF'`, or escape the variable, `\\$SLURM_JOB_ID`.",
        f"{_ONE}sbatch <<EOF\n#!/bin/bash\n#SBATCH --nodes=1\nsrun python train.py --id $SLURM_JOB_ID\nEOF\n",
        f"{_ONE}sbatch <<EOF\n#!/bin/bash\n#SBATCH --nodes=1\nsrun python train.py --id \\$SLURM_JOB_ID\nEOF\n",
    ),
)
