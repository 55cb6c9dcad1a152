"""muster itself as one file that any Python can run: it stays with a run, whatever is upgraded meanwhile."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from muster.agent.bootstrap import PYC_HEADER, bytecode_of, sources
from muster.linux import processes
from muster.linux.files import replace_file
from muster.protocol.local_sockets import TOKEN

_MAIN = """import signal, sys
if sys.argv[1] not in ("serve", "standby"):
    # what a scheduler sends to a process that is only beginning waits until that listens
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
from muster.linux.descriptors import open_standard_descriptors
open_standard_descriptors()
if sys.argv[1] == "serve":
    from muster.controller.detached import serve as main
elif sys.argv[1] == "standby":
    from muster.controller.detached import standby as main
elif sys.argv[1] == "step":
    from muster.agent.join import step as main
else:
    from muster.controller.batch import run_batch as main
sys.exit(main(sys.argv[2:]))
"""

_NOT_NEEDED = ("adopt/", "cli/", "diagnostics/selftest/", "export/", "lab/", "lint/", "payloads/")
"""Parts that a controller does not need."""

KEPT = "muster.pyz"
"""The last archive, in muster's directory: the digest of what it was built from, its checksum, and its bytes."""


def build(compiled: bool = False) -> bytes:
    """Return the bytes of the archive; `python FILE serve …` is the controller of a run.

    `compiled`: include this Python's bytecode, for nodes that usually have the same version: three times as large, but
    each start takes 0.1 to 0.2 s less. Other Python versions ignore it. It is valid whatever the time of its source: an
    archive tells that in local time, so another time zone on the node made all of it invalid, at each start.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _MAIN)
        for inside, path in _files():
            archive.write(path, f"muster/{inside}")
            if compiled:
                archive.writestr(f"muster/{inside}c", _bytecode_in_archive(inside, path))
    return data.getvalue()


def kept(home: Path) -> bytes:
    """Return `build(compiled=True)`, read from muster's directory if it was built from the same files before.

    Building takes 0.1 s of CPU time, for which each run on hosts or in a job would wait. What others could have written
    is not used.
    """
    built_from, path = _digest(), home / KEPT
    found = _own(path)
    data = found[len(built_from) + 4 :]
    if found.startswith(built_from + zlib.crc32(data).to_bytes(4, "big")):
        return data
    data = build(compiled=True)
    with suppress(OSError):  # without it, the next run builds it again
        _write_own(path, built_from + zlib.crc32(data).to_bytes(4, "big") + data)
    return data


def _bytecode_in_archive(inside: str, path: str) -> bytes:
    """Return the .pyc file of a module: what Python keeps of it, if that is valid, or made anew."""
    source = Path(path).read_bytes()
    found = bytecode_of("muster." + inside[: -len(".py")].replace("/", "."))
    return _head(source) + found[PYC_HEADER:] if found else _compiled(source.decode(), path)


def _head(source: bytes) -> bytes:
    """Return the head of a .pyc file that is valid whatever the time and contents of its source, see PEP 552."""
    unchecked = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source)


def _files() -> Iterator[tuple[str, str]]:
    """Yield the files of the archive in a fixed order: the name in the package, and the path."""
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).as_posix()
        if not inside.startswith(_NOT_NEEDED):
            yield inside, str(path)


def _digest() -> bytes:
    """Return a digest of names, sizes and times of all files of the archive, and of the version of their bytecode: an
    upgrade or an edit changes it."""
    digest = hashlib.sha256(f"{_MAIN} {sys.implementation.cache_tag} {importlib.util.MAGIC_NUMBER!r}".encode())
    for inside, path in _files():
        try:
            found = os.stat(path)
            told = f"{inside} {path} {found.st_size} {found.st_mtime_ns}\n"
        except OSError:
            told = f"{inside} {path} -\n"
        digest.update(told.encode("utf-8", "surrogateescape"))
    return digest.digest()


def _own(path: Path) -> bytes:
    """Return the contents of a file that only this user can have written; nothing of any other."""
    try:
        if processes.why_shared(str(path.parent)):
            return b""
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            trusted = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
            return file.read() if trusted else b""
    except OSError:
        return b""


def _write_own(path: Path, data: bytes) -> None:
    """Replace a file of this user in one step, unless others could do that too."""
    processes.make_private(str(path.parent))
    if processes.why_shared(str(path.parent)):
        return
    replace_file(str(path), data)


_SHIM = """import sys
from muster.agent.rank_shim import main
sys.exit(main(sys.argv[1:]))
"""


@cache
def build_shim(token: str) -> bytes:
    """Return the bytes of the archive that external launchers start in place of the script; see `agent/rank_shim.py`.

    `token` lets it find the agent of its machine (`protocol/local_sockets.py`).
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _SHIM)
        archive.writestr(TOKEN, token)
        for module, text in sources(_SHIM).items():
            path = module.replace(".", "/")
            archive.writestr(f"{path}.py" if text else f"{path}/__init__.py", text)
            if text:
                archive.writestr(f"{path}.pyc", _compiled(text, f"{path}.py"))
    return data.getvalue()


def _compiled(text: str, name: str) -> bytes:
    """Return a .pyc file that is valid whatever the time of its source, see PEP 552. Other Pythons read the source.

    Else each rank of an external launcher compiles the shim at its start: a third of the CPU time of that.
    """
    return _head(text.encode()) + marshal.dumps(compile(text, name, "exec", dont_inherit=True))
