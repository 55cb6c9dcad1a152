"""Linux processes: start one, find its descendants, kill them, and make sure they are gone."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable

from muster.linux import procfs, run_mark

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

STACKS_SIGNAL = signal.SIGRTMIN + 13
"""Signal on which a rank dumps the Python stacks of its threads. A real-time signal, which no script uses."""

FAULTS = frozenset(
    (signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS)
)
"""Signals that report a fault of the process itself: after a handler returns, the same instruction would fail again."""

CATCHABLE = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP} - FAULTS
"""Signals that a process can receive from others and survive."""

_libc = ctypes.CDLL(None, use_errno=True)

mark_of_children = 0
"""The mark of the run whose processes this process starts (`run_mark.py`); 0 for none."""


def reason(error: BaseException) -> str:
    """Return what an exception says, for the end of a message. Never empty: many exceptions have no text."""
    said = getattr(error, "strerror", None) or str(error)
    return str(said) if str(said).strip() else type(error).__name__


def reason_at(error: BaseException) -> str:
    """Return what an exception says, followed by the path if it is about a file."""
    path = getattr(error, "filename", None)
    return f"{reason(error)}: {os.fsdecode(path)}" if path and not isinstance(path, int) else reason(error)


NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""The errors of a full disk, an exhausted quota, and a file size limit."""

NO_MORE = "cannot start more processes or threads"


def no_more_processes() -> OSError:
    """Return the error for a process or thread that the kernel refuses to start, with this user's limit."""
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    words = f"limit of this user: {allowed}" if allowed != resource.RLIM_INFINITY else "this user has no limit"
    return BlockingIOError(errno.EAGAIN, f"{NO_MORE} ({words}; see `ulimit -u`)")


FEWER_PROCESSES = "stop other processes of yours, raise the limit with `ulimit -u`, or use fewer ranks"
"""The hint for reaching that limit."""


def met_limit(error: BaseException) -> bool:
    """Return whether the error means that this user's process limit was reached."""
    return isinstance(error, OSError) and error.errno == errno.EAGAIN


def fork() -> int:
    """Fork like `os.fork`; the error states which limit was reached."""
    try:
        return os.fork()
    except OSError as error:
        raise no_more_processes() if error.errno == errno.EAGAIN else error from None


def start_thread(work: Callable[[], object]) -> threading.Thread:
    """Start and return a daemon thread that runs `work`. Raises OSError if no more threads can be started."""
    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the only exception Python has for this
        raise no_more_processes() from None
    return thread


def ancestors() -> list[tuple[str, ...]]:
    """Return the command lines of the parent, its parent, and so on, as far as they are visible."""
    found = []
    pid = os.getppid()
    while pid > 0:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found.append(tuple(os.fsdecode(word) for word in file.read().rstrip(b"\0").split(b"\0")))
        except OSError:
            break
        seen = procfs.stat(pid)
        pid = seen.parent if seen else 0
    return found


def hear_signals() -> None:
    """Unblock all signals: those blocked since this program started (see `bundle.py`), or by its parent."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def become_subreaper() -> None:
    """Make this process the new parent of orphaned descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_pdeathsig(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies. Return False if the parent is gone already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def spawn(
    argv: list[str],
    env: Mapping[str, str],
    cwd: str,
    stdin: int,
    stdout: int,
    stderr: int,
    keep: Iterable[int] = (),
    cpus: Collection[int] = (),
    tied: bool = True,
) -> int:
    """Start a program in a new session and return its pid; if `tied`, it is killed when this process dies, and has the
    mark of the run (`run_mark.py`).

    `stdin`, `stdout`, `stderr` are descriptors; `keep` are more descriptors to inherit; `cpus` are the cores it may
    use. Raises the child's OSError if the program cannot be started.
    """
    parent = os.getpid()
    told, tell = os.pipe()
    try:
        pid = fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if pid:
        os.close(tell)
        with open(told, "rb") as pipe:
            failed = pipe.read()
        if failed:
            os.waitpid(pid, 0)
            number, _, at = failed.partition(b" ")
            raise OSError(int(number), os.strerror(int(number)), os.fsdecode(at))
        return pid
    what = argv[0]
    try:
        os.setsid()
        # Python ignores or handles these signals; a program expects the defaults
        for caught in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(caught, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        # duplicate the descriptors first, or a dup2 could overwrite the source of the next one
        wanted = [os.dup(fd) for fd in (stdin, stdout, stderr)]
        for target, fd in enumerate(wanted):
            os.dup2(fd, target)
        for fd in keep:
            os.set_inheritable(fd, True)
        if cpus:
            os.sched_setaffinity(0, cpus)
        what = cwd
        os.chdir(cwd)
        what = argv[0]
        if tied and not set_pdeathsig(parent):
            os._exit(1)
        if tied and mark_of_children:
            run_mark.put(mark_of_children)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(tell, b"%d %s" % (error.errno or 0, os.fsencode(what)))
    finally:
        os._exit(127)


_RESERVE = 64
"""Descriptors reserved for short-lived files and children; at most a quarter of all."""


def first_reserved() -> int:
    """Return the descriptor number below which all dispensable long-lived files lie: the kernel assigns the lowest."""
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if most < 0 else most - min(_RESERVE, most // 4)


def open_first(paths: Sequence[str]) -> int:
    """Open the first path that can be opened for appending, creating the file if missing.

    Raises the OSError of the last path.
    """
    for path in paths[:-1]:
        try:
            return os.open(path, _APPEND, 0o600)
        except OSError:
            continue
    return os.open(paths[-1], _APPEND, 0o600)


def make_private(folder: str) -> None:
    """Create a directory and its missing parents for this user only, whatever the umask. Raises OSError."""
    if not os.path.isdir(folder):
        above = os.path.dirname(os.path.abspath(folder))
        if above != folder:
            make_private(above)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None


def why_shared(folder: str) -> str:
    """Return why other users could replace a file in this directory, as the end of a message; empty if they cannot.

    In a sticky directory such as /tmp nobody can. A user's private group does not count as other users.
    """
    try:
        found = os.stat(folder)
    except OSError as error:
        return reason(error)
    if found.st_uid not in (0, os.geteuid()) and not _unmapped(found.st_uid):
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & stat.S_ISVTX:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return "it is world-writable"
    if found.st_mode & stat.S_IWGRP and not is_private_group(found.st_gid, found.st_uid):
        return f"it is writable by group {found.st_gid}"
    return ""


def _unmapped(uid: int) -> bool:
    """Return whether `uid` stands for all users unknown to a container, as root's /tmp has in an unprivileged one."""
    try:
        with open("/proc/sys/kernel/overflowuid") as overflow, open("/proc/self/uid_map") as known:
            return uid == int(overflow.read()) and known.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def is_private_group(gid: int, uid: int) -> bool:
    """Return whether the group has no other member than this user: with such groups files are often group-writable."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def try_to_write(folder: str) -> None:
    """Write a test file, raising OSError if that fails: a full disk often takes an empty file, but no byte in it."""
    path = os.path.join(folder, f".muster-{os.urandom(8).hex()}")  # random, so no file has that name
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = folder
        raise
    finally:
        try:
            os.unlink(path)
        except OSError:
            pass


def descendants(
    root: int, look: Callable[[], Mapping[int, tuple[str, int, bool]]] = procfs.family
) -> dict[int, tuple[str, int]]:
    """Return all live descendants of `root` as {pid: (name, parent)}, without zombies; `look` returns all processes."""
    every = look()
    children: dict[int, list[int]] = {}
    for pid, (_, parent, _) in every.items():
        children.setdefault(parent, []).append(pid)
    found, todo = {}, [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            name, parent, lives = every[pid]
            todo.append(pid)
            if lives:
                found[pid] = (name, parent)
    return found


def words_of(pid: int) -> list[bytes]:
    """Return the command line of a process; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def is_cleaner(pid: int) -> bool:
    """Return whether a process is a resource tracker of multiprocessing or torch.

    It exits after the processes it serves, and frees what they left behind.
    """
    words = words_of(pid)
    tracker = any(b"multiprocessing.resource_tracker" in word for word in words)
    return tracker or (bool(words) and words[0].endswith(b"torch_shm_manager"))


def has_handler(pid: int, number: int) -> bool:
    """Return whether a process has installed a handler for the signal."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False


def blocks(pid: int, number: int, thread: int) -> bool:
    """Return whether a thread of a process blocks the signal; True if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            for line in file:
                if line.startswith("SigBlk:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return True


def catchers(
    pid: int, number: int, look: Callable[[], Mapping[int, tuple[str, int, bool]]] = procfs.family
) -> list[int]:
    """Return the processes with a handler for the signal: this one, or else its nearest descendants.

    A shell or a profiler between them does not forward signals. `look` returns all processes: a node has thousands, and
    who asks for several ranks looks once.
    """
    if has_handler(pid, number):
        return [pid]
    children: dict[int, list[int]] = {}
    for child, (_, parent) in descendants(pid, look).items():
        children.setdefault(parent, []).append(child)
    found, waiting = [], children.get(pid, [])
    while waiting:
        child = waiting.pop()
        if has_handler(child, number):
            found.append(child)
        else:
            waiting += children.get(child, [])
    return sorted(found)


def wait_for_exits(pids: Collection[int], seconds: float) -> bool:
    """Wait until these processes, which need not be children, have exited; return False if one has not in time."""
    deadline = time.monotonic() + seconds
    while any(map(procfs.lives, pids)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_EXITS)
    return True


_EXITS = 0.01
"""Seconds between looks at processes that are to exit."""


def send_signal(pid: int, number: int, group: bool = False) -> bool:
    """Send a signal to a process, or to its process group; return False if it is gone.

    One of another user stays, and gets nothing: `sudo` and other programs become root.
    """
    try:
        (os.killpg if group else os.kill)(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_TGKILL = {"x86_64": 234, "aarch64": 131}


def send_signal_to_thread(pid: int, thread: int, number: int) -> bool:
    """Send a signal to one thread of a process; return False if it is gone."""
    call = _TGKILL.get(os.uname().machine)
    if call is None:
        return send_signal(pid, number)
    return bool(_libc.syscall(call, pid, thread, number) == 0)


def describe_process(pid: int, name: str) -> dict[str, Any]:
    """Return the description of a leftover process: the fields of `results.Leftover`."""
    found = procfs.stat(pid)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        words = ""
    state = found.state if found is not None else ""
    return {"process": words[:80] or name, "pid": pid, "state": state, "gpu": _holds_gpu(pid)}


def _holds_gpu(pid: int) -> bool:
    """Return whether a process has a GPU device open, and so usually some of its memory."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(link.startswith(("/dev/nvidia", "/dev/kfd")) for link in links)


def leftover_descendants(root: int, spare: Iterable[int]) -> dict[int, str]:
    """Return the live descendants of `root`, {pid: name}, except `spare`, their descendants, and resource trackers."""
    family, spared, before = descendants(root), set(spare), -1
    while len(spared) != before:
        before = len(spared)
        spared |= {pid for pid, (_, parent) in family.items() if parent in spared}
    return {pid: name for pid, (name, _) in family.items() if pid not in spared and not is_cleaner(pid)}


class Killing:
    """Kills all descendants of `root`, step by step: each look may find processes that were started meanwhile.

    Resource trackers are left to exit by themselves.
    """

    def __init__(self, root: int, within: float = 5.0) -> None:
        """`within`: seconds after which processes that do not exit are given up."""
        self.root, self._deadline = root, time.monotonic() + within
        self._killed: dict[int, dict[str, Any]] = {}
        self._left: dict[int, str] = {}

    def step(self, spare: Collection[int] = ()) -> bool:
        """Kill what is there, except `spare` and their descendants; return whether nothing is left, or the time is
        over."""
        self._left = leftover_descendants(self.root, spare)
        if not self._left or time.monotonic() > self._deadline:
            return True
        for pid, name in self._left.items():
            # one that exits by itself was not killed; a resource tracker cannot be told from others then
            if pid not in self._killed and not procfs.is_exiting(pid):
                self._killed[pid] = describe_process(pid, name)
            send_signal(pid, signal.SIGKILL)
        return False

    @property
    def killed(self) -> list[dict[str, Any]]:
        """The killed processes, as `describe_process` describes them."""
        return list(self._killed.values())

    @property
    def left(self) -> list[dict[str, Any]]:
        """The processes that were still alive at the last step."""
        return [describe_process(pid, name) for pid, name in self._left.items()]


LOOKS_AGAIN = 0.002
"""Seconds between the first steps of a `Killing`: the kernel needs this for most processes."""


def kill_descendants(
    root: int, spare: Collection[int] = (), within: float = 5.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Kill all descendants of `root` except `spare` and their descendants, and wait until they are gone.

    Waits at most `within` seconds. Returns (killed processes, processes still alive).
    """
    killing = Killing(root, within)
    while not killing.step(spare):
        time.sleep(LOOKS_AGAIN)
    return killing.killed, killing.left


def node_folder(run_dir: str, host: str) -> str:
    """Return a host's directory in the run directory. PYTHONPATH is split at colons, so IPv6 addresses use dots."""
    return os.path.join(run_dir, "node_" + host.replace(":", "."))
