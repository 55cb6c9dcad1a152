"""The daemon of a lab: parent process of its hosts, owner of the switch between them, and server of requests.

    python -m muster.lab.daemon FOLDER TOLD LOCK [OWNER]

When it dies for whatever reason, the kernel kills the init process of each host, and with it every process there. So a
lab can be taken down at any moment, even a half-made one, and only files are left.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from muster.errors import ControlError, InvalidRequest, MusterError
from muster.lab import config_files, files, namespaces, sge
from muster.lab.faults import FAULTS
from muster.lab.host_init import Host, ip, live
from muster.lab.spec import (
    HEAD,
    PREFIX,
    RESOLVER_PORT,
    SETTLING,
    SSH_PORT,
    SWITCH_ADDRESS,
    Folder,
    Shape,
    address,
    card,
)
from muster.linux import procfs
from muster.linux.processes import has_handler

PATIENCE = 30.0
"""Seconds that sshd and Slurm may take to start."""


class Stop(Exception):
    """Raised when the daemon is told to stop."""


class Alive(NamedTuple):
    """A running host."""

    pid: int
    channel: socket.socket
    lines: list[dict[str, Any]]
    """Unread reports of the host about services that exited."""


class LabDaemon:
    """The state and the request handlers of one lab."""

    def __init__(self, folder: Folder, owner: int | None):
        self.folder = folder
        self.owner = owner
        """A pipe that is closed when the lab's owner dies."""
        record = json.loads(Path(folder.record).read_text())
        self.shape = Shape(**record["shape"])
        record["keeper"] = [os.getpid(), procfs.started(os.getpid())]
        files.write_record(folder, record)
        self.record: dict[str, Any] = record
        self.hosts: dict[str, Alive] = {}
        self.faults: dict[tuple[str, str], None] = {}
        """Active faults as (fault, host), in the order in which they were made."""
        self.life, self._alive = os.pipe()  # hosts hold the first end only
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self.resolver: socket.socket | None = None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.groups = f"{folder.cgroups}/{files.group_name(folder)}"
        """The hosts' groups in the freezer hierarchy, if there is one."""
        self.gates: dict[str, int] = {}

    # starting

    def up(self) -> None:
        """Create the switch and the hosts, start the services, and wait until they answer."""
        try:
            namespaces.unshare(namespaces.NEW_NET | namespaces.NEW_MOUNTS)
            namespaces.mount("none", "/", "", namespaces.RECURSIVE | namespaces.PRIVATE)
        except OSError as error:
            raise no_namespaces(error) from None
        try:
            ip(
                "link set lo up\nlink add lab0 type bridge\n"
                f"address add {SWITCH_ADDRESS}/{PREFIX} dev lab0\nlink set lab0 up\n"
            )
        except OSError as error:
            raise no_network(error) from None
        # the name server of slow-dns: it receives queries and never answers
        self.resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.resolver.bind((SWITCH_ADDRESS, RESOLVER_PORT))
        tracks, groups = self._freezer()
        files.write(self.folder, self.shape, tracks, self.record["slurm"])
        if self.shape.scheduler == "sge":
            files.write_sge(self.folder)
        self.boot(self.shape.hosts, groups)
        self.start_services(self.shape.hosts)
        self._wait_until_up(time.monotonic() + PATIENCE)

    def _freezer(self) -> tuple[str, str]:
        """Return Slurm's ProctrackType, and the directory with the hosts' freezer groups (empty if there is none)."""
        try:
            os.makedirs(self.folder.cgroups, exist_ok=True)
            namespaces.mount("cgroup", self.folder.cgroups, "cgroup", 0, "freezer")
        except OSError as error:
            self.record["notes"].append(f"no cgroup freezer here ({error}); Slurm tracks processes by parent PID")
            return "proctrack/linuxproc", ""
        os.makedirs(self.groups, exist_ok=True)
        return "proctrack/cgroup", self.groups

    def boot(self, names: tuple[str, ...], groups: str | None = None) -> None:
        """Start hosts and set up their network, without services."""
        if groups is None:
            groups = self.groups if os.path.isdir(self.groups) else ""
        users, guest = config_files.passwd(Path("/etc/passwd").read_text(), self.folder)
        files.give_home(self.folder, guest)
        for name in names:
            group = f"{groups}/{name}" if groups else ""
            if group:
                os.makedirs(group, exist_ok=True)
            kept = (self.folder.path, *self.record["kept"])
            if name == HEAD or self.shape.shared_home:
                kept += tuple(self.record["shared"])
            self._fork(Host(name, self.shape, self.folder, kept, group, users, guest))
        self.record["hosts"] = {name: [alive.pid, procfs.started(alive.pid)] for name, alive in self.hosts.items()}
        files.write_record(self.folder, self.record)
        for name in names:
            self._answer(name)
        lines = [
            f"link add {name} type veth peer name eth0 address {card(name)} netns {self.hosts[name].pid}"
            for name in names
        ]
        lines += [f"link set {name} master lab0 up" for name in names]
        ip("\n".join(lines) + "\n")
        for name in names:
            self.tell(name, "network")
        for name in names:
            self._answer(name)

    def _fork(self, host: Host) -> None:
        ours, theirs = socket.socketpair()
        namespaces.unshare(namespaces.NEW_PIDS)
        pid = os.fork()
        if pid == 0:
            held = {theirs.fileno(), self.life, 0, 1, 2}
            for name in os.listdir("/proc/self/fd"):
                if int(name) not in held:
                    with suppress(OSError):
                        os.close(int(name))
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            live(host, theirs, self.life)
        namespaces.enter(self.own_pids, namespaces.NEW_PIDS)  # so that the next child gets a new namespace too
        theirs.close()
        self.hosts[host.name] = Alive(pid, ours, [])

    def start_services(self, names: tuple[str, ...]) -> None:
        """Start the services of each host. munged comes first: no part of Slurm communicates without it."""
        if HEAD in names:
            self.ask(HEAD, "start", name="munged", argv=files.munged(self.folder))
        for name in names:
            self.tell(name, "start", name="sshd", argv=files.sshd(self.folder))
        for name in names:
            self._answer(name)
        self._until(lambda: os.path.exists(f"{self.folder.munge}/socket"), HEAD, "munged", 10)
        nodes = [name for name in names if name != HEAD]
        if self.shape.scheduler == "sge":
            self._start_sge(HEAD in names, nodes)
        else:
            self._start_slurm(HEAD in names, nodes)
        if self.record["share"]:
            for name in names:
                self.ask(name, "share")

    def _start_slurm(self, head: bool, nodes: list[str]) -> None:
        if head and self.shape.accounting:
            self._start_accounting()
        if head:
            self.ask(HEAD, "start", name="slurmctld", argv=files.slurmctld(self.folder))
        for name in nodes:
            self.tell(name, "start", name="slurmd", argv=files.slurmd(self.folder, name))
        for name in nodes:
            self._answer(name)

    def _start_sge(self, head: bool, nodes: list[str]) -> None:
        """Start Grid Engine; its qmaster is configured once it runs, and before the nodes report to it."""
        if head:
            self.ask(HEAD, "start", name="qmaster", argv=sge.daemon(self.folder, "qmaster"))
            pid = self.hosts[HEAD].pid
            self._until(lambda: files.in_host(self.folder, pid, ["qconf", "-sh"]).returncode == 0, HEAD, "qmaster", 20)
            if not os.path.exists(f"{self.folder.sge}/set-up"):
                done = files.in_host(self.folder, pid, ["bash", "-c", sge.setup(self.shape)])
                if done.returncode != 0:
                    raise ControlError(f"cannot configure Grid Engine: {(done.stderr or done.stdout).strip()}")
                Path(self.folder.sge, "set-up").touch()
        for name in nodes:
            self.ask(name, "start", name="execd", argv=sge.daemon(self.folder, "execd"))

    def _start_accounting(self) -> None:
        """Start MariaDB and slurmdbd. slurmctld comes after them: it asks slurmdbd for its cluster when it starts."""
        root = f"/proc/{self.hosts[HEAD].pid}/root"
        self.ask(HEAD, "start", name="mariadbd", argv=files.mariadbd(self.folder))
        self._until(lambda: os.path.exists(root + config_files.DATABASE_SOCKET), HEAD, "mariadbd", PATIENCE)
        self.ask(HEAD, "start", name="slurmdbd", argv=files.slurmdbd())
        self._until(lambda: _accepts(address(HEAD), config_files.ACCOUNTING_PORT), HEAD, "slurmdbd", PATIENCE)
        files.in_host(self.folder, self.hosts[HEAD].pid, files.new_cluster())

    def kill_service(self, host: str, service: str, program: str) -> None:
        """Kill all processes of a service on a host, and wait until it has exited."""
        for pid in namespaces.running(self.hosts[host].pid, program):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        alive, end = self.hosts[host], time.monotonic() + 5
        while not [line for line in alive.lines if line["ended"] == service] and time.monotonic() < end:
            self._read(0.1)
        alive.lines.clear()

    def _until(self, holds: Any, host: str, service: str, within: float) -> None:
        """Wait until `holds` returns true. Raises `ControlError` with the end of the service's log."""
        end = time.monotonic() + within
        while not holds():
            self._read(0.02)
            ended = [line for name in self.hosts for line in self.hosts[name].lines]
            if ended or time.monotonic() > end:
                what = f"{ended[0]['ended']} exited with status {ended[0]['status']}" if ended else None
                service = ended[0]["ended"] if ended else service
                host = ended[0]["host"] if ended else host
                words = files.last_lines(self.folder.log(host, service))
                raise ControlError(
                    f"cannot start the lab: {host}: {what or f'{service} did not answer within {within:g}s'}",
                    f"last lines of the {service} log:\n{words}",
                )

    def _wait_until_up(self, end: float) -> None:
        for name in self.shape.hosts:
            self._until(lambda name=name: _greets(address(name)), name, "sshd", end - time.monotonic())
        daemon = "qmaster" if self.shape.scheduler == "sge" else "slurmctld"
        self._until(self._scheduler_is_ready, HEAD, daemon, end - time.monotonic())
        if self.record["share"]:
            for name in self.shape.hosts:
                seen = f"/proc/{self.hosts[name].pid}/root{self.folder.share}/.here"
                self._until(lambda seen=seen: os.path.exists(seen), name, "share", end - time.monotonic())

    def _scheduler_is_ready(self) -> bool:
        if self.shape.scheduler == "sge":
            return sge.ready(files.in_host(self.folder, self.hosts[HEAD].pid, ["qhost"]).stdout, self.shape)
        return self._lost_nodes() == []

    def _lost_nodes(self) -> list[str] | None:
        """Return the nodes that slurmctld considers down or that have not registered; None unless it reports all nodes.

        A restarted slurmctld remembers that a node was idle, and gives jobs its cores before it has registered again:
        their number of GPUs is 0 then, whatever they requested (Slurm 22.05).
        """
        done = files.in_host(self.folder, self.hosts[HEAD].pid, ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %t"])
        states = dict(line.split() for line in done.stdout.splitlines())
        done = files.in_host(self.folder, self.hosts[HEAD].pid, ["scontrol", "--oneliner", "show", "nodes"])
        booted = dict(re.findall(r"^NodeName=(\S+) .*?\bBootTime=(\S+)", done.stdout, re.M))
        if not len(states) == len(booted) == self.shape.nodes:
            return None
        # `*` marks a node that does not respond; drained nodes are intended
        down = {node for node, state in states.items() if state.endswith("*") or state.startswith(("down", "unk"))}
        return [node for node, time in booted.items() if node in down or time == "None"]

    def _register_lost_nodes(self, end: float) -> None:
        """Send SIGHUP to the slurmd of each node that slurmctld considers down, to make it register again.

        slurmctld checks such nodes only rarely: 55 s were measured after a partition, 8 s after its own restart.
        """
        self._until(lambda: self._lost_nodes() is not None, HEAD, "slurmctld", end - time.monotonic())
        for node in self._lost_nodes() or []:
            for pid in namespaces.running(self.hosts[node].pid, "slurmd"):
                # SIGHUP would kill a slurmd that has just started, which registers by itself
                if has_handler(pid, signal.SIGHUP):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGHUP)

    # requests to hosts

    def tell(self, host: str, do: str, **more: Any) -> None:
        """Send a request to a host; `_answer` returns the reply."""
        self.hosts[host].channel.sendall(json.dumps({"do": do, **more}).encode() + b"\n")

    def ask(self, host: str, do: str, **more: Any) -> Any:
        """Send a request to a host and return the reply. Raises `ControlError`."""
        self.tell(host, do, **more)
        return self._answer(host)

    def _answer(self, host: str) -> Any:
        alive = self.hosts[host]
        while True:
            message = self._line(host, alive)
            if "ended" in message:
                alive.lines.append({**message, "host": host})
            elif "error" in message:
                raise (
                    no_network(OSError(message["error"]))
                    if message["network"]
                    else ControlError(f"lab host {host}: {message['error']}", f"see {self.folder.keeper_log}")
                )
            else:
                return message["ok"]

    def _line(self, host: str, alive: Alive) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            got = alive.channel.recv(1)
            if not got:
                raise ControlError(f"lab host {host} exited during a request", f"see {self.folder.keeper_log}")
            data += got
        message: dict[str, Any] = json.loads(data)
        return message

    def _read(self, timeout: float) -> None:
        """Read the hosts' reports."""
        by_channel = {alive.channel: (name, alive) for name, alive in self.hosts.items()}
        for channel in select.select(list(by_channel), [], [], timeout)[0]:
            name, alive = by_channel[channel]
            alive.lines.append({**self._line(name, alive), "host": name})

    # serving requests

    def listen(self) -> None:
        """Listen for requests; they queue until they are handled."""
        with suppress(FileNotFoundError):
            os.unlink(self.folder.control)
        self.listener.bind(self.folder.control)
        os.chmod(self.folder.control, 0o600)
        self.listener.listen(16)

    def serve(self, stop: int) -> None:
        """Handle requests until told to stop; `stop` is readable once a signal has arrived."""
        while True:
            channels = {alive.channel: name for name, alive in self.hosts.items()}
            watched: list[Any] = [self.listener, stop, *channels]
            if self.owner is not None:
                watched.append(self.owner)
            ready = select.select(watched, [], [])[0]
            if stop in ready or self.owner in ready:
                raise Stop
            for channel in ready:
                if channel in channels:
                    self._hear_host(channels[channel])
            if self.listener in ready:
                self._hear_request(self.listener.accept()[0])

    def _hear_host(self, name: str) -> None:
        alive = self.hosts[name]
        try:
            message = self._line(name, alive)
        except (MusterError, OSError):
            self.forget_host(name)
            return
        print(f"{name}: {message}", flush=True)

    def forget_host(self, name: str) -> None:
        """Remove a host that has exited."""
        alive = self.hosts.pop(name)
        alive.channel.close()
        with suppress(ProcessLookupError):
            os.kill(alive.pid, signal.SIGKILL)
        files.thaw(f"{self.groups}/{name}")
        with suppress(ChildProcessError):
            os.waitpid(alive.pid, 0)

    def _hear_request(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            try:
                message = json.loads(connection.makefile().readline())
                answer = {"ok": getattr(self, "on_" + message.pop("ask"))(**message)}
            except MusterError as error:
                answer = {"error": error.sentence, "hint": error.hint}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}", "hint": f"see {self.folder.keeper_log}"}
            with suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def on_status(self) -> dict[str, Any]:
        """Return the pid of each running host, and the active faults."""
        return {"hosts": {name: alive.pid for name, alive in self.hosts.items()}, "faults": list(self.faults)}

    def on_fault(self, name: str, host: str) -> None:
        """Make a fault."""
        if (name, host) not in self.faults:
            FAULTS[name].make(self, host)
            self.faults[name, host] = None

    def on_clear(self, name: str, host: str, settle: bool) -> list[tuple[str, str]]:
        """Undo faults in reverse order and return them; an empty name or host matches any.

        `settle`: also wait until sshd and Slurm answer on all hosts again, if no fault remains.
        """
        chosen = [key for key in self.faults if name in ("", key[0]) and host in ("", key[1])]
        for key in reversed(chosen):
            FAULTS[key[0]].undo(self, key[1])
            self.faults.pop(key, None)
        if chosen and settle and not self.faults:
            end = time.monotonic() + SETTLING
            if self.shape.scheduler == "slurm":
                self._register_lost_nodes(end)
            self._wait_until_up(end)
        return chosen

    def end(self) -> None:
        """Kill all hosts, and wait until they have exited."""
        for gate in self.gates.values():
            os.close(gate)
        for alive in self.hosts.values():
            with suppress(ProcessLookupError):
                os.kill(alive.pid, signal.SIGKILL)
        files.thaw(self.groups)
        for alive in self.hosts.values():
            with suppress(ChildProcessError):
                os.waitpid(alive.pid, 0)


def no_namespaces(error: OSError) -> InvalidRequest:
    """Return the error for a kernel, or a container, that allows no namespaces."""
    return InvalidRequest(
        f"cannot create namespaces for the hosts of the lab ({error})",
        "in a container: start it with `--privileged`; elsewhere: enable namespaces in the kernel",
    )


def no_network(error: OSError) -> InvalidRequest:
    """Return the error for interfaces that cannot be created."""
    return InvalidRequest(
        f"cannot create the network of the lab ({error})",
        "in a container: start it with `--privileged`, or with `--cap-add NET_ADMIN --cap-add SYS_ADMIN`; the kernel "
        "needs the modules `bridge` and `veth`",
    )


def _greets(host: str) -> bool:
    try:
        with socket.create_connection((host, SSH_PORT), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def main() -> None:
    """Run the daemon with the arguments FOLDER and file descriptors.

    TOLD receives whether the lab is up, or why not. LOCK locks the directory until the record names the daemon. When
    OWNER, if given, is closed, the lab is taken down.
    """
    folder = Folder(sys.argv[1])
    told = os.fdopen(int(sys.argv[2]), "w")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    keeper = LabDaemon(folder, int(sys.argv[4]) if sys.argv[4:] else None)
    os.close(int(sys.argv[3]))
    answer: dict[str, Any] = {"ok": True}
    try:
        keeper.up()
        keeper.listen()  # before reporting that it is up: the first request follows immediately
    except MusterError as error:
        answer = {"error": error.sentence, "hint": error.hint, "impossible": isinstance(error, InvalidRequest)}
    except Exception as error:
        words = f"cannot start the lab: {type(error).__name__}: {error}"
        answer = {"error": words, "hint": None, "impossible": False}
        raise
    finally:
        if "error" in answer:
            keeper.end()
        with suppress(BrokenPipeError):
            told.write(json.dumps(answer) + "\n")
            told.close()
    if "error" in answer:
        return
    try:
        keeper.serve(reading)
    except Stop:
        pass
    finally:
        keeper.end()
        if keeper.owner is not None:
            files.clear_away(folder)


if __name__ == "__main__":
    main()
