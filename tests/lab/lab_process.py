"""A machine of a test's own, on which all that there is can be listed: so that what a lab leaves is seen to the last.

    python stage.py hold     be that machine until stdin ends; says its pid
    python stage.py look     list, as JSON, what is on the machine that this runs on

It is made of namespaces, as a container is: own processes, mounts, network, /run, /tmp, /var/lib and control groups.
Other tests, which run at the same time, are not to be seen from it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SOURCES = str(Path(__file__).parents[2] / "src")
OWN = tuple(
    path
    for path in ("/run", "/tmp", "/var/tmp", "/var/lib", "/dev/shm")
    if not any(place.startswith(f"{path}/") for place in (SOURCES, sys.prefix, sys.base_prefix))
)
"""Directories where the stage has its own file systems, initially empty; not those that hold this checkout."""

CONFIGURATION = ("/etc", "~/.ssh")


def skip_without_root() -> None:
    """Skip a test where no lab can be started, with the reason of the fixture `lab`."""
    import pytest

    from muster.errors import InvalidRequest
    from muster.lab import requirements, testing

    try:
        requirements.check()
    except InvalidRequest as error:
        pytest.skip(f"{testing._SKIPPED}: {error.sentence}")


class LabProcess:
    """A machine for one test, inside `with`."""

    def __init__(self, home: Path):
        self.env = {name: os.environ[name] for name in ("PATH", "HOME", "TERM") if name in os.environ}
        self.env.update(LANG="C.UTF-8", PYTHONPATH=SOURCES, MUSTER_HOME=str(home))

    def __enter__(self) -> LabProcess:
        words = [sys.executable, __file__, "hold"]
        self.holder = subprocess.Popen(words, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        self.pid = int(self.holder.stdout.readline() or 0)
        assert self.pid, "the stage did not come up"
        return self

    def __exit__(self, *_: object) -> None:
        self.holder.communicate(timeout=30)
        assert 0 == self.holder.returncode

    def argv(self, *words: str) -> list[str]:
        """Return the command line that runs `words` on the stage."""
        kinds = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", "-t", str(self.pid), *kinds, "--wd=/", "--", *words]

    def run(self, *words: str, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to completion."""
        options: dict[str, Any] = {"env": self.env, "capture_output": True, "text": True, "timeout": timeout}
        if "input" not in more:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.argv(*words), **{**options, **more})

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command without waiting."""
        options: dict[str, Any] = {"env": self.env, "stdin": subprocess.DEVNULL, "text": True}
        options.update(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        return subprocess.Popen(self.argv(*words), **{**options, **more})

    def muster(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run `muster` to completion."""
        return self.run(sys.executable, "-m", "muster", *words, **more)

    def start_muster(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start `muster` without waiting."""
        return self.start(sys.executable, "-m", "muster", *words, **more)

    def python(self, text: str, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a Python program that uses `muster.lab` to completion."""
        return self.run(sys.executable, "-c", text, *words, **more)

    def path(self, path: str) -> Path:
        """Return the path by which a file of the stage is visible from here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def look(self) -> dict[str, list[str]]:
        """Return all that is on the stage now."""
        done = self.run(sys.executable, "-S", "-E", __file__, "look")
        assert 0 == done.returncode, done.stderr
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found

    def inhabitants(self) -> dict[int, str]:
        """Return the command lines of the stage's processes by their pid out here."""
        own, found = os.readlink(f"/proc/{self.pid}/ns/pid_for_children"), {}
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with suppress(OSError):
                if pid != self.pid and os.readlink(f"/proc/{pid}/ns/pid") == own:
                    found[pid] = " ".join(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
        return found

    def keeper(self) -> int:
        """Return the pid, out here, of the daemon of the stage's lab; 0 if there is none."""
        # hosts are forked from it into pid namespaces of their own
        return next((pid for pid, words in self.inhabitants().items() if "-m muster.lab.daemon" in words), 0)

    def muster_pid(self) -> int:
        """Return the pid, out here, of a running `muster`."""
        return next((pid for pid, words in self.inhabitants().items() if "-m muster lab" in words), 0)


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what was added (+) and removed (-), by kind."""
    found = {}
    for kind in before:
        old, new = set(before[kind]), set(after[kind])
        lines = [f"+ {line}" for line in after[kind] if line not in old]
        lines += [f"- {line}" for line in before[kind] if line not in new]
        if lines:
            found[kind] = lines
    return found


# ---- on the stage ----------------------------------------------------------------------------------------------------


def look() -> dict[str, list[str]]:
    """Return all that is on this machine, except for this process."""
    return {
        "processes": sorted(_processes()),
        "namespaces": sorted(_namespaces()),
        "mounts": Path("/proc/mounts").read_text().splitlines(),
        "named network namespaces": _said("ip", "netns"),
        "links": _said("ip", "-o", "link"),
        "unix sockets": sorted(" ".join(line.split()[7:]) for line in _lines("/proc/net/unix")[1:]),
        "ipc": [line for kind in ("msg", "sem", "shm") for line in _lines(f"/proc/sysvipc/{kind}")],
        "control groups": sorted(path for path, _, _ in os.walk("/sys/fs/cgroup/freezer")),
        "files": sorted({line for top in OWN for line in _files(top)}),
        "configuration": sorted({line for top in CONFIGURATION for line in _files(os.path.expanduser(top), True)}),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _said(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def _others() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _processes() -> list[str]:
    found = []
    for pid in _others():
        with suppress(OSError):
            started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            found.append(f"{pid} {started} {Path(f'/proc/{pid}/cmdline').read_text()!r}")
    return found


def _namespaces() -> set[str]:
    found = set()
    for pid in _others():
        with suppress(OSError):
            found |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")}
    return found


def _files(top: str, changes: bool = False) -> list[str]:
    """Return each file below a directory with its type, owner and mode, and optionally its modification time."""
    found = []
    for folder, folders, files in os.walk(top):
        for path in [folder, *(f"{folder}/{name}" for name in folders + files)]:
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                changed = f" {status.st_ino} {status.st_size} {status.st_ctime_ns}" if changes else ""
                found.append(f"{path} {status.st_mode:o} {status.st_uid}{changed}")
    return found


# ---- being the stage -------------------------------------------------------------------------------------------------


def hold() -> int:
    """Create the machine, and keep it until stdin is closed."""
    sys.path[:0] = [SOURCES, str(Path(__file__).parents[1])]
    from waiting import until

    from muster.lab import namespaces

    at = tempfile.mkdtemp(prefix="stage-")
    namespaces.unshare(namespaces.NEW_MOUNTS)
    namespaces.mount("none", "/", "", namespaces.RECURSIVE | namespaces.PRIVATE)
    group = ""
    with suppress(OSError):  # on a machine without a freezer, labs have no control groups
        namespaces.mount("cgroup", at, "cgroup", 0, "freezer")
        group = f"{at}/{os.path.basename(at)}"
        os.mkdir(group)
    reading, writing = os.pipe()
    namespaces.unshare(namespaces.NEW_PIDS)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            _be(group, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    ready = os.read(reading, 1)
    print(pid if ready else "", flush=True)
    sys.stdin.read()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if group:
        for path, _, _ in os.walk(group, topdown=False):
            until(lambda path=path: _removed(path), f"{path} can be removed")
        namespaces.unmount(at)
    os.rmdir(at)
    return 0 if ready else 1


def _removed(path: str) -> bool:
    with suppress(OSError):
        os.rmdir(path)
    return not os.path.isdir(path)


def _be(group: str, ready: int) -> None:
    """Run as the first process of the machine, which reaps children, and waits to be killed."""
    from muster.lab import namespaces

    namespaces.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    if group:
        Path(group, "cgroup.procs").write_text("0")
    namespaces.unshare(
        namespaces.NEW_NET | namespaces.NEW_UTS | namespaces.NEW_IPC | namespaces.NEW_MOUNTS | namespaces.NEW_CGROUPS
    )
    namespaces.name_host("stage")
    namespaces.mount("proc", "/proc", "proc")
    for path in OWN:
        namespaces.mount("tmpfs", path, "tmpfs", 0, "mode=1777")
    with suppress(OSError):
        namespaces.unmount("/sys/fs/cgroup/freezer")  # mounting the same file system over itself is refused
        namespaces.mount("cgroup", "/sys/fs/cgroup/freezer", "cgroup", 0, "freezer")
    # MS_SHARED, as systemd sets for the mounts of a real machine: mounts of a lab must not propagate
    namespaces.mount("none", "/", "", namespaces.RECURSIVE | 1 << 20)
    subprocess.Popen(["ip", "link", "set", "lo", "up"]).wait()
    os.write(ready, b".")
    os.close(ready)
    os.closerange(3, 64)
    while True:
        signal.pause()


def main(words: Sequence[str]) -> int:
    """Run the program."""
    if words == ["hold"]:
        return hold()
    print(json.dumps(look()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
