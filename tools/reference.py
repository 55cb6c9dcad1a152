"""Generate docs/reference/ from the tables in the code, as `make docs` does. A test fails if it is out of date."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"


def said(*words: str) -> str:
    """The output of muster for these arguments."""
    from muster.cli import call

    out = io.StringIO()
    with redirect_stdout(out):
        call(words, {}, 0.0)
    return out.getvalue().rstrip()


def cell(text: str) -> str:
    """A text escaped for a table cell."""
    return text.replace("|", "\\|")


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its header."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))


def code(text: str) -> str:
    """A name formatted as code; an empty string stays empty."""
    return f"`{text}`" if text else ""


def listed(names: Iterable[str]) -> str:
    """Names formatted as code, separated by commas."""
    return ", ".join(map(code, names))


def commands() -> str:
    """The page with the help text of each command."""
    from muster.cli.commands import COMMANDS, LAB

    pieces = ["# Commands", "", "```text", said("--help"), "```"]
    for name in COMMANDS:
        pieces += ["", f"## muster {name}", "", "```text", said(name, "--help"), "```"]
        if name == "lab":
            for action in LAB:
                pieces += ["", f"### muster lab {action}", "", "```text", said("lab", action, "--help"), "```"]
    return "\n".join(pieces)


def options() -> str:
    """The options of `muster run`, with their keys in muster.toml and environment variables."""
    from muster.config.options import RUN
    from muster.config.torchrun import IGNORED_TORCHRUN_OPTIONS
    from muster.schedulers import described

    lines = [
        "# Options of `muster run` and `muster plan`",
        "",
        "Each option can be set in four places. The first that sets it wins:",
        "",
        "1. the command line; underscores are accepted for hyphens",
        "2. environment variables; of several, the first that is set. `PET_…` are the ones torchrun reads",
        "3. `[profile.NAME]` of muster.toml, if `--profile NAME` is given",
        "4. `[run]` of muster.toml",
        "",
        "For 3 and 4, the muster.toml of the project takes precedence over your own,",
        "`~/.config/muster/muster.toml`. The file of the project is searched for in the working directory and its",
        "parents, up to the root of the repository (`.git`) or your home directory. A muster.toml or `.venv` is",
        "ignored with a warning if another user owns it, or if others can write to it or to its directory.",
        "`MUSTER_TRUST=/proj/team:/opt/site` names directories whose files are trusted whoever owns them.",
    ]
    for group in dict.fromkeys(option.group for option in RUN if option.group):
        rows = [("option", "key in muster.toml", "environment variables", "description")]
        for option in RUN:
            if option.group == group:
                names = listed(option.names) + (f" {option.metavar}" if option.metavar else "")
                key = "" if option.key == "help" else code(option.key)
                rows.append((names, key, listed(option.variables), cell(described(option))))
        lines += ["", f"## {group}", "", table(*rows)]
    rows = [("option", "why it has no effect")]
    for option in RUN:
        if not option.group:
            names = listed(option.names)
            rows.append(
                (names, IGNORED_TORCHRUN_OPTIONS.get(option, "an error if it requests what muster does not support"))
            )
    lines += [
        "",
        "## Options of torchrun",
        "",
        "Accepted so that command lines for torchrun work; muster prints a note that they have no effect.",
    ]
    return "\n".join([*lines, "", table(*rows)])


_MEANINGS = {
    "RANK": "global rank",
    "LOCAL_RANK": "rank within the node; the index of the GPU to use",
    "GROUP_RANK": "rank of the node",
    "ROLE_RANK": "same as RANK",
    "WORLD_SIZE": "total number of ranks",
    "LOCAL_WORLD_SIZE": "number of ranks on the node",
    "GROUP_WORLD_SIZE": "number of nodes",
    "ROLE_WORLD_SIZE": "same as WORLD_SIZE",
    "ROLE_NAME": "`--role`",
    "TORCHELASTIC_ERROR_FILE": "file to which torch's `@record` writes the exception of the rank",
    "TORCHELASTIC_RUN_ID": "id of the run",
    "TORCHELASTIC_MAX_RESTARTS": "`--max-restarts`",
    "TORCHELASTIC_USE_AGENT_STORE": "`True` if ranks use muster's TCPStore; `False` if the launcher has its own",
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "`--signals-to-handle`, as torchrun sets it",
    "MASTER_ADDR": "rendezvous address: node 0",
    "MASTER_PORT": "rendezvous port, bound before any rank starts",
    "TORCHELASTIC_RESTART_COUNT": "number of the attempt, from 0",
    "SLURM_PROCID": "RANK",
    "SLURM_LOCALID": "LOCAL_RANK",
    "SLURM_NODEID": "GROUP_RANK",
    "SLURM_NTASKS": "WORLD_SIZE",
    "SLURM_NPROCS": "WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS": "WORLD_SIZE",
    "SLURM_STEP_NUM_NODES": "GROUP_WORLD_SIZE",
    "SLURM_NNODES": "GROUP_WORLD_SIZE",
    "SLURM_GTIDS": "RANK of all ranks on the node: `0,1`",
    "SLURM_NTASKS_PER_NODE": "LOCAL_WORLD_SIZE, if it is the same on all nodes",
    "SLURM_TASKS_PER_NODE": "LOCAL_WORLD_SIZE of all nodes: `2(x3),1`",
    "SLURM_STEP_TASKS_PER_NODE": "SLURM_TASKS_PER_NODE",
    "SLURM_STEP_NODELIST": "nodes of the run: `n[1-4]`",
    "SLURM_DISTRIBUTION": "`block`: ranks fill one node after the other",
    "SLURM_CPUS_PER_TASK": "cores of the node divided by its ranks, if the job requested cores per task",
}


_OF_SWEEPS = {
    "MUSTER_POINT": "the number of the point",
    "MUSTER_POINTS": "the number of points",
    "MUSTER_POINT_VALUES": 'the value of each parameter as JSON: `{"lr": "0.1", "seed": "3"}`',
    "MUSTER_PART": "the number of the part of a chain",
    "MUSTER_PARTS": "the number of parts",
}


def variables() -> str:
    """The environment variables of a rank."""
    from muster.agent.rank_info import _DIALECTS
    from muster.core.env_forwarding import LOCAL_ONLY, NAMES, PREFIXES
    from muster.core.layout import layout
    from muster.core.model import Host, Job, Late, Program
    from muster.core.rank_env import of_ranks
    from muster.schedulers.slurm_env import environment_of_node, environment_of_rank

    nodes = layout([(Host("n1", cpus_of_tasks=1), 1)])
    (found,) = of_ranks(Job(Program("script", ("train.py",)), "fork", "python", "", "/"), nodes, "")
    ours = [*found.ranks[0], *found.env]
    of_slurm = [*environment_of_rank(nodes[0].ranks[0]), *environment_of_node(nodes[0], nodes, "1")]
    dialects = [("launcher", "rank", "world size", "local rank", "local world size", "node rank")]
    for row in _DIALECTS:
        several = (row.local_rank, row.local_size, row.node_rank)
        dialects.append((row.launcher, code(row.rank), code(row.size), *(listed(names) for names in several)))
    return f"""# Environment variables

## Environment of a rank

The same under every launcher, with the names that torchrun uses.

{table(("variable", "value"), *((code(name), _MEANINGS[name]) for name in ours))}

`muster plan --json` prints everything that is set for each rank: `env`; `defaults`, used if the environment of the node
does not set them; `unset`, patterns of inherited variables that are removed; and `restored`, patterns of variables
that are reset to their value on the node. `inherited` is the environment that ranks on this machine inherit. Values
that become known only later are objects such as `{{"late": "MASTER_PORT"}}`:

{table(("late value", "meaning"), *((code(late.key), late.says) for late in Late))}

If you have not set them, muster also sets `OMP_NUM_THREADS` (cores of the node divided by its ranks),
`TORCH_NCCL_ASYNC_ERROR_HANDLING=1` and `GLOO_SOCKET_IFNAME` (`lo` on one machine, otherwise the interface to the other
nodes).

With `--slurm`, ranks also get the variables that `srun` sets if it starts one task per rank, under every launcher:

{table(("variable", "same as"), *((code(name), _MEANINGS[name]) for name in of_slurm))}

Ranks of a run with [several programs](../roles.md) also get `MUSTER_ROLES`, and `ROLE_NAME` is the name of their role.

Ranks of a [sweep or chain](../sweeps.md) also get:

{table(("variable", "value"), *((code(name), says) for name, says in _OF_SWEEPS.items()))}

## Variables forwarded to other hosts

{listed([f"{prefix}…" for prefix in PREFIXES])}; and {listed(NAMES)}. Never {listed(LOCAL_ONLY)}, which
describe this machine. Add others with `--env`; see [several machines](../hosts.md#environment-variables).

## Detecting the rank under any launcher

`muster.detect_rank()` reads these variables and uses the first row that is set. It does not import torch.

{table(*dialects)}"""


def launchers() -> str:
    """The page of the launchers and where each works."""
    from muster.launchers import LAUNCHERS
    from muster.schedulers import SCHEDULERS
    from muster.transports import TRANSPORTS

    places = ("local", "ssh", *SCHEDULERS)
    rows = [("launcher", "description", "requires", *(f"with `{place}`" for place in places))]
    assert set(TRANSPORTS) == {"local", "ssh", "step"}, "a new transport needs a column in this table"
    for name, launcher in LAUNCHERS.items():
        wants = launcher.package or launcher.program
        rows.append(
            (
                code(name),
                launcher.says,
                code(wants),
                *("yes" if place in launcher.places else "refused" for place in places),
            )
        )
    return f"""# Launchers and transports

*Refused* means that the launcher does not work there. How long each takes: [benchmarks](../benchmarks.md).

{table(*rows)}

See [launchers](../launchers.md) for what each one is for, and [adding a launcher](../adding-a-launcher.md)."""


def checks() -> str:
    """The page of the checks of the doctor."""
    found = import_module("muster.diagnostics.checks").CHECKS
    rows = [("check", "also before each run")]
    rows += [(check.name, "yes" if check.cheap else "") for check in found]
    return f"""# Checks of the doctor

`muster doctor` runs these checks on all hosts; [the doctor](../doctor.md) describes what each one tests. The cheap ones
also run before each `muster run`, which warns about what would make the run fail.

{table(*rows)}"""


def protocol() -> str:
    """The page of the messages between the processes of a run."""
    from muster.protocol.frames import OLDEST, VERSION
    from muster.protocol.messages import CLIENT_LEG, FORMER, LEGS, MESSAGES

    pieces = [
        f"""# Protocol

The messages that the processes of a run send each other, protocol version {VERSION}. A message is one frame: the length
of a JSON object and the length of the payload (4 bytes each, big-endian), the object, the payload. The object has a
`kind` and the fields below.

- A message of an unknown kind is skipped and noted once: by an agent in agent.log, by a controller in events.jsonl.
- A message whose fields do not match those below closes its connection; additional fields are ignored.
- A command first asks for the version of the controller of a run, because the controller runs from the files of the run
  and does not change when muster is upgraded. Commands support versions {OLDEST} to {VERSION}; if a controller lacks
  what they need, they report it. If a version knows a kind under another name, they use that name.

`MUSTER_TRACE=1` prints one line for each message: to stderr if that is a terminal, otherwise to `trace.log` in the run
directory (the agent of a node: in the directory of the node). Set it where you start the run; a command such as
`muster attach` that has it prints its own messages. Secrets, arguments and the values of environment variables are not
printed: `{{2}}` is an object with two entries, `[2]` a list, `…` something that may be secret.

```text
07:31:02.123 controller > agent n1: start_ranks attempt=0 late={{3}}
07:31:02.127 agent n1 > controller: ranks_started attempt=0 pids={{2}}
```"""
    ]
    for leg, says in LEGS.items():
        pieces.append(f"## {leg[0].upper()}{leg[1:]}\n\n{says}")
        for ends in dict.fromkeys((item.sender, item.receiver) for item in MESSAGES if item.leg == leg):
            rows = [("kind", "fields", "purpose")]
            for message in MESSAGES:
                if (message.leg, message.sender, message.receiver) == (leg, *ends):
                    fields = [
                        f"{code(name)}{'' if type_.required else '?'}: {type_.name}"
                        for name, type_ in message.fields.items()
                    ]
                    fields += [f"bytes: {message.payload}"] if message.payload else []
                    since = f" Since version {message.since}" if message.since > OLDEST else ""
                    if since and leg == CLIENT_LEG and message.kind in FORMER:
                        since += f", before that `{FORMER[message.kind]}`"
                    since += "." if since else ""
                    rows.append((code(message.kind), "<br>".join(fields), message.says + since))
            pieces.append(f"### From {ends[0]} to {ends[1]}\n\n{table(*rows)}")
    return "\n\n".join([*pieces, "A field with `?` is optional."])


def pages() -> dict[str, str]:
    """All pages, by file name without `.md`."""
    found = {"commands": commands(), "options": options(), "variables": variables(), "launchers": launchers()}
    if find_spec("muster.diagnostics.checks"):
        found["checks"] = checks()
    found["protocol"] = protocol()
    titles = {name: re.match("# (.*)", text) for name, text in found.items()}
    links = [f"- [{title[1]}]({name}.md)" for name, title in titles.items() if title]
    more = [
        "- [Exit codes](../exit-status.md)",
        "- [Measured times of launchers](../benchmarks.md#every-launcher-at-every-place)",
    ]
    found["index"] = "\n".join(
        ["# Reference", "", "Generated from the code by `tools/reference.py`.", "", *links, *more]
    )
    return {f"{name}.md": f"{text}\n" for name, text in found.items()}


LINT = ROOT / "docs" / "lint.md"
_BEGIN, _END = "<!-- the rules: written by tools/reference.py -->", "<!-- end of the rules -->"


def lint_rules(text: str) -> str:
    """The page of `muster lint` with its rules as they are now."""
    from muster.lint.output import explained
    from muster.lint.table import RULES

    kinds = {
        "script": "Shell and batch scripts",
        "python": "Python scripts",
        "config": "Configurations of accelerate and DeepSpeed",
        "hostfile": "Host files",
    }
    pieces = []
    for kind, title in kinds.items():
        rules = [rule for rule in RULES.values() if rule.kind == kind]
        if rules:
            rows = [
                (f"[{rule.name}](#{rule.name})", rule.level, cell(rule.says), "yes" if rule.fixed else "")
                for rule in rules
            ]
            pieces += [f"## {title}", table(("rule", "level", "what it finds", "`--fix`"), *rows)]
            pieces += [explained(rule.name) for rule in rules]
    before, _, rest = text.partition(_BEGIN)
    return "\n\n".join([f"{before}{_BEGIN}", *pieces, f"{_END}{rest.partition(_END)[2]}"])


def main() -> None:
    """Write all pages, and delete pages that are no longer generated."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    LINT.write_text(lint_rules(LINT.read_text()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
