"""What a script does before it imports torch, from its source: a forked rank has torch loaded before that.

Most variables that a script sets are read when they are used, so a forked rank behaves the same. What torch reads
during its import comes too late in such a rank. So the source is read in the order in which Python would run it, up to
the first import of torch: the script, the functions that it calls, and modules of its project.
"""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from muster.agent.forkserver import CAUGHT_UP, READ_AT_LOAD, READ_AT_LOAD_PREFIXES

_FIRST = ("bpy", "habitat_sim", "isaacgym", "isaaclab", "isaacsim", "omni", "open3d", "pyrealsense2", "sapien", "vtk")
"""Packages with libraries that clash with torch's, or that refuse to start, if torch was loaded before."""

_TORCH = "torch"
_MOST_FILES, _MOST_BYTES, _MOST_SECONDS = 200, 1 << 20, 0.25
"""Limits for reading a project. What is beyond is detected in the rank, which reports it."""


class Change(NamedTuple):
    """A statement that sets or removes an environment variable."""

    name: str
    where: str
    """The file, relative to the working directory if it is in there."""
    value: str | None = None
    """None if unknown from the source, or if the variable is removed."""


class Preamble(NamedTuple):
    """What a script does before it imports torch."""

    changes: tuple[Change, ...] = ()
    needs_plain: str = ""
    """A sentence about what requires plain Python, whatever torch reads; otherwise empty."""


def counts(name: str, reads: Collection[str]) -> bool:
    """Return True if importing torch reads this variable; `reads` are those that Python code was seen to read."""
    return name in reads or name in READ_AT_LOAD or name.startswith(READ_AT_LOAD_PREFIXES)


def why_plain(ahead: Preamble, reads: Collection[str], env: Mapping[str, str], cores: int) -> str:
    """Return why this script needs plain Python, in words; empty if a forked rank behaves the same.

    `env` is the environment with which it starts, `cores` the maximum number of cores that MKL would use.
    """
    if ahead.needs_plain:
        return ahead.needs_plain
    for change in ahead.changes:
        if counts(change.name, reads) and not _is_caught_up(change, env, cores):
            return f"{change.where} sets {change.name} before it imports torch"
    return ""


def _is_caught_up(change: Change, env: Mapping[str, str], cores: int) -> bool:
    """Return True if the site hook applies the change in the rank when the script imports torch."""
    if change.name == "OMP_NUM_THREADS":
        value = change.value or ""
        return value.isdecimal() and 0 < int(value) <= cores and "MKL_NUM_THREADS" not in env
    return change.name in CAUGHT_UP


def read(argv: Sequence[str], cwd: str, path: Sequence[str], env: Mapping[str, str]) -> Preamble:
    """Return what the program of `argv` (`python train.py --lr 1`, `python -m package`) does before it imports torch.

    `path` is `sys.path` without the directory of the script.
    """
    folders = [folder for folder in path if not re.search(r"(site|dist)-packages|/lib/python3[\d.]*(/|$)", folder)]
    if argv[1] == "-m":
        reader = _Reader([cwd, *folders], cwd, env)
        start = reader.find(argv[2]) and (reader.find(f"{argv[2]}.__main__") or reader.find(argv[2]))
        # `-m coverage run train.py`: which of its arguments a module runs is not known
        starts = [start, *(os.path.join(cwd, word) for word in argv[3:] if word.endswith(".py"))]
    else:
        script = os.path.realpath(os.path.join(cwd, argv[1]))
        if os.path.isdir(script):
            script = os.path.join(script, "__main__.py")
        reader = _Reader([os.path.dirname(script), *folders], cwd, env)
        starts = [script]
    for start in starts:
        if start:
            reader.run(start, "__main__")
    return Preamble(tuple(reader.changes), reader.needs_plain)


class _Module:
    """A file of the project, with what is known so far."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        self.known: dict[str, str] = {}
        """Meaning of names: `environ` is `os.environ`, after `from os import environ`."""
        self.texts: dict[str, set[str]] = {}
        """Possible string values of names."""
        self.bodies: dict[str, tuple[_Module, Sequence[ast.stmt]]] = {}
        """Code that runs when a name is used: of functions, and of classes by their methods."""


def module_file(folders: Sequence[str], name: str) -> str:
    """Return the file of a module in the first of these folders that has it, or empty."""
    relative = name.replace(".", os.sep)
    for folder in folders:
        for end in (os.sep + "__init__.py", ".py"):
            path = os.path.join(folder, relative + end)
            if os.path.isfile(path):
                return path
    return ""


class _Reader:
    """Visits statements in the order in which Python would run them. Each body is visited once."""

    def __init__(self, folders: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
        self.folders, self.cwd, self.env = folders, cwd, env
        self.changes: list[Change] = []
        self.needs_plain = ""
        self.modules: dict[str, _Module | None] = {}
        self.methods: dict[str, list[tuple[_Module, Sequence[ast.stmt]]]] = {}
        self.walked: set[int] = set()
        self.kept: list[ast.AST] = []  # so that no id in `walked` is reused
        self.bytes, self.until = 0, time.monotonic() + _MOST_SECONDS

    # ---- files ------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> str:
        """Return the file of a module of the project, or empty."""
        return module_file(self.folders, name)

    def run(self, path: str, name: str) -> bool:
        """Visit a file; return True if torch is imported in it. A file that cannot be parsed is skipped."""
        self.modules[name] = module = _Module(name, path)
        if len(self.modules) > _MOST_FILES or self.bytes > _MOST_BYTES or time.monotonic() > self.until:
            return False
        if not os.path.isfile(path):  # a script from a pipe can be read only once
            return False
        try:
            with open(path, "rb") as file:
                text = file.read(_MOST_BYTES)
            self.bytes += len(text)
            tree = ast.parse(text)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        self.kept.append(tree)
        try:
            return self.body(tree.body, module)
        except RecursionError:
            return False

    def enter(self, name: str) -> bool:
        """Import a module, its packages first; return True if that imports torch."""
        if name.partition(".")[0] == _TORCH:
            return True
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            part = ".".join(parts[:length])
            if part in self.modules:
                continue
            path = self.find(part)
            if not path:
                self.modules[part] = None
                if length == 1 and part in _FIRST:
                    self.refuse(f"the script imports {part} before torch, which may be required")
                return False
            if self.run(path, part):
                return True
        return False

    # ---- statements -------------------------------------------------------------------------------------------------

    def body(self, statements: Sequence[ast.stmt], module: _Module) -> bool:
        """Visit statements; return True if one of them imports torch, after which nothing counts any more."""
        return any(self.statement(statement, module) for statement in statements)

    def statement(self, node: ast.stmt, module: _Module) -> bool:
        if isinstance(node, ast.Import):
            return self.import_names(node, module)
        if isinstance(node, ast.ImportFrom):
            return self.import_from(node, module)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            module.bodies[node.name] = (module, node.body)
            return self.expressions([*node.decorator_list, node.args], module)
        if isinstance(node, ast.ClassDef):
            functions = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
            begins = [each for each in functions if each.name in ("__init__", "__new__", "__enter__", "__post_init__")]
            module.bodies[node.name] = (module, [each for one in begins for each in one.body])
            for each in functions:
                self.methods.setdefault(each.name, []).append((module, each.body))
            rest = [each for each in node.body if each not in functions]
            return self.expressions([*node.decorator_list, *node.bases], module) or self.body(rest, module)
        if isinstance(node, ast.If):
            return self.branch(node, module)
        if isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            return self.attempt(node, module)
        if isinstance(node, (ast.For, ast.AsyncFor)):
            self.bind_items(node.target, node.iter, module)
            return self.expressions([node.iter, node.target], module) or self.body([*node.body, *node.orelse], module)
        if isinstance(node, ast.While):
            return self.expressions([node.test], module) or self.body([*node.body, *node.orelse], module)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            items: list[ast.AST] = [item.context_expr for item in node.items]
            return self.expressions(items, module) or self.body(node.body, module)
        if type(node).__name__ == "Match":  # since Python 3.10
            match: Any = node
            ends = [self.body(case.body, module) for case in match.cases]
            return self.expressions([match.subject], module) or all(ends)
        return self.simple(node, module)

    def branch(self, node: ast.If, module: _Module) -> bool:
        """Visit both branches, except for tests whose result is known."""
        test = ast.unparse(node.test) if isinstance(node.test, (ast.Name, ast.Attribute, ast.Compare)) else ""
        if test.rpartition(".")[2] == "TYPE_CHECKING":
            return self.body(node.orelse, module)
        if test in ("__name__ == '__main__'", "'__main__' == __name__"):
            return self.body(node.body if module.name == "__main__" else node.orelse, module)
        if self.expressions([node.test], module):
            return True
        ends = [self.body(part, module) for part in (node.body, node.orelse)]
        return all(ends)

    def attempt(self, node: ast.stmt, module: _Module) -> bool:
        """Visit a `try` statement, which is assumed to succeed if torch is imported in it."""
        tried: ast.Try = node  # type: ignore[assignment]
        if self.body(tried.body, module):
            return True
        for handler in tried.handlers:
            self.body(handler.body, module)
        return self.body([*tried.orelse, *tried.finalbody], module)

    def simple(self, node: ast.stmt, module: _Module) -> bool:
        """Visit a simple statement."""
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            if self.expressions([node.value], module):
                return True
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(node, ast.AugAssign) and self.dotted(target, module) == "os.environ":
                    self.update([node.value], [], module)
                elif isinstance(target, ast.Subscript) and self.is_environ(target.value, module):
                    self.change(target.slice, node.value, module)
                elif isinstance(target, ast.Name):
                    self.bind(target, node.value, module)
            return False
        if isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and self.is_environ(target.value, module):
                    self.remove(target.slice, module)
            return False
        return self.expressions([node], module)

    def import_names(self, node: ast.Import, module: _Module) -> bool:
        for alias in node.names:
            module.known[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
            if self.enter(alias.name):
                return True
        return False

    def import_from(self, node: ast.ImportFrom, module: _Module) -> bool:
        name = node.module or ""
        if node.level:
            package = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
            name = ".".join([*filter(None, package), *filter(None, [name])])
        if name and self.enter(name):
            return True
        source = self.modules.get(name)
        for alias in node.names:
            called = alias.asname or alias.name
            module.known[called] = f"{name}.{alias.name}" if name else alias.name
            if source is not None:
                if self.find(f"{name}.{alias.name}") and self.enter(f"{name}.{alias.name}"):
                    return True
                if alias.name == "*":
                    module.bodies.update(source.bodies)
                    module.texts.update(source.texts)
                    module.known.update(source.known)
                elif alias.name in source.bodies:
                    module.bodies[called] = source.bodies[alias.name]
                module.texts.setdefault(called, set()).update(source.texts.get(alias.name, ()))
            elif not name and self.enter(alias.name):
                return True
        return False

    # ---- expressions ------------------------------------------------------------------------------------------------

    def expressions(self, nodes: Sequence[ast.AST], module: _Module) -> bool:
        """Visit expressions; return True if a function that they name imports torch."""
        for root in nodes:
            for node in ast.walk(root):
                if isinstance(node, ast.Call):
                    self.call(node, module)
                for owner, body in self.meant(node, module):
                    if id(body) not in self.walked:
                        self.walked.add(id(body))
                        if self.body(body, owner):
                            return True
        return False

    def meant(self, node: ast.AST, module: _Module) -> Iterator[tuple[_Module, Sequence[ast.stmt]]]:
        """Return the functions of the project that an expression may call: naming one counts as a call."""
        if isinstance(node, ast.Name):
            if node.id in module.bodies:
                yield module.bodies[node.id]
        elif isinstance(node, ast.Attribute):
            owner = self.modules.get(self.dotted(node.value, module))
            if owner is not None and node.attr in owner.bodies:
                yield owner.bodies[node.attr]
            else:
                yield from self.methods.get(node.attr, ())

    def call(self, node: ast.Call, module: _Module) -> None:
        """Visit a call that changes the environment, or how libraries are loaded."""
        name = self.dotted(node.func, module)
        first = node.args[0] if node.args else None
        second = node.args[1] if len(node.args) > 1 else None
        if name in ("os.putenv", "os.environ.__setitem__") and first and second:
            self.change(first, second, module)
        elif name == "os.environ.setdefault" and first:
            self.change(first, second, module, default=True)
        elif name == "os.environ.update":
            self.update(node.args, node.keywords, module)
        elif name in ("os.environ.pop", "os.unsetenv", "os.environ.__delitem__") and first:
            self.remove(first, module)
        elif name == "os.environ.clear":
            self.refuse(f"{self.place(module)} clears os.environ before it imports torch")
        elif name.rpartition(".")[2] == "load_dotenv":
            self.load_dotenv(node, module)
        elif name.rpartition(".")[2] == "read_env":
            self.refuse(f"{self.place(module)} reads environment variables from a file before it imports torch")
        elif name == "sys.setdlopenflags" or "RTLD_GLOBAL" in [
            each.attr if isinstance(each, ast.Attribute) else each.id
            for each in ast.walk(node)
            if isinstance(each, (ast.Attribute, ast.Name))
        ]:
            self.refuse(f"{self.place(module)} changes the loading of libraries before it imports torch")

    def dotted(self, node: ast.AST, module: _Module) -> str:
        """Return the meaning of a name: `os.environ` for `environ` after `from os import environ`; or empty."""
        if isinstance(node, ast.Name):
            return module.known.get(node.id, "")
        if isinstance(node, ast.Attribute):
            before = self.dotted(node.value, module)
            return f"{before}.{node.attr}"
        if isinstance(node, ast.Call):
            return self.dotted(node.func, module) + "()"
        return ""

    def is_environ(self, node: ast.AST, module: _Module) -> bool:
        return self.dotted(node, module) in ("os.environ", "os.environb")

    def bind(self, target: ast.Name, value: ast.AST, module: _Module) -> None:
        """Record the meaning of a name after an assignment."""
        text = _text(value)
        if text is not None:
            module.texts.setdefault(target.id, set()).add(text)
        meaning = self.dotted(value, module)
        if meaning.startswith("os."):
            module.known[target.id] = meaning

    def bind_items(self, target: ast.AST, items: ast.AST, module: _Module) -> None:
        """Record the values of a `for` loop's names: `for name in ("A", "B")`, `for name, value in {…}.items()`."""
        if isinstance(items, ast.Call) and isinstance(items.func, ast.Attribute) and items.func.attr == "items":
            items = items.func.value
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = items.keys if isinstance(items, ast.Dict) else getattr(items, "elts", [])
        for value in values:
            parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]
            for name, part in zip(names, parts):
                text = _text(part) if part is not None else None
                if isinstance(name, ast.Name) and text is not None:
                    module.texts.setdefault(name.id, set()).add(text)

    # ---- changes ----------------------------------------------------------------------------------------------------

    def place(self, module: _Module) -> str:
        """Return the file's path, relative to the working directory if it is in there."""
        path = os.path.relpath(module.path, self.cwd)
        return module.path if path.startswith("..") else path

    def names(self, node: ast.AST | None, module: _Module) -> Collection[str]:
        """Return the possible values of an expression that names an environment variable; empty if unknown."""
        text = _text(node) if node is not None else None
        if text is not None:
            return [text]
        return sorted(module.texts.get(node.id, ())) if isinstance(node, ast.Name) else ()

    def change(self, key: ast.AST | None, value: ast.AST | None, module: _Module, default: bool = False) -> None:
        """Record that a variable is set; with `default` only if it has no value."""
        names = self.names(key, module)
        text = _text(value) if value is not None else None
        if not names:
            self.unknown(module)
        for name in names:
            if not (default and name in self.env) and not (text is not None and self.env.get(name) == text):
                self.changes.append(Change(name, self.place(module), text))

    def remove(self, key: ast.AST, module: _Module) -> None:
        names = self.names(key, module)
        if not names:
            self.unknown(module)
        self.changes += [Change(name, self.place(module)) for name in names if name in self.env]

    def update(self, args: Sequence[ast.AST], keywords: Sequence[ast.keyword], module: _Module) -> None:
        """Record `os.environ.update(…)` or `os.environ |= …`."""
        for arg in args:
            if isinstance(arg, ast.Call) and isinstance(arg.func, ast.Name) and arg.func.id == "dict":
                self.update(arg.args, arg.keywords, module)
            elif isinstance(arg, ast.Dict):
                for key, value in zip(arg.keys, arg.values):
                    self.change(key, value, module)
            else:
                self.unknown(module)
        for keyword in keywords:
            if keyword.arg is None:
                self.update([keyword.value], [], module)
            else:
                self.change(ast.Constant(keyword.arg), keyword.value, module)

    def load_dotenv(self, node: ast.Call, module: _Module) -> None:
        """Record a call of load_dotenv, which by default reads the first `.env` from the caller's directory upwards."""
        if node.args or node.keywords:
            self.refuse(f"{self.place(module)} calls load_dotenv before it imports torch")
            return
        folder = os.path.dirname(os.path.abspath(module.path))
        while not os.path.isfile(os.path.join(folder, ".env")):
            if folder == os.path.dirname(folder):
                return
            folder = os.path.dirname(folder)
        path = os.path.join(folder, ".env")
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(_MOST_BYTES)
        except OSError:
            return
        for name in re.findall(r"^\s*(?:export\s+)?['\"]?(\w+)['\"]?\s*=", text, re.MULTILINE):
            if name not in self.env:
                self.changes.append(Change(name, f"{self.place(module)} ({path})"))

    def unknown(self, module: _Module) -> None:
        what = "sets environment variables with computed names"
        self.refuse(f"{self.place(module)} {what} before it imports torch")

    def refuse(self, why: str) -> None:
        self.needs_plain = self.needs_plain or why


def _text(node: ast.AST) -> str | None:
    """Return the value of a string or bytes literal; otherwise None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return os.fsdecode(node.value)
    return None
