"""The Python environment of a run as files that can be sent: a venv, a conda environment, or a relocatable Python.

An environment has an address, which follows from the contents of its files alone. So hosts that have unpacked one need
not get it again, wherever it is on this machine. Bytecode (`__pycache__`) is sent, but does not change the address.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.printable import line as safe
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.files import replace_file

PIECE = 1 << 20
"""Bytes of a piece of the stream of contents."""

ENV, BASE = "env", "base"
"""The trees of an environment: its own files, and those of the interpreter that it is based on."""

_FORMAT = 1
_SMALL = 1 << 20
"""Maximum bytes of a text file that may contain the path of its environment."""
_KEPT = 5
"""Number of lists of sent environments that are kept."""
_SYSTEM = ("/usr", "/usr/local", "/")
"""Prefixes of interpreters that belong to the machine, and cannot be copied to another one."""
_TEXT = re.compile(r"bin/|pyvenv\.cfg$|.*\.(pth|pc|egg-link)$|.*/(_sysconfigdata[^/]*\.py|config-[^/]+/Makefile)$")
"""Names of files in which installers write the path of the environment."""


class Entry(NamedTuple):
    """A file of an environment."""

    name: str
    """Its path, which begins with its tree."""
    how: str
    """`file`; `text` or `binary`, in which paths are replaced; `link`; `python`, a link to the base interpreter."""
    mode: int = 0
    size: int = 0
    mtime: int = 0
    """In seconds: bytecode is valid for a source file of this time and size."""
    to: str = ""
    """The target of a link, relative to it; of a `binary` the path to replace."""
    digest: str = ""
    source: str = ""
    """The file here."""


class Environment(NamedTuple):
    """An environment that can be sent."""

    kind: str
    """`venv`, `conda`, or `standalone`: an interpreter with its packages."""
    prefix: str
    python: str
    """The interpreter, relative to `prefix`."""
    version: str
    """Its version, such as `3.11`."""
    base: str = ""
    """The executable that a venv is based on; empty for others."""
    base_prefix: str = ""
    isolated: bool = True
    """False if it also uses the packages of its base."""
    with_base: bool = False
    """Whether the base is sent, too."""
    entries: tuple[Entry, ...] = ()
    editable: tuple[tuple[str, str], ...] = ()
    """Names and directories of packages that are elsewhere (editable installs)."""
    notes: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """What it is, for users."""
        kind = {"venv": "virtual environment", "conda": "conda environment"}.get(self.kind, "Python")
        return f"{kind} {self.prefix}"

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def base_can_be_sent(self) -> bool:
        """Whether the base works at another path: it is not a part of an operating system."""
        return bool(self.base_prefix) and self.base_prefix not in _SYSTEM

    @property
    def address(self) -> str:
        """What identifies the contents."""
        found = hashlib.sha256(json.dumps([_FORMAT, self.kind, self.python, self.version]).encode())
        for entry in self.entries:
            if "/__pycache__/" not in entry.name:
                line = (entry.name, entry.how, entry.mode & 0o111, entry.to, entry.digest)
                found.update(json.dumps(line).encode())
        return found.hexdigest()[:20]

    @property
    def replaced(self) -> list[tuple[str, str]]:
        """The paths to replace in its text files, each with the tree that takes its place; the longest first."""
        pairs = {self.prefix: ENV, os.path.realpath(self.prefix): ENV}
        if self.with_base:
            pairs = {self.base_prefix: BASE, os.path.realpath(self.base_prefix): BASE, **pairs}
        return sorted(pairs.items(), key=lambda pair: -len(pair[0]))


# ---- which environment -----------------------------------------------------------------------------------------------


def find(python: str) -> Environment:
    """Return the environment of an interpreter, without its files. Raises `InvalidRequest` if it cannot be sent."""
    found = _find(python)
    return found._replace(editable=tuple(_editable(found)))


def _find(python: str) -> Environment:
    folder = os.path.dirname(os.path.abspath(python))
    prefix = os.path.dirname(folder)
    name = f"{os.path.basename(folder)}/{os.path.basename(python)}"
    if os.path.isfile(f"{prefix}/pyvenv.cfg"):
        return _venv(prefix, name)
    real = os.path.realpath(python)
    prefix, name = os.path.dirname(os.path.dirname(real)), f"bin/{os.path.basename(real)}"
    version = _version_in(prefix)
    if os.path.isdir(f"{prefix}/conda-meta") and version:
        return Environment("conda", prefix, name, version)
    if version and prefix not in _SYSTEM:
        return Environment("standalone", prefix, name, version)
    raise InvalidRequest(
        f"--ship-env: {python} is not in a virtual environment or conda environment",
        "activate one, or name its interpreter with `--python PATH`",
    )


def _venv(prefix: str, python: str) -> Environment:
    settings = _settings(f"{prefix}/pyvenv.cfg")
    base = os.path.realpath(f"{prefix}/{python}")
    home = settings.get("home", os.path.dirname(base))
    if _inside(base, prefix):  # made with --copies
        base = settings.get("executable") or settings.get("base-executable") or f"{home}/{os.path.basename(python)}"
    version = ".".join((settings.get("version") or settings.get("version_info") or "").split(".")[:2])
    if not version or not os.path.exists(base):
        raise InvalidRequest(
            f"--ship-env: the interpreter of {prefix} is missing: {base}",
            "make the environment again, with `python -m venv` or `uv venv`",
        )
    base_prefix = os.path.dirname(os.path.dirname(os.path.realpath(base)))
    isolated = settings.get("include-system-site-packages", "false").lower() != "true"
    return Environment("venv", prefix, python, version, base, base_prefix, isolated)


def _settings(path: str) -> dict[str, str]:
    """Return the settings in pyvenv.cfg."""
    pairs = (line.partition("=") for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines())
    return {name.strip().lower(): value.strip() for name, between, value in pairs if between}


def _version_in(prefix: str) -> str:
    """Return the version of the Python in a prefix; empty without one."""
    with suppress(OSError):
        for name in sorted(os.listdir(f"{prefix}/lib"), reverse=True):
            if re.fullmatch(r"python3\.\d+", name) and os.path.exists(f"{prefix}/lib/{name}/os.py"):
                return name.removeprefix("python")
    return ""


# ---- its files -------------------------------------------------------------------------------------------------------


def read(found: Environment, records: str, with_base: bool = False) -> Environment:
    """Return the environment with its files. `records`: where digests of unchanged files are kept.

    Raises `InvalidRequest`.
    """
    found = found._replace(with_base=with_base)
    notes: list[str] = []
    entries = list(_entries(found, ENV, found.prefix, notes))
    if with_base:
        entries += _entries(found, BASE, found.base_prefix, notes)
    _mark_conda(found, entries)
    entries = _with_digests(found, entries, records)
    if not found.isolated:
        notes.append(f"warning: {found.prefix} also uses the packages of {found.base_prefix}, which are not sent")
    entries.sort()
    return found._replace(entries=tuple(entries), notes=tuple(notes))


def _entries(found: Environment, tree: str, top: str, notes: list[str]) -> Iterator[Entry]:
    """Yield the files below `top`. Links to what is not sent become files."""
    waiting, seen = [(top, tree)], {os.path.realpath(top)}
    while waiting:
        folder, name = waiting.pop()
        if tree == BASE and found.isolated and re.fullmatch(r"base/lib/python3\.\d+/site-packages", name):
            continue  # a venv does not see them
        try:
            inside = sorted(os.scandir(folder), key=lambda one: one.name)
        except OSError as error:
            raise InvalidRequest(
                f"--ship-env: cannot read {folder}: {processes.reason(error)}", "check its permissions"
            ) from None
        for one in inside:
            its_name = f"{name}/{one.name}"
            if one.is_symlink():
                link = _link(found, tree, one.path, its_name)
                if link is not None:
                    yield link
                    continue
                real = os.path.realpath(one.path)
                if os.path.isdir(real):
                    if real not in seen:
                        seen.add(real)
                        waiting.append((real, its_name))
                    continue
            if one.is_dir():
                waiting.append((one.path, its_name))
            elif one.is_file():
                details = os.stat(one.path)
                yield Entry(
                    its_name,
                    "file",
                    stat.S_IMODE(details.st_mode),
                    details.st_size,
                    int(details.st_mtime),
                    source=one.path,
                )
            else:
                notes.append(f"warning: not a regular file, left out: {safe(one.path)}")


def _link(found: Environment, tree: str, path: str, name: str) -> Entry | None:
    """Return a symbolic link that stays one; None if its target must be sent in its place."""
    target = os.readlink(path)
    if found.base and os.path.realpath(path) == os.path.realpath(found.base) and os.path.isabs(target):
        if not found.with_base:
            return Entry(name, "python")
        inner = f"{BASE}/{os.path.relpath(os.path.realpath(path), found.base_prefix)}"
        return Entry(name, "link", to=os.path.relpath(inner, os.path.dirname(name)))
    full = os.path.normpath(os.path.join(os.path.dirname(path), target))
    tops = {ENV: found.prefix, BASE: found.base_prefix} if found.with_base else {ENV: found.prefix}
    for other, top in tops.items():
        if _inside(full, top):
            inner = f"{other}/{os.path.relpath(full, top)}"
            return Entry(name, "link", to=os.path.relpath(inner, os.path.dirname(name)))
    return None if os.path.exists(path) else Entry(name, "link", to=target)


def _inside(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _mark_conda(found: Environment, entries: list[Entry]) -> None:
    """Mark the files in which conda has written the path of the environment, as its records tell.

    In programs and libraries a path can be replaced only by one that is not longer. Where conda's cache still has the
    package, its file is taken, whose placeholder has 255 characters.
    """
    if found.kind != "conda":
        return
    marks: dict[str, tuple[str, str, str]] = {}
    for path in Path(found.prefix, "conda-meta").glob("*.json"):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            package = json.loads(path.read_bytes())
            cached = (package.get("link") or {}).get("source") or package.get("extracted_package_dir") or ""
            for one in (package.get("paths_data") or {}).get("paths", ()):
                if one.get("prefix_placeholder"):
                    source = os.path.join(cached, one["_path"]) if cached else ""
                    marks[f"{ENV}/{one['_path']}"] = (one.get("file_mode", "text"), one["prefix_placeholder"], source)
    for number, entry in enumerate(entries):
        mode, placeholder, source = marks.get(entry.name, ("", "", ""))
        if entry.how != "file" or not mode:
            continue
        if mode == "text":
            entries[number] = entry._replace(how="text")
        elif source and os.path.isfile(source) and os.path.getsize(source) == entry.size:
            entries[number] = entry._replace(how="binary", to=placeholder, source=source)
        else:
            entries[number] = entry._replace(how="binary", to=found.prefix)


def _editable(found: Environment) -> Iterator[tuple[str, str]]:
    """Yield the names and directories of packages that are installed in place."""
    for path in Path(found.prefix).glob("lib/python3*/site-packages/*.dist-info/direct_url.json"):
        with suppress(OSError, *NOT_UNDERSTOOD):
            told = json.loads(path.read_bytes())
            if (told.get("dir_info") or {}).get("editable"):
                name = path.parent.name.partition("-")[0]
                yield name, os.path.normpath(unquote(urlsplit(told["url"]).path))
    for path in Path(found.prefix).glob("lib/python3*/site-packages/*.egg-link"):
        with suppress(OSError, IndexError):
            yield path.stem, os.path.normpath(path.read_text().splitlines()[0])


# ---- digests ---------------------------------------------------------------------------------------------------------


def _with_digests(found: Environment, entries: list[Entry], records: str) -> list[Entry]:
    """Return the entries with digests; files that have not changed since the last time are not read."""
    path = os.path.join(records, hashlib.sha256(os.fsencode(found.prefix)).hexdigest()[:20] + ".digests")
    known: Mapping[str, Any] = _load(path)
    prefixes = [os.fsencode(old) for old, _ in found.replaced]

    def digested(entry: Entry) -> tuple[Entry, list[Any]]:
        if "/__pycache__/" in entry.name:
            return entry._replace(digest=f"{entry.size} {entry.mtime}"), []
        if not entry.source:
            return entry, []
        details = os.stat(entry.source)
        state = [details.st_size, details.st_mtime_ns, details.st_ctime_ns, details.st_ino, found.with_base]
        before = known.get(entry.name)
        if before is not None and before[2:] == state:
            return entry._replace(how=before[1], digest=before[0]), before
        how, digest = _digest(entry, prefixes)
        return entry._replace(how=how, digest=digest), [digest, how, *state]

    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(digested, entries))
    except OSError as error:
        raise InvalidRequest(f"--ship-env: cannot read {processes.reason_at(error)}", "check its permissions") from None
    _save(path, {entry.name: state for entry, state in results if state})
    return [entry for entry, _ in results]


def _digest(entry: Entry, prefixes: Sequence[bytes]) -> tuple[str, str]:
    """Return how a file is to be sent, and a digest that does not depend on the path of its environment."""
    inner = entry.name.partition("/")[2]
    total = hashlib.sha256()
    with open(entry.source, "rb") as file:
        if entry.how == "text" or (entry.how == "file" and entry.size <= _SMALL and _TEXT.match(inner)):
            data = file.read()
            if entry.how == "text" or (b"\0" not in data and any(prefix in data for prefix in prefixes)):
                for prefix in prefixes:
                    data = data.replace(prefix, b"{prefix}")
                return "text", hashlib.sha256(data).hexdigest()
            total.update(data)
        while data := file.read(PIECE):
            total.update(data)
    return entry.how, total.hexdigest()


def _load(path: str) -> dict[str, Any]:
    try:
        found = json.loads(zlib.decompress(Path(path).read_bytes()))
    except (OSError, ValueError, zlib.error):
        return {}
    return found if isinstance(found, dict) else {}


def _save(path: str, data: Mapping[str, Any]) -> None:
    """Write a record; without it, the next run reads more."""
    with suppress(OSError):
        processes.make_private(os.path.dirname(path))
        replace_file(path, zlib.compress(json.dumps(data).encode("utf-8", "surrogateescape"), 1))


# ---- what hosts have -------------------------------------------------------------------------------------------------


def remember(found: Environment, records: str) -> None:
    """Record the files of a sent environment, so that a similar one can be sent by its differences."""
    _save(os.path.join(records, f"{found.address}.sent"), {entry.name: _content(entry) for entry in found.entries})
    with suppress(OSError):
        old = sorted(Path(records).glob("*.sent"), key=lambda path: -path.stat().st_mtime)[_KEPT:]
        for path in old:
            path.unlink()


def _content(entry: Entry) -> str:
    return f"{entry.how} {entry.mode} {entry.digest}"


def similar(found: Environment, records: str, addresses: Sequence[str]) -> tuple[str, frozenset[str]]:
    """Return the environment that shares most bytes with this one, of those that all hosts have, and the names of the
    files that are equal in both; empty if there is none."""
    best, names, most = "", frozenset[str](), 0
    for address in addresses:
        sent = _load(os.path.join(records, f"{address}.sent"))
        equal = [entry for entry in found.entries if entry.how == "file" and sent.get(entry.name) == _content(entry)]
        size = sum(entry.size for entry in equal)
        if size > most:
            best, names, most = address, frozenset(entry.name for entry in equal), size
    return best, names


# ---- the stream ------------------------------------------------------------------------------------------------------


def header(found: Environment, kept: frozenset[str]) -> bytes:
    """Return the beginning of the stream: the list of files, with its length before it. Files in `kept` are taken from
    a similar environment."""
    listed = [
        [entry.name, "kept" if entry.name in kept else entry.how, entry.mode, entry.size, entry.mtime, entry.to]
        for entry in found.entries
    ]
    base = os.path.relpath(os.path.realpath(found.base), found.base_prefix) if found.with_base else ""
    told = {
        "kind": found.kind,
        "python": f"{ENV}/{found.python}",
        "base": f"{BASE}/{base}" if base else "",
        "replaced": found.replaced,
        "entries": listed,
    }
    data = zlib.compress(json.dumps(told).encode("ascii"), 1)
    return b"%d\n" % len(data) + data


def pieces(found: Environment, kept: frozenset[str]) -> Iterator[bytes]:
    """Yield the stream in pieces: the header, and the contents of the files one after another. Raises
    `InvalidRequest` if a file changes meanwhile."""
    buffer = bytearray(header(found, kept))
    for entry in found.entries:
        if not entry.source or entry.name in kept:
            continue
        left = entry.size
        try:
            with open(entry.source, "rb", buffering=0) as file:
                while left and (data := file.read(min(left, PIECE))):
                    left -= len(data)
                    buffer += data
                    while len(buffer) >= PIECE:
                        yield bytes(buffer[:PIECE])
                        del buffer[:PIECE]
                left -= len(file.read(1))
        except OSError as error:
            raise InvalidRequest(f"--ship-env: cannot read {processes.reason_at(error)}", "start again") from None
        if left:
            raise InvalidRequest(
                f"--ship-env: {entry.source} changed while it was sent", "start again when nothing is being installed"
            )
    if buffer:
        yield bytes(buffer)
