"""The file `function` of a run, which `payloads/call.py` reads: versions, sources to unpickle with, and the pickle."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import linecache
import marshal
import os
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Callable

from muster.config.program import script_of_ours
from muster.errors import InvalidRequest
from muster.payloads import pickles
from muster.protocol.paths import rank_file
from muster.python.splitting import name_of

_ALONE = threading.Lock()
"""Held while a function is pickled: the pickler notes the source files of one function at a time."""


def packed(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], warning: str = "USR1"
) -> bytes:
    """Return the contents of the file. Raises `InvalidRequest` with the path to what cannot be pickled.

    `warning`: the signal before the end of a job, at which `checkpoint` of the function is called.
    """
    try:
        import cloudpickle  # imported late: only functions need it
    except ImportError:
        raise InvalidRequest(
            f"functions require cloudpickle, which {sys.executable} does not have", "pip install cloudpickle"
        ) from None
    file, kind = io.BytesIO(), pickles.pickler()
    with _ALONE:
        kind.sources.clear()
        try:
            kind(file, protocol=5).dump((function, tuple(args), dict(kwargs)))
        except Exception as error:
            raise InvalidRequest(
                _why_not(function, args, kwargs, error), "create it in the function, or pass what it needs"
            ) from None
        names = sorted(kind.sources)
    torch, torch_at = _torch()
    header = json.dumps(
        {
            "result": rank_file("", 0, "result"),
            "checkpoint": rank_file("", 0, "checkpoint"),
            "signal": warning if has_checkpoint(function) else "",
            "python": list(sys.version_info[:2]),
            "torch": torch,
            "torch_at": torch_at,
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "path": _own_path(),
            "lines": {name: linecache.getlines(name) for name in names},
            "cloudpickle": cloudpickle.__version__,
            "sources": _sources("cloudpickle"),
            "modules": _modules(),
        }
    ).encode()
    return b"".join(len(part).to_bytes(8, "big") + part for part in (header, file.getvalue(), _bytecode()))


def has_checkpoint(function: Callable[..., Any]) -> bool:
    """Return whether a callable can save itself when its job is preempted: submitit users know both names."""
    return any(callable(getattr(function, name, None)) for name in ("__submitit_checkpoint__", "checkpoint"))


def _why_not(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: BaseException) -> str:
    """Return the path to what cannot be pickled, and why."""
    what = name_of(function)
    named = [(what, function)]
    named += [(f"argument {number} of {what}", value) for number, value in enumerate(args)]
    named += [(f"argument {name} of {what}", value) for name, value in kwargs.items()]
    for name, value in named:
        failed = pickles.fails(value)
        if failed is not None:
            return pickles.why_not(value, name, failed)
    return f"{what}: {error}"


@functools.cache
def _modules() -> Mapping[str, str]:
    """Return the sources of the modules that call a function in a rank, by the names that they have there."""
    return {f"_muster_{name}": script_of_ours(f"{name}.py") for name in ("pickles", "calling")}


@functools.cache
def _bytecode() -> bytes:
    """Return the bytecode of these modules for this version of Python."""
    return marshal.dumps([compile(text, f"<{name}>", "exec") for name, text in _modules().items()])


def _torch() -> tuple[str | None, str]:
    """Return the version of torch here without its build (`+cu130`), and where its metadata is; None if it is missing.

    The directory is empty if it is unknown.
    """
    try:
        found = distribution("torch")
    except PackageNotFoundError:
        return None, ""
    at = os.fspath(getattr(found, "_path", ""))  # an attribute of all implementations that read directories
    return found.version.partition("+")[0], at if os.path.isabs(at) else ""


def _own_path() -> list[str]:
    """Return the directories of `sys.path` with the caller's own modules: neither Python's, nor installed packages."""
    paths = sysconfig.get_paths()
    pythons = {os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib")}
    found = []
    for entry in sys.path:
        path = os.path.abspath(entry or ".")
        real = os.path.realpath(path)
        installed = "site-packages" in real or "dist-packages" in real
        if (
            os.path.isdir(path)
            and not installed
            and not any((real + os.sep).startswith(base + os.sep) for base in pythons)
        ):
            found.append(path)
    return found


def _sources(package: str) -> dict[str, str]:
    """Return the sources of an installed pure package, by module name."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    found = {package: Path(spec.origin).read_text(encoding="utf-8")}
    for path in Path(spec.origin).parent.glob("*.py"):
        if path.stem != "__init__":
            found[f"{package}.{path.stem}"] = path.read_text(encoding="utf-8")
    return found
