"""The layers: left never imports right. Read from the source, so an import inside a function counts too.

`LAYERS` is the table of them, from which `docs/design.md` has its line. `agent` imports the standard library and
itself.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

SRC = Path(__file__).parents[2] / "src"

LAYERS = (
    ("model", "results", "errors", "printable", "plurals", "fold", "agent", "onranks"),
    ("stored",),
    ("core",),
    ("ranks", "nearest"),
    ("hosts", "environ", "archive", "values", "record"),
    ("schedulers", "runtimes"),
    ("rank_env",),
    ("launchers",),
    ("advice", "supervise"),
    ("sentences",),
    ("places", "options", "report", "checkup", "lab"),
    ("soundness", "parsing"),
    ("homes",),
    ("runs",),
    ("world",),
    ("client",),
    ("job",),
    ("inside",),
    ("runner",),
    ("api",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Each imports only what stands above it, and its own package."""

CORE = (
    "core",
    "model",
    "results",
    "fold",
    "stored",
    "errors",
    "ranks",
    "nearest",
    "hosts",
    "environ",
    "rank_env",
    "launchers",
    "schedulers",
    "runtimes",
    "places",
    "supervise",
    "sentences",
    "advice",
    "report",
    "values",
    "record",
    "options",
    "parsing",
    "checkup",
    "soundness",
)
"""They decide, and touch nothing."""

WORLDLY = {"subprocess", "selectors", "signal", "socket", "time", "os", "pathlib"}
"""What touches processes, files and clocks."""

TOUCHES = {
    "world": WORLDLY,
    "client": WORLDLY,
    "inside": WORLDLY,
    "lab": WORLDLY,
    "agent": WORLDLY,
    "runner": {"os", "pathlib", "subprocess", "time"},
    "api": {"os", "time"},
    "commands": {"time", "os", "pathlib"},
    "cli": {"time", "os"},
    # these three are about paths, and start no process and ask no clock
    "homes": {"os", "pathlib"},
    "runs": {"os", "pathlib"},
    "archive": {"pathlib"},
    "onranks": {"os", "socket", "time"},
    "job": {"os", "pathlib"},
}
"""Who may import which of them."""


class Import(NamedTuple):
    """One import statement, and where it stands."""

    module: str
    """The module of ours that imports, without `muster.`."""
    line: int
    what: str
    """The full name of what is imported."""
    for_types: bool
    """Only a type checker sees it (`if TYPE_CHECKING:`)."""

    @property
    def where(self) -> str:
        return f"src/muster/{self.module.replace('.', '/')}.py:{self.line} imports {self.what}"

    @property
    def ours(self) -> str:
        """What it imports of ours, without `muster.`; empty for others."""
        return self.what[7:] if self.what.startswith("muster.") else ""


def layer(module: str) -> str:
    return module.partition(".")[0]


def read(path: Path) -> list[Import]:
    """The imports of one file; `from package import module` names the module."""
    module = ".".join(path.relative_to(SRC / "muster").with_suffix("").parts)
    module = module.removesuffix(".__init__")
    found, tree = [], ast.parse(path.read_text(), str(path))
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {inner for node in unseen for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(module, node.lineno, alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inner = SRC.joinpath(*whole.split("."))
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                found.append(Import(module, node.lineno, whole if is_module else str(node.module), node in for_types))
    return found


IMPORTS = [item for path in sorted((SRC / "muster").rglob("*.py")) for item in read(path)]


def wrong(broken: list[Import]) -> str:
    return "\n".join(item.where for item in broken)


def test_every_module_has_its_layer() -> None:
    """A new one must be given a place in the table."""
    known = {name for names in LAYERS for name in names}
    assert {layer(item.module) for item in IMPORTS} - {"__init__"} <= known
    assert len(IMPORTS) > 100


def test_left_never_imports_right() -> None:
    """Only what stands above; nobody imports `cli` but `__main__`, nobody `commands` but `cli`."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    broken = [
        item
        for item in IMPORTS
        if item.ours and layer(item.ours) != layer(item.module) and level[layer(item.ours)] >= level[layer(item.module)]
    ]
    assert not broken, wrong(broken)


def test_the_docs_name_these_layers() -> None:
    """The line in docs/design.md is this table; put there what this test expects."""
    line = " ← ".join(", ".join(names) for names in LAYERS if names != ("__main__",))
    text = (SRC.parent / "docs" / "design.md").read_text()
    told = " ".join(text.partition("## The layers")[2].partition("`. Left")[0].split()).lstrip("`")
    assert line == told


def test_the_nouns_and_the_errors_know_nothing() -> None:
    """Nothing of ours."""
    broken = [item for item in IMPORTS if layer(item.module) in ("model", "results", "errors") and item.ours]
    assert not broken, wrong(broken)


def test_the_core_touches_nothing() -> None:
    """No process, socket, signal, file or clock."""
    broken = [item for item in IMPORTS if layer(item.module) in CORE and layer(item.what) in WORLDLY]
    assert not broken, wrong(broken)


def test_only_the_edge_touches_the_world() -> None:
    """Each module only what the table allows it."""
    broken = [
        item
        for item in IMPORTS
        if layer(item.what) in WORLDLY and layer(item.what) not in TOUCHES.get(layer(item.module), ())
    ]
    assert not broken, wrong(broken)


def test_the_agent_stands_alone() -> None:
    """The standard library and itself: its source is sent to nodes where nothing is installed.

    `hook` may look for torch, in a process of the ranks.
    """
    allowed = set(sys.stdlib_module_names)
    broken = [
        item
        for item in IMPORTS
        if layer(item.module) == "agent"
        and layer(item.ours) != "agent"
        and layer(item.what) not in allowed
        and not (item.module == "agent.hook" and layer(item.what) == "torch")
    ]
    assert not broken, wrong(broken)


def test_the_agent_is_sent_whole() -> None:
    """Each of its modules imports only those that are sent too."""
    from muster.agent.boot import _MODULES, _OF_CALLS

    for modules in (_MODULES, _OF_CALLS):
        sent = {f"agent.{name}" for name in modules}
        mine = [item for item in IMPORTS if item.module in sent and not item.for_types]
        assert set() == {item.ours for item in mine if "." in item.ours} - sent


def test_launchers_do_not_know_each_other() -> None:
    """Only what they share, `common` and `foreign`; the table in `launchers/__init__.py` names them all."""
    broken = [
        item
        for item in IMPORTS
        if item.module.startswith("launchers.")
        and item.ours.startswith("launchers")
        and item.ours not in ("launchers.common", "launchers.foreign")
    ]
    assert not broken, wrong(broken)


def test_torch_is_imported_by_the_hook_alone() -> None:
    """muster itself never imports it; what stands in `onranks` is text to it."""
    heavy = {"torch", "numpy", "transformers", "ray"}
    broken = [
        item
        for item in IMPORTS
        if layer(item.what) in heavy and item.module != "agent.hook" and layer(item.module) != "onranks"
    ]
    assert not broken, wrong(broken)


def cycles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """The groups of modules each of which imports, over others, all of its group."""
    reached = {name: {name} for name in imports}
    for name, seen in reached.items():
        waiting = [name]
        while waiting:
            for other in imports.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
    groups = {frozenset(other for other in seen if name in reached.get(other, ())) for name, seen in reached.items()}
    return {group for group in groups if len(group) > 1}


def test_cycles_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"f"}, "f": {"e"}, "g": {"a"}}
    assert {frozenset("bc"), frozenset("ef")} == cycles(imports)


def test_no_modules_import_each_other() -> None:
    """Imports for types and inside functions count: who cannot be understood alone cannot be tested alone."""
    imports: dict[str, set[str]] = {}
    for item in IMPORTS:
        imports.setdefault(item.module, set())
        if item.ours and item.ours != item.module:
            imports[item.module].add(item.ours)
    assert [] == [sorted(group) for group in cycles(imports)]
