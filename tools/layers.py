"""The parts of muster and their layers: the one table of them. As a program it writes the map into docs/design.md.

`tests/unit/test_layers.py` checks the imports of the source against this table, and that the page is up to date.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
PAGE = ROOT / "docs" / "design.md"

WORLDLY = frozenset({"subprocess", "selectors", "signal", "socket", "time", "os", "pathlib"})
"""What touches processes, files and clocks."""
_PATHS = frozenset({"os", "pathlib"})
_CLOCK = frozenset({"os", "pathlib", "time"})
_TERMINAL = _CLOCK | {"signal"}
_NOTHING: frozenset[str] = frozenset()


class Part(NamedTuple):
    """A folder, or a module that has a layer of its own."""

    name: str
    says: str
    touches: frozenset[str] = _NOTHING
    """Which of the worldly modules it may import."""


LAYERS: tuple[tuple[Part, ...], ...] = (
    (
        Part("errors", "the exceptions, each with an exit status and a hint"),
        Part("linux", "the kernel as muster needs it; standard library, sent to nodes", WORLDLY),
        Part("payloads", "scripts that ranks run for muster; but for `pickles`, muster sees them as text", WORLDLY),
    ),
    (
        Part("core", "values and decisions; pure"),
        Part("protocol", "what travels between processes; standard library, sent to nodes", WORLDLY),
    ),
    (
        Part("lint.bash", "asks bash whether it can parse a script", frozenset({"os", "subprocess"})),
        Part("config.values", "how the value of an option is read; pure"),
        Part("config.record", "what an option is, and the frozen record of a command's options; pure"),
    ),
    (Part("agent", "what runs on a node; standard library, sent to nodes", WORLDLY),),
    (
        Part("schedulers", "who gives machines: one file and one record each; pure"),
        Part("runtimes", "in what ranks run: one function and one row each; pure"),
    ),
    (Part("core.rank_env", "every variable that a rank gets; it asks the scheduler for its own"),),
    (Part("core.rendezvous", "an address that all nodes reach, and the variables that follow from it"),),
    (
        Part("launchers", "how ranks start: one file and one row each; pure"),
        Part("transports", "how a command gets onto a host: one file and one row each; pure"),
        Part("diagnostics", "what failures and machines tell, and what to do; pure"),
        Part("lint", "launch scripts and configurations: a model of them, and what is wrong in them; pure"),
    ),
    (
        Part("bundle", "muster as one file, which stays with a run", frozenset({"pathlib", "os"})),
        Part("config", "from argv, environment and muster.toml to options", WORLDLY),
        Part("rundir", "the run directory", WORLDLY),
    ),
    (Part("ui", "what is shown: values in, text out", WORLDLY),),
    (
        Part("report", "a run as one page of HTML: what was recorded, and the page made of it", _CLOCK),
        Part("export", "a run as scripts that need no muster: one file and one row each; pure"),
        Part("code_sync", "the code of a run: which files it is, a snapshot of it, sending it to hosts", WORLDLY),
        Part("environments", "the Python environment of a run: its files, and the stream of them to hosts", WORLDLY),
        Part("notification", "the command that tells somebody of the end of a run", WORLDLY),
        Part("diagnostics.selftest", "what `muster check` makes of its ranks' reports; pure"),
        Part("schedulers.client", "asks the scheduler, with care: no answer means nothing", WORLDLY),
    ),
    (Part("adopt", "from launch scripts to command lines of muster; pure"),),
    (Part("config.resolve", "from options to a job", WORLDLY),),
    (Part("config.nodes", "from the hosts of a job to its nodes and ranks", WORLDLY),),
    (Part("config.roles", "from the command lines of several roles to what they request; pure"),),
    (Part("controller", "the process that supervises a run", WORLDLY),),
    (Part("client", "a run seen from another process", WORLDLY),),
    (Part("runner", "from a job to a run", WORLDLY),),
    (Part("api", "the library: start, watch and stop runs; prints nothing", _CLOCK),),
    (Part("sweep_driver", "runs the points of a sweep from this process", _CLOCK),),
    (Part("python", "the public Python API: `muster.run` and the rest that `muster` itself names", WORLDLY),),
    (Part("lab", "the practice cluster; only `errors`, `core`, `linux` and itself", WORLDLY),),
    (Part("cli", "the command line: words in, exit status out", _TERMINAL),),
    (Part("__main__", "`python -m muster`"),),
)
"""Each imports only what stands above it, and itself."""

PARTS = {part.name: part for parts in LAYERS for part in parts}
LEVELS = {part.name: number for number, parts in enumerate(LAYERS) for part in parts}
SENT = ("linux", "protocol", "agent")
"""What is sent to nodes, where nothing is installed."""
SENT_RECORDS = ("core.inspection", "core.results")
"""Modules of records that are sent too: agents make these values."""


def part_of(module: str) -> str:
    """The part to which a module belongs, by the longest name; empty when the table has none."""
    while module and module not in PARTS:
        module = module.rpartition(".")[0]
    return module


def modules() -> dict[str, Path]:
    """The modules of muster, without `muster.`."""
    found = {}
    for path in sorted((SRC / "muster").rglob("*.py")):
        name = ".".join(path.relative_to(SRC / "muster").with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    del found["__init__"]
    return found


def _first_sentence(path: Path) -> str:
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return re.sub(r"\|", "\\|", text)


def line() -> str:
    """The layers, in one line."""
    return " ← ".join(", ".join(part.name for part in parts) for parts in LAYERS if parts[0].name != "__main__")


def page() -> str:
    """What stands between the marks in docs/design.md."""
    out = [f"`{line()}`.", "", "Left never imports right.", ""]
    there = modules()
    for parts in LAYERS:
        for part in parts:
            mine = [name for name in there if part_of(name) == part.name and name != part.name]
            if part.name not in there and not mine:
                continue
            name = part.name.replace(".", "/")
            folder = part.name in there and there[part.name].name == "__init__.py"
            out.append(f"- **`{name}/`**: {part.says}" if folder else f"- **`{name}.py`**: {part.says}")
            for module in mine:
                if there[module].stat().st_size:
                    short = module.removeprefix(part.name + ".").replace(".", "/")
                    out.append(f"    - `{short}`: {_first_sentence(there[module])}")
    return "\n".join(out)


BEGIN, END = "<!-- the map: written by tools/layers.py -->", "<!-- end of the map -->"


def written(text: str) -> str:
    """The page with the map as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{page()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
