"""Call a function in each rank: the script that the program starts for `muster.run(function)`.

The file `function` of the run directory has, each with its length before it: a header (JSON) with the versions of the
caller and the sources of what is needed to unpickle, the pickle of (function, args, kwargs), and the bytecode of the
other modules of this directory that a rank needs, for the caller's version of Python: compiling them takes each rank
7 ms of CPU time. For a run with several programs a header with the place of each role's parts goes before all of these.
It is read only if it belongs to this user and nobody else can write it.
"""

from __future__ import annotations

import json
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO


def refuse_of_others(path: str) -> None:
    """Raise PermissionError if others can write a file that is going to be unpickled."""
    for name in (os.path.dirname(path), path):
        found = os.lstat(name)
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError("muster: error: other users can write " + name)


def _parts_of(path: str) -> tuple[dict[str, Any], list[bytes], bytes]:
    """Return the header, the pickle and the bytecode of the file. Raises PermissionError if others can write it."""
    refuse_of_others(path)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        header = json.loads(_next_of(file))
        if "roles" in header:  # a run with several programs has a function for each role
            file.seek(header["roles"][os.environ["ROLE_NAME"]], os.SEEK_CUR)
            header = json.loads(_next_of(file))
        data, code = _next_of(file), _next_of(file)
    return header, [data], code


def _next_of(file: BinaryIO) -> bytes:
    """Return the next part of the file, which has its length before it."""
    return file.read(int.from_bytes(file.read(8), "big"))


def _modules(header: Mapping[str, Any], code: bytes) -> list[Any]:
    """Make the modules from their bytecode, or if that is for another version of Python, from their sources."""
    import importlib.util
    import marshal
    import types

    sources: dict[str, str] = header["modules"]
    if header["magic"] == importlib.util.MAGIC_NUMBER.hex():
        codes: list[types.CodeType] = marshal.loads(code)
    else:
        codes = [compile(text, f"<{name}>", "exec") for name, text in sources.items()]
    found: list[Any] = []
    for name, compiled in zip(sources, codes):
        sys.modules[name] = module = types.ModuleType(name)
        exec(compiled, vars(module))
        found.append(module)
    return found


def _main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    run_dir = os.path.dirname(os.path.dirname(folder))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    header, data, code = _parts_of(os.path.join(run_dir, "function"))
    pickles, calling = _modules(header, code)
    calling.call(os.path.abspath(__file__), run_dir, header, data, pickles, refuse_of_others)


if __name__ == "__main__":
    _main()
    muster_function_returned = True  # the hook may end this process sooner (agent/hook/quick_exit.py)
