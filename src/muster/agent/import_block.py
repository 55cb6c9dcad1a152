"""The imports at the beginning of a script, from its source: those before it does anything that an import could notice.

`os.environ["HF_HOME"] = …`, `sys.path.insert(…)`, `logging.basicConfig(…)` or any other call may change what a later
import does. So the source is read in the order in which Python would run it, and what comes after the first statement
that is neither an import nor a definition is left out. Modules of the project are read the same way where the script
imports them.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from muster.agent.script_preamble import module_file

_MOST_FILES, _MOST_BYTES = 50, 1 << 20
"""Limits for reading a project."""

_PURE = (
    *("abc.", "collections.", "dataclasses.", "datetime.", "enum.", "functools.", "importlib.util.find_spec"),
    *("importlib.metadata.version", "itertools.", "math.", "operator.", "os.environ.get", "os.getenv", "os.path."),
    *("packaging.version.", "pathlib.", "re.compile", "textwrap.", "typing.", "typing_extensions.", "torch.no_grad"),
    *("torch.inference_mode", "logging.getLogger", "transformers.utils.logging.get_logger"),
    *("accelerate.logging.get_logger", "datasets.utils.logging.get_logger", "torch.nn.functional."),
)
"""Functions whose calls change nothing that an import would notice, by their full names or prefixes."""

_PURE_BUILTINS = frozenset(
    (
        *("bool", "bytes", "classmethod", "dict", "enumerate", "float", "frozenset", "getattr", "hasattr", "int"),
        *("isinstance", "issubclass", "len", "list", "map", "max", "min", "object", "property", "range", "set"),
        *("slice", "sorted", "staticmethod", "str", "sum", "super", "tuple", "zip"),
    )
)

NEVER = frozenset(
    (
        # they start MPI or a runtime of their own, patch other modules, open devices, or trace the process
        *("mpi4py", "horovod", "deepspeed", "torch_xla", "torch_npu", "habana_frameworks", "tensorflow", "jax"),
        *("jaxlib", "cupy", "pycuda", "numba", "ray", "dask", "distributed", "pyspark", "gevent", "eventlet", "vllm"),
        *("sglang", "unsloth", "apex", "intel_extension_for_pytorch", "oneccl_bindings_for_pytorch", "bitsandbytes"),
        *("wandb", "mlflow", "comet_ml", "clearml", "neptune", "sentry_sdk", "ddtrace", "newrelic", "debugpy"),
        *("coverage", "pydevd", "IPython", "ipykernel", "isaacgym", "isaaclab", "isaacsim", "omni", "bpy", "vtk"),
        *("habitat_sim", "open3d", "pyrealsense2", "sapien", "muster"),
    )
)
"""Packages that are never imported before the script imports them, whatever was observed."""


CHANGES = "changes "
"""How the reason begins for an import that changes something in its process that other imports may notice."""


class ImportStatement(NamedTuple):
    """An import of installed packages: `import module`, or `from module import names`."""

    module: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"from {self.module} import {', '.join(self.names)}" if self.names else f"import {self.module}"


def leading_imports(argv: Sequence[str], cwd: str, path: Sequence[str]) -> list[ImportStatement]:
    """Return the imports of installed packages at the beginning of the program of `argv` (`python train.py --lr 1`).

    `path` is `sys.path` without the directory of the script. Packages of the project, whose files are read, and the
    standard library are left out.
    """
    folders = [folder for folder in path if not re.search(r"(site|dist)-packages|/lib/python3[\d.]*(/|$)", folder)]
    if len(argv) > 2 and argv[1] == "-m":
        reader = _Reader([cwd, *folders], path)
        start = reader.find(f"{argv[2]}.__main__") or reader.find(argv[2])
        # the packages of a module are imported before it is run
        parts = argv[2].split(".")
        ends = any(reader.enter(".".join(parts[:length])) for length in range(1, len(parts)))
        if start and not ends:
            reader.run(start, "__main__", argv[2] if start.endswith("__main__.py") else ".".join(parts[:-1]))
    elif len(argv) > 1 and not argv[1].startswith("-"):
        script = os.path.realpath(os.path.join(cwd, argv[1]))
        reader = _Reader([os.path.dirname(script), *folders], path)
        reader.run(script, "__main__")
    else:
        return []
    return list(dict.fromkeys(reader.found))


def worth(
    statements: Iterable[ImportStatement], names: Collection[str], unfit: Mapping[str, str]
) -> list[ImportStatement]:
    """Return those that import packages in `names`, which the last run of the script imported.

    `unfit` are those that cannot be imported ahead, with reasons. What comes after one that changes the process may
    depend on that change, so it has to wait, too.
    """
    found = []
    for statement in statements:
        top = statement.module.partition(".")[0]
        why = unfit.get(str(statement), "")
        if top in NEVER or why.startswith(CHANGES):
            break
        if top in names and not why:
            found.append(statement)
    return found


class _Module:
    """A file of the project, with the meaning of its names."""

    def __init__(self, name: str, package: str) -> None:
        self.name, self.package = name, package
        self.known: dict[str, str] = {}
        self.own: set[str] = set()
        """Names of its own functions and classes."""


class _Reader:
    """Visits statements in the order in which Python would run them; methods return True at the end of the imports."""

    def __init__(self, folders: Sequence[str], path: Sequence[str]) -> None:
        self.folders = folders
        self.installed = [folder for folder in path if folder not in folders]
        self.found: list[ImportStatement] = []
        self.entered: set[str] = set()
        self.bytes = 0

    def find(self, name: str) -> str:
        """Return the file of a module of the project, or empty."""
        return module_file(self.folders, name)

    def is_project(self, top: str) -> bool:
        """Return True if the project has a module of this name, or an extension, or a directory that is a package.

        A directory without `__init__.py` is none if a package of that name is installed.
        """
        if self.find(top):
            return True
        names: set[str] = set()
        for folder in self.folders:
            try:
                names.update(name for name in os.listdir(folder) if name.partition(".")[0] == top)
            except OSError:
                continue
        installed = any(
            os.path.isfile(os.path.join(folder, top + end))
            for folder in self.installed
            for end in ("/__init__.py", ".py")
        )
        return any(name.endswith(".so") for name in names) or (top in names and not installed)

    def run(self, path: str, name: str, package: str = "") -> bool:
        """Visit a file."""
        self.entered.add(name)
        if len(self.entered) > _MOST_FILES or self.bytes > _MOST_BYTES or not os.path.isfile(path):
            return True
        try:
            with open(path, "rb") as file:
                text = file.read(_MOST_BYTES)
            self.bytes += len(text)
            return self.body(ast.parse(text).body, _Module(name, package))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return True

    def enter(self, name: str) -> bool:
        """Visit a module of the project, its packages first."""
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            part = ".".join(parts[:length])
            if part not in self.entered:
                path = self.find(part)
                if not path and length == len(parts):
                    return True  # a namespace package or an extension
                package = part if path.endswith("__init__.py") else ".".join(parts[: length - 1])
                if path and self.run(path, part, package):
                    return True
        return False

    # ---- statements -------------------------------------------------------------------------------------------------

    def body(self, statements: Sequence[ast.stmt], module: _Module) -> bool:
        return any(self.statement(node, module) for node in statements)

    def statement(self, node: ast.stmt, module: _Module) -> bool:
        if isinstance(node, ast.Import):
            return self.import_names(node, module)
        if isinstance(node, ast.ImportFrom):
            return self.import_from(node, module)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            module.own.add(node.name)
            return not self.pure([*node.decorator_list, node.args, *filter(None, [node.returns])], module)
        if isinstance(node, ast.ClassDef):
            module.own.add(node.name)
            return not self.pure([*node.decorator_list, *node.bases, *node.keywords], module) or self.body(
                node.body, module
            )
        if isinstance(node, ast.If):
            return self.branch(node, module)
        if isinstance(node, ast.Try):
            parts = [node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody]
            return any(self.body(part, module) for part in parts)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [
                each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
            return not all(isinstance(each, ast.Name) for each in names) or not self.pure(
                [each for each in (node.value, getattr(node, "annotation", None)) if each is not None], module
            )
        if isinstance(node, ast.Expr):
            return not isinstance(node.value, ast.Constant)
        return not isinstance(node, ast.Pass)

    def branch(self, node: ast.If, module: _Module) -> bool:
        test = ast.unparse(node.test)
        if test.rpartition(".")[2] == "TYPE_CHECKING":
            return self.body(node.orelse, module)
        if test in ("__name__ == '__main__'", "'__main__' == __name__"):
            return module.name == "__main__" or self.body(node.orelse, module)
        return not self.pure([node.test], module) or self.body(node.body, module) or self.body(node.orelse, module)

    def import_names(self, node: ast.Import, module: _Module) -> bool:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            module.known[alias.asname or top] = alias.name if alias.asname else top
            if self.is_project(top):
                if self.enter(alias.name):
                    return True
            elif not _is_standard(top):
                self.found.append(ImportStatement(alias.name))
        return False

    def import_from(self, node: ast.ImportFrom, module: _Module) -> bool:
        name = node.module or ""
        if node.level:
            package = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
            name = ".".join([*filter(None, package), *filter(None, [name])])
        for alias in node.names:
            module.known[alias.asname or alias.name] = f"{name}.{alias.name}"
        top = name.partition(".")[0]
        if node.level or self.is_project(top):
            if not name or self.enter(name):
                return True
            submodules = [f"{name}.{alias.name}" for alias in node.names]
            return any(self.enter(each) for each in submodules if self.find(each))
        if not _is_standard(top):
            self.found.append(ImportStatement(name, tuple(alias.name for alias in node.names)))
        return False

    # ---- expressions ------------------------------------------------------------------------------------------------

    def pure(self, nodes: Sequence[ast.AST], module: _Module) -> bool:
        """Return True if evaluating these expressions calls only functions that are known to change nothing."""
        left = list(nodes)
        while left:
            node = left.pop()
            if isinstance(node, ast.Lambda):
                continue
            if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
                return False
            if isinstance(node, ast.Call) and not self.is_pure(node.func, module):
                return False
            left += ast.iter_child_nodes(node)
        return True

    def is_pure(self, function: ast.AST, module: _Module) -> bool:
        name = _dotted(function, module)
        if isinstance(function, ast.Name) and function.id not in module.known:
            return function.id in _PURE_BUILTINS and function.id not in module.own
        return name.startswith("'") or any(
            name.startswith(pure) if pure.endswith(".") else name == pure for pure in _PURE
        )


def _dotted(node: ast.AST, module: _Module) -> str:
    """Return the full name of a function: `pathlib.Path().resolve` for `Path(x).resolve`; `'` for methods of texts."""
    if isinstance(node, ast.Name):
        return module.known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, module)}.{node.attr}"
    if isinstance(node, ast.Call):
        return _dotted(node.func, module) + "()"
    return "'" if isinstance(node, (ast.Constant, ast.JoinedStr)) else ""


def _is_standard(top: str) -> bool:
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return top in names
    folder = os.path.dirname(os.__file__)  # Python 3.9 has no list
    return top in sys.builtin_module_names or any(
        os.path.exists(os.path.join(folder, path)) for path in (top, f"{top}.py", "lib-dynload/" + top)
    )
