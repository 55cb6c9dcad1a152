"""Write docs/reference/ out of the tables of the code, as `make docs` does. A test says when it is out of date."""

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
    """What muster prints when these are typed."""
    from muster.cli import call

    out = io.StringIO()
    with redirect_stdout(out):
        call(words, {}, 0.0)
    return out.getvalue().rstrip()


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|")


def table(*rows: tuple[str, ...]) -> str:
    """A table of Markdown; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))


def code(text: str) -> str:
    """A name, as code; nothing for nothing."""
    return f"`{text}`" if text else ""


def listed(names: Iterable[str]) -> str:
    """Names, as code, in a sentence."""
    return ", ".join(map(code, names))


def commands() -> str:
    """The help of each command."""
    from muster.cli.commands import COMMANDS
    from muster.config.options import LAB

    pieces = ["# Command line", "", "```text", said("--help"), "```"]
    for name in COMMANDS:
        pieces += ["", f"## muster {name}", "", "```text", said(name, "--help"), "```"]
        if name == "lab":
            for action in LAB:
                pieces += ["", f"### muster lab {action}", "", "```text", said("lab", action, "--help"), "```"]
    return "\n".join(pieces)


def options() -> str:
    """The options of `muster run`, with their keys and variables."""
    from muster.config.options import RUN
    from muster.config.torchrun import IGNORED_TORCHRUN_OPTIONS

    lines = [
        "# Options of `muster run` and `muster plan`",
        "",
        "What is typed comes first, then variables, then `[profile.NAME]` and `[run]` of muster.toml: of the project",
        "(the folder or one above it) before that of the person (`~/.config/muster/muster.toml`). Hyphens may be",
        "underscores. Of the variables the first that is set counts; the others are what torchrun reads.",
        "",
        "The project's file is looked for in the working directory and above it, up to the first repository",
        "(`.git`) or your home. A muster.toml or a `.venv` that another user owns, or to which others may write,",
        "is ignored, and muster says so; the same holds where they may write to its directory.",
        "`MUSTER_TRUST=/proj/team:/opt/site` names directories whose files are taken whoever owns them.",
    ]
    for group in dict.fromkeys(option.group for option in RUN if option.group):
        rows = [("option", "key", "variables", "what it does")]
        for option in RUN:
            if option.group == group:
                names = listed(option.names) + (f" {option.metavar}" if option.metavar else "")
                key = "" if option.key == "help" else code(option.key)
                rows.append((names, key, listed(option.variables), cell(option.says)))
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", table(*rows)]
    rows = [("option", "what comes of it")]
    for option in RUN:
        if not option.group:
            names = listed(option.names)
            rows.append(
                (names, IGNORED_TORCHRUN_OPTIONS.get(option, "refused, where it asks for what muster does not do"))
            )
    lines += [
        "",
        "## Options of torchrun",
        "",
        "Taken, so that a line for torchrun works. With a note why they change nothing:",
    ]
    return "\n".join([*lines, "", table(*rows)])


_MEANINGS = {
    "RANK": "its number among all ranks",
    "LOCAL_RANK": "its number on its node: the GPU that it should use",
    "GROUP_RANK": "the number of its node",
    "ROLE_RANK": "the same as RANK",
    "WORLD_SIZE": "how many ranks there are",
    "LOCAL_WORLD_SIZE": "how many of them are on its node",
    "GROUP_WORLD_SIZE": "how many nodes there are",
    "ROLE_WORLD_SIZE": "the same as WORLD_SIZE",
    "ROLE_NAME": "`default`",
    "TORCHELASTIC_ERROR_FILE": "the file in which torch's `@record` leaves the rank's exception",
    "TORCHELASTIC_RUN_ID": "the id of the run",
    "TORCHELASTIC_MAX_RESTARTS": "`--max-restarts`",
    "TORCHELASTIC_USE_AGENT_STORE": "`True` where the ranks meet at muster's store; `False` where the launcher has one",
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "as torchrun sets it",
    "MASTER_ADDR": "where the ranks meet: node 0",
    "MASTER_PORT": "the port there, bound before any rank starts",
    "TORCHELASTIC_RESTART_COUNT": "the number of the attempt, from 0",
    "SLURM_PROCID": "RANK",
    "SLURM_LOCALID": "LOCAL_RANK",
    "SLURM_NODEID": "GROUP_RANK",
    "SLURM_NTASKS": "WORLD_SIZE",
    "SLURM_NPROCS": "WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS": "WORLD_SIZE",
    "SLURM_STEP_NUM_NODES": "GROUP_WORLD_SIZE",
    "SLURM_NNODES": "GROUP_WORLD_SIZE",
    "SLURM_GTIDS": "RANK of all ranks of its node: `0,1`",
    "SLURM_NTASKS_PER_NODE": "LOCAL_WORLD_SIZE, where all nodes have equally many ranks",
    "SLURM_TASKS_PER_NODE": "LOCAL_WORLD_SIZE of all nodes: `2(x3),1`",
    "SLURM_STEP_TASKS_PER_NODE": "SLURM_TASKS_PER_NODE",
    "SLURM_STEP_NODELIST": "the nodes of the run: `n[1-4]`",
    "SLURM_DISTRIBUTION": "`block`: ranks fill one node after the other",
    "SLURM_CPUS_PER_TASK": "the cores of its node over its ranks, where the job was asked for by cores of a task",
}


def variables() -> str:
    """The variables that a rank finds."""
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
    dialects = [("whoever started it", "rank", "number of ranks", "local rank", "ranks of the node", "node")]
    for row in _DIALECTS:
        several = (row.local_rank, row.local_size, row.node_rank)
        dialects.append((row.launcher, code(row.rank), code(row.size), *(listed(names) for names in several)))
    return f"""# Rank variables

## What a rank finds

Under each launcher, by the names that torchrun gives them.

{table(("variable", "what it is"), *((code(name), _MEANINGS[name]) for name in ours))}

`muster plan --json` has all that is set for each rank: `env`; `defaults`, for what it does not inherit; `unset` and
`restored`, patterns of inherited variables that are removed, and of those that it gets as its node has them.
`inherited` is what a rank on this machine inherits. Values that are known only later are objects, such as
`{{"late": "MASTER_PORT"}}`:

{table(("value", "what it is"), *((code(late.key), late.says) for late in Late))}

Where the person set none: `OMP_NUM_THREADS` (the cores of the node over its ranks),
`TORCH_NCCL_ASYNC_ERROR_HANDLING=1`, and `GLOO_SOCKET_IFNAME` (`lo` on one machine; on several the interface that leads
to the others).

With `--slurm`, what `srun` would tell them, had it started one task a rank, whatever the launcher:

{table(("variable", "the same as"), *((code(name), _MEANINGS[name]) for name in of_slurm))}

## What goes along to other machines

{listed([f"{prefix}…" for prefix in PREFIXES])}; and {listed(NAMES)}. Not {listed(LOCAL_ONLY)}, which are
about this machine. Others by `--env`; see [several machines](../hosts.md).

## Who am I, under anything

`muster.detect_rank()` reads these, the first row that fits. It imports no torch.

{table(*dialects)}"""


def launchers() -> str:
    """Launchers, and the places at which they work, with the times of the last matrix."""
    from muster.launchers import LAUNCHERS
    from muster.schedulers import SCHEDULERS
    from muster.transports import TRANSPORTS

    matrix = {}
    for line in (ROOT / "docs" / "matrix.md").read_text().splitlines():
        if line.startswith("| `"):
            name, *times = (piece.strip() for piece in line.strip("|").split("|"))
            matrix[name.strip("`")] = times
    rows = [("launcher", "what it does", "wants", *(f"at `{place}`" for place in ("local", "ssh", *SCHEDULERS)))]
    assert set(TRANSPORTS) == {"local", "ssh", "step"}, "a new transport wants a column of the matrix"
    for name, launcher in LAUNCHERS.items():
        wants = launcher.package or launcher.program
        rows.append((code(name), launcher.says, code(wants), *matrix.get(name, ("?", "?", "?"))))
    return f"""# Launchers and places

The times are those of [the last matrix](../matrix.md): two ranks on each of two nodes of the lab, from the command to
its end.

{table(*rows)}

[What each launcher is for](../launchers.md); [adding one of your own](../adding-a-launcher.md)."""


def checks() -> str:
    """What the doctor looks at."""
    found = import_module("muster.diagnostics.checks").CHECKS
    rows = [("check", "before each run too")]
    rows += [(check.name, "yes" if check.cheap else "") for check in found]
    return f"""# Checks of the doctor

`muster doctor` looks at these on all machines; [the doctor](../doctor.md) says what is tried. Those that cost nothing
are looked at before each run, too, and what would end it is told.

{table(*rows)}"""


def protocol() -> str:
    """The messages between the processes of a run."""
    from muster.protocol.frames import OLDEST, VERSION
    from muster.protocol.messages import CLIENT_LEG, FORMER, LEGS, MESSAGES

    pieces = [
        f"""# Protocol

What the processes of a run say to each other, version {VERSION}. A message is one frame: the length of a JSON object
and that of the bytes beside it (4 bytes each, big-endian), the object, the bytes. The object has a `kind` and the
fields below.

- A message of an unknown kind is skipped, and noted once: by an agent in agent.log, by a controller in events.jsonl.
- A message whose fields are not those below closes its connection; fields beside them are ignored.
- A command first learns which version the controller of a run speaks, since that runs from the files of the run
  and stays what it was when muster is upgraded. Commands speak to versions {OLDEST} to {VERSION}; where a controller
  lacks what they need, they say so. To a version that knows a kind under another name they use that name.

`MUSTER_TRACE=1` prints the conversation, a line for each message: to stderr if that is a terminal, otherwise to
`trace.log` in the run directory (the agent of a node: in the directory of the node). Set it where the run is started; a
command such as `muster attach` that has it prints its own part. Secrets, arguments and the values of environment
variables are not printed: `{{2}}` stands for an object of two entries, `[2]` for a list, `…` for what may be secret.

```text
07:31:02.123 controller > agent n1: start_ranks attempt=0 late={{3}}
07:31:02.127 agent n1 > controller: ranks_started attempt=0 pids={{2}}
```"""
    ]
    for leg, says in LEGS.items():
        pieces.append(f"## {leg[0].upper()}{leg[1:]}\n\n{says}")
        for ends in dict.fromkeys((item.sender, item.receiver) for item in MESSAGES if item.leg == leg):
            rows = [("kind", "fields", "what it is for")]
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
    return "\n\n".join([*pieces, "A field with `?` may be left out."])


def pages() -> dict[str, str]:
    """All pages, by the names of their files."""
    found = {"commands": commands(), "options": options(), "variables": variables(), "launchers": launchers()}
    if find_spec("muster.diagnostics.checks"):
        found["checks"] = checks()
    found["protocol"] = protocol()
    titles = {name: re.match("# (.*)", text) for name, text in found.items()}
    links = [f"- [{title[1]}]({name}.md)" for name, title in titles.items() if title]
    more = ["- [Exit statuses](../exit-status.md)", "- [The last matrix](../matrix.md)"]
    found["index"] = "\n".join(
        ["# Reference", "", "Written by `tools/reference.py` out of the code.", "", *links, *more]
    )
    return {f"{name}.md": f"{text}\n" for name, text in found.items()}


def main() -> None:
    """Write them, and delete what is none of them any more."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
