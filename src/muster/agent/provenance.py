"""A program that describes what runs on this node: packages, code, machine, names of variables. Standard library only.

It is read from stdin by the Python of the ranks, with their environment and directory, while the ranks start. So
`sys.path` is theirs, and a slow file system delays only this process. It runs at the lowest priority, and writes one
JSON object to a descriptor. See `core/provenance.py` for what the fields mean.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_GIT_WITHIN = 20.0
"""Seconds for each git command; the ranks do not wait for it."""
_MOST_FILES = 200
"""Maximum number of changed files that are recorded."""
_LARGEST = 4 << 20
"""Maximum size of a changed file whose digest is taken, in bytes."""
_MOST_PACKAGES = 5000


def program() -> str:
    """Return the source of this module."""
    source: str = globals()["__loader__"].get_source(__name__)
    return source


def main(script: str, cwd: str, whole: bool, fd: int) -> None:
    """Write the description to a descriptor. `whole`: include what does not differ between the nodes of a run."""
    import json

    _yield_to_ranks()
    found = {**_python(sys.path), **_machine(), **_packages(sys.path, whole)}
    if whole:
        found["script_digest"] = _digest(os.path.join(cwd, script)) if script else ""
        found["variables"] = sorted(name for name in os.environ if name not in _OWN)
        found["git"] = _git(os.path.dirname(os.path.join(cwd, script)) if script else cwd)
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(fd, data) :]


_OWN = ("MUSTER_HOOK", "_", "SHLVL", "PWD", "OLDPWD")
"""Variables of this process, or of the shell that started muster."""


def _yield_to_ranks() -> None:
    """Take the lowest priority, which still makes progress where ranks keep all cores busy."""
    os.nice(19)


def _read(path: str, size: int = 1 << 16) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def _python(path: Iterable[str]) -> dict[str, Any]:
    """Return the interpreter, and the torch that it would import."""
    import re

    text = next(filter(None, (_read(os.path.join(folder, "torch", "version.py")) for folder in path if folder)), "")
    found = {"python": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable}
    for name in ("__version__", "cuda", "hip"):
        told = re.search(rf"^{name}\b.*= '([^']+)'", text, re.MULTILINE)
        found["torch" if name == "__version__" else name] = told.group(1) if told else ""
    return found


def _packages(path: Iterable[str], whole: bool) -> dict[str, Any]:
    """Return the installed packages by the names of their metadata directories, and a digest of them."""
    import hashlib
    import re

    found: dict[str, str] = {}
    for folder in path:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")) and len(found) < _MOST_PACKAGES:
                package, _, version = name.rpartition(".")[0].partition("-")
                version = re.sub(r"-py[\d.]+$", "", version)
                # the first directory of sys.path that has a package wins
                found.setdefault(package.lower().replace("_", "-"), version)
    text = "\n".join(f"{package} {version}" for package, version in sorted(found.items()))
    told: dict[str, Any] = {"packages_digest": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]}
    if whole:
        told["packages"] = dict(sorted(found.items()))
    return told


def _machine() -> dict[str, Any]:
    """Return the facts of the machine that may matter to a training."""
    import re

    cpu = re.search(r"^model name\s*: (.*)", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _read("/proc/driver/nvidia/version"))
    if not driver:
        driver = re.search(r"^(\S+)", _read("/sys/module/amdgpu/version"))
    gpus, folder = [], "/proc/driver/nvidia/gpus"
    for bus in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        model = re.search(r"^Model:\s*(.*)", _read(f"{folder}/{bus}/information"), re.MULTILINE)
        gpus.append(model.group(1).strip() if model else "GPU")
    return {
        "kernel": os.uname().release,
        "cpu": cpu.group(1).strip() if cpu else os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(memory.group(1)) << 10 if memory else 0,
        "gpus": gpus,
        "driver": driver.group(1) if driver else "",
    }


def _digest(path: str) -> str:
    """Return the digest of a file; empty if it cannot be read or is large."""
    import hashlib

    try:
        if os.path.isdir(path):
            path = os.path.join(path, "__main__.py")
        if not os.path.isfile(path) or os.path.getsize(path) > _LARGEST:
            return ""
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:12]
    except OSError:
        return ""


def _git(folder: str) -> dict[str, Any] | None:
    """Return the commit and the uncommitted changes around a directory; None if git does not know it."""
    told = _ask_git(folder, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal")
    top = _ask_git(folder, "rev-parse", "--show-toplevel").strip()
    if not told or not top:
        return None
    found: dict[str, Any] = {"root": top, "commit": "", "branch": "", "dirty": [], "more": 0}
    parts = iter(told.split("\0"))
    changed: list[tuple[str, str]] = []
    for part in parts:
        kind, _, rest = part.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            if name == "branch.oid" and value != "(initial)":
                found["commit"] = value
            elif name == "branch.head" and value != "(detached)":
                found["branch"] = value
        elif kind == "?":
            changed.append(("?", rest))
        elif kind in ("1", "u", "2"):
            fields = rest.split(" ", {"1": 7, "u": 9, "2": 8}[kind])
            changed.append((fields[0].strip(".")[-1:] or "M", fields[-1]))
            if kind == "2":
                next(parts, "")  # the name before the change
    lines = _changed_lines(folder) if any(how != "?" for how, _ in changed) else {}
    for how, name in sorted(changed, key=lambda item: (item[0] == "?", item[1]))[:_MOST_FILES]:
        added, removed = lines.get(name, (0, 0))
        file = {"path": name, "change": how, "added": added, "removed": removed}
        found["dirty"].append({**file, "digest": _digest(os.path.join(top, name))})
    found["more"] = max(0, len(changed) - _MOST_FILES)
    return found


def _changed_lines(folder: str) -> dict[str, tuple[int, int]]:
    """Return the numbers of lines added and removed since the commit, by file."""
    found = {}
    for line in _ask_git(folder, "diff", "HEAD", "--numstat", "-z", "--no-renames").split("\0"):
        added, _, rest = line.partition("\t")
        removed, _, name = rest.partition("\t")
        if added.isdigit() and removed.isdigit():
            found[name] = int(added), int(removed)
    return found


def _ask_git(folder: str, *words: str) -> str:
    """Return the output of a git command; empty if it fails. It takes no locks, and starts no monitor."""
    import subprocess

    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LD_"))}
    try:
        done = subprocess.run(
            command,
            cwd=folder or ".",
            env={**env, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GIT_WITHIN,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


if __name__ == "__main__":
    if sys.path and sys.path[0] == "":
        del sys.path[0]  # the working directory may contain a json.py
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "whole", int(sys.argv[4]))
