"""Torch's own server, which answers questions about a rank while its Python is blocked."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


LOGGER = "torch.distributed.c10d_logger"
"""The module through whose `_WaitCounter` each call of init_process_group goes."""


def serve_from_first_group(logger: Any, path: str, imports: tuple[str, str] | None) -> None:
    """Have torch start its server at `path` when this process calls init_process_group for the first time.

    `imports`: where to record then which packages are imported, and a first line for that file; an empty `path`: no
    server.
    `logger` is the module `LOGGER`. The server has C++ threads, which answer while Python is blocked. They must not
    be there before: a thread more makes Python 3.12 warn of each fork. From then on torch has threads of its own. A
    torch without a server, or whose private names have changed, is left alone.
    """
    real: Any = getattr(logger, "_WaitCounter", None)
    if real is None:
        return
    rank, record_imports = os.getpid(), _record_imports

    def counter(name: str, *more: Any) -> Any:
        if str(name).endswith(".init_process_group"):
            logger._WaitCounter = real
            if os.getpid() == rank:  # not in a child that it has forked
                if imports is not None:
                    record_imports(*imports)
                if path:
                    _start_server(path)
        return real(name, *more)

    logger._WaitCounter = counter


def _record_imports(path: str, header: str) -> None:
    """Write which packages are imported now, for the next run of the script."""
    try:
        standard = getattr(sys, "stdlib_module_names", ())
        tops = {name.partition(".")[0] for name in list(sys.modules)}
        names = " ".join(sorted(name for name in tops if name not in standard))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{header}\n{names}\n".encode(errors="replace"))
        finally:
            os.close(fd)
    except Exception:
        return  # the script does not depend on it


def _start_server(path: str) -> None:
    """Start torch's server without a line in the log; do nothing if that is impossible."""
    import ctypes

    try:
        if not _has_room():
            return
        found = os.path.join(os.path.dirname(sys.modules["torch"].__file__ or ""), "lib", "libc10.so")
        # It writes a line when it starts, and three when it ends: it is never ended.
        level = ctypes.c_int.in_dll(ctypes.CDLL(found), "FLAGS_caffe2_log_level")
        server_type: Any = sys.modules["torch._C._distributed_c10d"]._WorkerServer
        before, level.value = level.value, 4
        try:
            server = server_type(path)
        finally:
            level.value = before
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    except Exception:
        return


_MOST_THREADS = 1 << 14
"""Maximum threads of the servers of all ranks on a machine: each costs the kernel some 30 KB."""


def _has_room() -> bool:
    """Return whether the servers of all ranks here leave at least half of the threads that may still be started.

    A server starts a thread for each core, and at least 8. Torch aborts the process if one of them cannot be started.
    """
    mine = max(8, os.cpu_count() or 1) + 4
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    everyone = mine * (int(ranks) if ranks.isdecimal() and int(ranks) else 1)
    limits = {line[:25].strip(): line[26:].split()[0] for line in _text("/proc/self/limits").splitlines()[1:]}
    stack = int(limits.get("Max stack size", "")) if limits.get("Max stack size", "").isdigit() else 2 << 20
    rooms = [(mine, room // stack) for room in _address_space(limits)] + [(everyone, _MOST_THREADS * 2)]
    rooms += [(everyone, room // stack) for room in _strict_memory()]
    rooms += [(everyone, room) for room in (*_room_of_user(limits), *_room_of_cgroups(), *_room_of_machine())]
    return all(2 * needed <= room for needed, room in rooms)


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _address_space(limits: Mapping[str, str]) -> Iterator[int]:
    """Yield the bytes that this process may still map, if that is limited: each thread has a stack."""
    limit, used = limits.get("Max address space", ""), _text("/proc/self/statm").split()
    if limit.isdigit() and used:
        yield int(limit) - int(used[0]) * os.sysconf("SC_PAGE_SIZE")


def _strict_memory() -> Iterator[int]:
    """Yield the bytes that this machine may still promise, if it counts them: stacks count in whole."""
    if _text("/proc/sys/vm/overcommit_memory").strip() == "2":
        found = dict(line.split()[:2] for line in _text("/proc/meminfo").splitlines())
        yield (int(found.get("CommitLimit:", "0")) - int(found.get("Committed_AS:", "0"))) << 10


def _room_of_user(limits: Mapping[str, str]) -> Iterator[int]:
    """Yield how many threads this user may still start (`ulimit -u`), if that is limited; for root it is not."""
    limit = limits.get("Max processes", "")
    if limit.isdigit() and os.getuid():
        count = 0
        for name in os.listdir("/proc"):
            try:
                found = os.stat(f"/proc/{name}/task") if name.isdigit() else None
            except OSError:
                continue
            if found is not None and found.st_uid == os.getuid():
                count += found.st_nlink - 2  # a subdirectory for each thread
        yield int(limit) - count


def _room_of_cgroups() -> Iterator[int]:
    """Yield how many threads each limited cgroup of this process still admits."""
    for line in _text("/proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        mount = "/sys/fs/cgroup/pids" if controllers else "/sys/fs/cgroup"
        if controllers and "pids" not in controllers.split(","):
            continue
        while True:  # up to the mount, which in a container may be the cgroup itself
            limit, count = (_text(f"{mount}{path}/pids.{name}").strip() for name in ("max", "current"))
            if limit.isdigit() and count.isdigit():
                yield int(limit) - int(count)
            if not path.strip("/"):
                break
            path = path.rstrip("/").rpartition("/")[0]


def _room_of_machine() -> Iterator[int]:
    """Yield how many threads the kernel still admits."""
    count = _text("/proc/loadavg").partition("/")[2].split()
    for name in ("threads-max", "pid_max"):
        limit = _text(f"/proc/sys/kernel/{name}").strip()
        if limit.isdigit() and count and count[0].isdigit():
            yield int(limit) - int(count[0])


class Until:
    """A finder that is asked for one module, `name`, and calls `then` with it once it is imported.

    It removes itself when it is asked, and the other finders find the module.
    """

    def __init__(self, name: str, then: Any) -> None:
        self.name, self.then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of the other finders for the one module."""
        if name != self.name:
            return None
        finders: list[Any] = sys.meta_path
        finders.remove(self)
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        real, then = spec.loader, self.then

        try:

            class Loader(type(real)):  # type: ignore[misc]
                def exec_module(self, module: Any) -> None:
                    module.__spec__.loader = module.__loader__ = real
                    real.exec_module(module)
                    then(module)

            loader = object.__new__(Loader)
            loader.__dict__.update(real.__dict__)
        except (TypeError, AttributeError):  # a loader of an import hook that cannot be copied
            return spec
        spec.loader = loader
        return spec
