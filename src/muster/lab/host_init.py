"""The init process of a host: sets up its namespaces, starts services when requested, and reaps.

It receives requests from the daemon as JSON lines on a socket, answers each, and is killed by the kernel when the
daemon dies. An init process that does not reap would leave zombies, for which Slurm waits forever (COMPLETING).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from muster.lab import config_files, namespaces
from muster.lab.spec import FUSE_LIBRARY, HEAD, PREFIX, SECOND_USER, Folder, Shape, address

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TEMPORARY = ("/tmp", "/var/tmp")
"""Directories where each host has its own temporary files and local sockets: tmux, ssh agents, Ray, MPI."""

_ROOMY = "size=50%,mode="
"""Mount options of a host's own file systems: the size is a limit, not a reservation."""


class Host(NamedTuple):
    """The configuration of a host."""

    name: str
    shape: Shape
    folder: Folder
    kept: tuple[str, ...]
    """Directories that stay visible below a mount: the lab's own, Python, and what hosts share."""
    group: str
    """Directory of this host's group in the freezer hierarchy; empty if there is none."""
    passwd: str
    guest: int
    """Uid of the second user."""


class NoNetwork(OSError):
    """A network interface could not be created or configured."""


def _failed(error: BaseException) -> dict[str, Any]:
    """Return the reply to the daemon for a failure."""
    network = isinstance(error, NoNetwork)
    name = "OSError" if network else type(error).__name__
    return {"error": f"{name}: {error}", "network": network}


def live(host: Host, channel: socket.socket, keeper: int) -> NoReturn:
    """Run as the init process of a new host, until killed. `keeper` is a pipe that closes when the daemon dies."""
    status = 1
    try:
        namespaces.die_with_parent(signal.SIGKILL)
        if not select.select([keeper], [], [], 0)[0]:  # otherwise the daemon died before the previous line
            HostInit(host, channel).run()
            status = 0
    except BaseException as error:
        with suppress(OSError):
            channel.sendall(_line(_failed(error)))
    finally:
        os._exit(status)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class HostInit:
    """The init process of one host."""

    def __init__(self, host: Host, channel: socket.socket):
        self.host = host
        self.channel = channel
        self.services: dict[int, str] = {}
        self.own: list[str] = []
        """Mount points of this host's own file systems, which can be filled."""

    def run(self) -> None:
        """Set up the host, then handle requests."""
        # a session without a terminal, so that Ctrl-C in the lab's terminal does not reach it
        os.setsid()
        namespaces.unshare(namespaces.NEW_NET | namespaces.NEW_UTS | namespaces.NEW_MOUNTS | namespaces.NEW_IPC)
        self._mounts()
        namespaces.name_host(self.host.name)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(reading, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.channel.sendall(_line({"ok": True}))
        rest = b""
        while True:
            watched: list[Any] = [self.channel, reading]
            ready = select.select(watched, [], [])[0]
            if reading in ready:
                with suppress(BlockingIOError):
                    while os.read(reading, 4096):
                        pass
                self._reap()
            if self.channel in ready:
                data = self.channel.recv(1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._do(json.loads(line))

    def _do(self, message: dict[str, Any]) -> None:
        try:
            answer = getattr(self, "do_" + message.pop("do"))(**message)
            self.channel.sendall(_line({"ok": answer}))
        except Exception as error:
            self.channel.sendall(_line(_failed(error)))

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                name = self.services.pop(pid, None)
                if name is not None:
                    self.channel.sendall(_line({"ended": name, "status": os.waitstatus_to_exitcode(status)}))

    # setup

    def _mounts(self) -> None:
        namespaces.mount("none", "/", "", namespaces.RECURSIVE | namespaces.PRIVATE)
        namespaces.mount("proc", "/proc", "proc")
        self._cgroups_and_sys()
        self._cover("/dev/shm", "1777")
        self._cover("/run", "755")
        os.mkdir("/run/sshd", 0o755)
        os.mkdir(os.path.dirname(config_files.DATABASE_SOCKET), 0o755)
        self._gpus()
        self._etc()
        for path in (self.host.folder.scratch, *TEMPORARY):
            if path not in self.host.kept:
                self._cover(path, "1777", own=True)
        if not self.host.shape.shared_home and self.host.name != HEAD:
            home = os.path.expanduser("~root")
            for path, mode in ((home, "711"), ("/home", "755")):
                if os.path.isdir(path):
                    self._cover(path, mode, own=True)
            self._cover(self.host.folder.homes, "755", own=True)
            guest = f"{self.host.folder.homes}/{SECOND_USER}"
            os.mkdir(guest, 0o700)
            os.chown(guest, self.host.guest, self.host.guest)

    def _cgroups_and_sys(self) -> None:
        """Mount a /sys with this host's interfaces and the machine's cgroups, and a freezer hierarchy of its own."""
        with _held("/sys/fs/cgroup") as cgroups:
            if self.host.group:
                Path(self.host.group, "cgroup.procs").write_text("0")
                namespaces.unshare(namespaces.NEW_CGROUPS)
                namespaces.unmount(self.host.folder.cgroups)
            namespaces.mount("sysfs", "/sys", "sysfs")
            namespaces.mount(cgroups, "/sys/fs/cgroup", "", namespaces.BIND | namespaces.RECURSIVE)

    def _cover(self, path: str, mode: str, own: bool = False) -> None:
        """Mount an empty file system at `path`, and keep the directories in `kept` visible."""
        below = sorted(kept for kept in self.host.kept if kept.startswith(path + "/"))  # outermost first
        descriptors = [os.open(kept, os.O_PATH) for kept in below]
        namespaces.mount("tmpfs", path, "tmpfs", 0, f"{_ROOMY}{mode}")
        for kept, descriptor in zip(below, descriptors):
            os.makedirs(kept, exist_ok=True)
            namespaces.mount(f"/proc/self/fd/{descriptor}", kept, "", namespaces.BIND | namespaces.RECURSIVE)
            os.close(descriptor)
        if own:
            self.own.append(path)

    def _gpus(self) -> None:
        os.mkdir(config_files.GPU_DEVICES)
        for number in range(self.host.shape.gpus):
            # the null device: Slurm requires a character device, and nothing opens it
            os.mknod(f"{config_files.GPU_DEVICES}/gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        if self.host.group:
            os.makedirs(f"{config_files.CGROUPS_INSIDE}/freezer")
            namespaces.mount("cgroup", f"{config_files.CGROUPS_INSIDE}/freezer", "cgroup", 0, "freezer")

    def _etc(self) -> None:
        """Mount the host's own /etc as an overlay on the machine's, which is never written to."""
        os.makedirs("/run/etc")
        namespaces.mount("tmpfs", "/run/etc", "tmpfs")
        os.makedirs("/run/etc/upper")
        os.makedirs("/run/etc/work")
        namespaces.mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work")
        shape, folder = self.host.shape, self.host.folder
        self.do_write("/etc/hostname", self.host.name + "\n")
        self.do_write("/etc/hosts", config_files.hosts_file(shape, self.host.name))
        self.do_write("/etc/nsswitch.conf", config_files.nsswitch())
        self.do_write("/etc/resolv.conf", config_files.resolv_conf())
        self.do_write("/etc/group", config_files.group(Path("/etc/group").read_text(), self.host.guest))
        self.do_write("/etc/passwd", self.host.passwd)
        self.do_write("/etc/shadow", config_files.shadow(self.host.passwd), 0o600)
        for path in ("/etc/ssh", "/etc/pdsh"):
            os.makedirs(path, exist_ok=True)
        self.do_write("/etc/ssh/ssh_config", config_files.ssh_config(folder, shape))
        self.do_write("/etc/pdsh/rcmd_default", "ssh\n")  # Debian's default is rsh
        self.do_write("/etc/genders", config_files.genders(shape))

    # requests of the daemon

    def do_write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Replace a file; a symbolic link is replaced, not followed."""
        new = f"{path}.lab"
        Path(new).write_text(text)
        os.chmod(new, mode)
        os.replace(new, path)

    def do_network(self) -> None:
        """Configure the address of the interface that the daemon created."""
        lines = f"link set lo up\naddress add {address(self.host.name)}/{PREFIX} dev eth0\nlink set eth0 up\n"
        ip(lines)

    def do_start(self, name: str, argv: list[str]) -> int:
        """Start a service, logging to the lab's directory; return its pid in the host's namespace."""
        log = self.host.folder.log(self.host.name, name)
        env = {"PATH": PATH, "SLURM_CONF": self.host.folder.slurm_conf, "LANG": "C.UTF-8"}
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.services[process.pid] = name
        process.returncode = 0  # it is reaped in `_reap`, not by this object
        return process.pid

    def do_share(self) -> int:
        """Serve the shared directory whose writes can be stalled."""
        pid = os.fork()
        if pid == 0:
            try:
                # otherwise mfusepy first searches for other libraries with gcc, whose files stay in /tmp if it is
                # killed
                os.environ.setdefault("FUSE_LIBRARY_PATH", FUSE_LIBRARY)
                from muster.lab.fuse_stall import serve

                os.set_inheritable(self.channel.fileno(), False)
                self.channel.close()
                log = os.open(self.host.folder.log(self.host.name, "share"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                serve(self.host.folder.shared, self.host.folder.share, self.host.folder.gate(self.host.name))
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                os._exit(1)
        self.services[pid] = "share"
        return pid

    def do_full(self) -> None:
        """Fill this host's own file systems completely."""
        for path in self.own:
            used = os.statvfs(path)
            size = max(1, (used.f_blocks - used.f_bfree) * used.f_frsize)
            namespaces.mount("tmpfs", path, "tmpfs", namespaces.REMOUNT, f"size={size}")

    def do_roomy(self) -> None:
        """Restore the size of this host's own file systems."""
        for path in self.own:
            namespaces.mount("tmpfs", path, "tmpfs", namespaces.REMOUNT, "size=50%")


class _held:
    """Keeps a directory reachable while something is mounted over it, by the path that `with` returns."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_PATH)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def ip(lines: str) -> None:
    """Run lines of ip(8). Raises `NoNetwork` with its error message."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input=lines, text=True, capture_output=True, env={"PATH": PATH, "LANG": "C"}
    )
    if done.returncode != 0:
        raise NoNetwork(f"ip: {done.stderr.strip().splitlines()[0] if done.stderr.strip() else done.returncode}")
