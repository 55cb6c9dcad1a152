"""The layers: left never imports right.

Read from the source, so an import inside a function counts too. `LAYERS` of `tools/layers.py` is the table, from which
`docs/design.md` has its map.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
sys.path.insert(0, str(ROOT / "tools"))

import layers  # noqa: E402
from layers import LEVELS, PARTS, SENT, SENT_RECORDS, WORLDLY, part_of  # noqa: E402

PURE = {name for name, part in PARTS.items() if not part.touches}
"""Modules that decide, and have no side effects."""


class Import(NamedTuple):
    """One import statement, and its place."""

    module: str
    """The importing module, without `muster.`."""
    line: int
    what: str
    """The full name of the imported module or object."""
    for_types: bool
    """True if only a type checker sees it (`if TYPE_CHECKING:`)."""

    @property
    def where(self) -> str:
        return f"src/muster/{self.module.replace('.', '/')}.py:{self.line} imports {self.what}"

    @property
    def ours(self) -> str:
        """The imported module of muster, without `muster.`; empty for others."""
        return self.what[7:] if self.what.startswith("muster.") else ""


def top(module: str) -> str:
    return module.partition(".")[0]


def read(module: str, path: Path) -> list[Import]:
    """Return the imports of one file; `from package import module` names the module."""
    found, tree = [], ast.parse(path.read_text(), str(path))
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {inner for node in unseen for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(module, node.lineno, alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # on a host, the site hook is a package of another name
            of_hook = module.startswith("agent.hook.") and node.level == 1
            assert node.level == 0 or of_hook, f"{path}:{node.lineno}: imports are absolute here"
            base = f"muster.agent.hook.{node.module}" if of_hook else str(node.module)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                inner = SRC.joinpath(*whole.split("."))
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                found.append(Import(module, node.lineno, whole if is_module else base, node in for_types))
    return found


IMPORTS = [item for module, path in layers.modules().items() for item in read(module, path)]


def wrong(broken: list[Import]) -> str:
    return "\n".join(item.where for item in broken)


def test_every_module_has_its_layer() -> None:
    """A new module needs an entry in the table."""
    assert [] == [name for name in layers.modules() if not part_of(name)]
    assert len(IMPORTS) > 100


def test_left_never_imports_right() -> None:
    """Only modules to the left; only `__main__` imports `cli`."""
    broken = [
        item
        for item in IMPORTS
        if item.ours
        and part_of(item.ours) != part_of(item.module)
        and LEVELS[part_of(item.ours)] >= LEVELS[part_of(item.module)]
    ]
    assert not broken, wrong(broken)


def test_the_docs_have_this_map() -> None:
    """docs/design.md has its map from the table and from the module docstrings; `make docs` writes it."""
    text = layers.PAGE.read_text(encoding="utf-8")
    assert layers.written(text) == text, "make docs, and commit docs/design.md"


def test_the_errors_import_nothing() -> None:
    """It imports nothing of muster, not even `core.model` and `core.results`."""
    broken = [item for item in IMPORTS if item.module in ("core.model", "core.results", "errors") and item.ours]
    assert not broken, wrong(broken)


def test_the_pure_parts_touch_nothing() -> None:
    """No process, socket, signal, file or clock; modules with side effects have only those that the table allows."""
    assert len(PURE) > 5
    broken = [
        item
        for item in IMPORTS
        if top(item.what) in WORLDLY and top(item.what) not in PARTS[part_of(item.module)].touches
    ]
    assert not broken, wrong(broken)


def test_code_that_is_sent_to_nodes_stands_alone() -> None:
    """Only the standard library, itself and a few records: an agent's source is sent to nodes without muster.

    The site hook may look for torch, in a process of the ranks.
    """
    allowed = set(sys.stdlib_module_names)
    broken = [
        item
        for item in IMPORTS
        if top(item.module) in SENT
        and top(item.ours) not in SENT
        and item.ours not in SENT_RECORDS
        and top(item.what) not in allowed
        and not (part_of_hook(item.module) and top(item.what) == "torch")
    ]
    assert not broken, wrong(broken)


def test_the_lab_stands_beside_muster() -> None:
    """It is usable without muster, and independent of it."""
    broken = [
        item
        for item in IMPORTS
        if top(item.module) == "lab" and item.ours and top(item.ours) not in ("lab", "errors", "core", "linux")
    ]
    assert not broken, wrong(broken)


def test_the_agent_is_sent_whole() -> None:
    """All direct and indirect imports of its program; nothing that only a type checker sees."""
    from muster.agent.bootstrap import sources

    for program in ("from muster.agent.main import main", "from muster.agent.calls import main"):
        sent = sources(program)
        assert all(name in sent for name in ("muster", "muster.agent", "muster.protocol.paths"))
        mine = [item for item in IMPORTS if f"muster.{item.module}" in sent and not item.for_types]
        assert set() == {item.what for item in mine if item.ours} - set(sent)
        assert {name for name in sent if top(name[7:]) not in SENT} <= {
            *("muster", "muster.core"),
            *(f"muster.{name}" for name in SENT_RECORDS),
        }
    assert "muster.controller" not in sources("from muster.agent.join import join")


def part_of_hook(module: str) -> bool:
    return module.startswith("agent.hook.")


def test_the_site_hook_stands_alone() -> None:
    """It runs where nothing else of muster is, and all its modules are sent."""
    from muster.agent.bootstrap import HOOK_PARTS, hook_sources

    there = {name for name in layers.modules() if part_of_hook(name)}
    assert {"agent.hook.sitecustomize", *(f"agent.hook.{name}" for name in HOOK_PARTS)} == there
    assert len(hook_sources()) == len(there)
    broken = [item for item in IMPORTS if part_of_hook(item.module) and item.ours and not part_of_hook(item.ours)]
    assert not broken, wrong(broken)


def test_launchers_do_not_know_each_other() -> None:
    """Only the shared `_python` and `_external`; the table in `launchers/__init__.py` names them all."""
    broken = [
        item
        for item in IMPORTS
        if item.module.startswith("launchers.")
        and item.ours.startswith("launchers")
        and item.ours not in ("launchers._python", "launchers._external")
    ]
    assert not broken, wrong(broken)


def test_torch_is_imported_by_the_site_hook_alone() -> None:
    """muster itself never imports it; files in `payloads` are text to it, and `python.rank` is imported by scripts."""
    heavy = {"torch", "numpy", "transformers", "ray"}
    broken = [
        item
        for item in IMPORTS
        if top(item.what) in heavy
        and item.module != "python.rank"
        and not part_of_hook(item.module)
        and top(item.module) != "payloads"
    ]
    assert not broken, wrong(broken)


def cycles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import each other, directly or not."""
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
    """Imports for types and inside functions count: modules that cannot be understood alone cannot be tested alone."""
    imports: dict[str, set[str]] = {}
    for item in IMPORTS:
        imports.setdefault(item.module, set())
        if item.ours and item.ours != item.module:
            imports[item.module].add(item.ours)
    assert [] == [sorted(group) for group in cycles(imports)]
