"""Faults that can be injected: one row each, with how it is made and undone."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Protocol

from muster.errors import InvalidRequest
from muster.lab import config_files, files, namespaces
from muster.lab.host_init import ip
from muster.lab.spec import HEAD, Folder, Shape


class Alive(Protocol):
    """A running host."""

    @property
    def pid(self) -> int:
        """The pid of its init process."""


class LabControl(Protocol):
    """The part of the lab's daemon (`daemon.py`) that faults use."""

    shape: Shape
    folder: Folder
    record: dict[str, Any]
    faults: dict[tuple[str, str], None]
    """Active faults as (fault, host)."""
    gates: dict[str, int]
    """By host: the descriptor whose lock stalls its file system."""

    @property
    def hosts(self) -> Mapping[str, Alive]:
        """The running hosts."""

    def ask(self, host: str, do: str, **more: Any) -> Any:
        """Send a request to a host and return the reply."""

    def boot(self, names: tuple[str, ...]) -> None:
        """Start hosts and set up their network, without services."""

    def start_services(self, names: tuple[str, ...]) -> None:
        """Start the services of each host."""

    def kill_service(self, host: str, service: str, program: str) -> None:
        """Kill all processes of a service on a host, and wait until it has exited."""

    def forget_host(self, name: str) -> None:
        """Remove a host that has exited."""


class Fault(NamedTuple):
    """A way in which a cluster breaks."""

    says: str
    """Description for users."""
    make: Callable[[LabControl, str], None]
    undo: Callable[[LabControl, str], None]
    of_host: bool = True
    """True for the fault of a host, False for one of the whole lab."""


def _alive(keeper: LabControl, host: str) -> int:
    if host not in keeper.hosts:
        raise InvalidRequest(f"{host} is down", "start it again with `muster lab fault clear`")
    return keeper.hosts[host].pid


def _disconnect(keeper: LabControl, host: str) -> None:
    _alive(keeper, host)
    ip(f"link set {host} down\n")


def _reconnect(keeper: LabControl, host: str) -> None:
    if host in keeper.hosts:
        ip(f"link set {host} up\n")


def _slow_names(keeper: LabControl, host: str, slow: bool = True) -> None:
    if slow or host in keeper.hosts:
        _alive(keeper, host)
        keeper.ask(host, "write", path="/etc/nsswitch.conf", text=config_files.nsswitch(slow))
        keeper.ask(host, "write", path="/etc/resolv.conf", text=config_files.resolv_conf(slow))


def _loopback_name(keeper: LabControl, host: str, loopback: bool = True) -> None:
    if loopback or host in keeper.hosts:
        _alive(keeper, host)
        keeper.ask(host, "write", path="/etc/hosts", text=config_files.hosts_file(keeper.shape, host, loopback))


def _fill(keeper: LabControl, host: str) -> None:
    _alive(keeper, host)
    keeper.ask(host, "full")


def _empty(keeper: LabControl, host: str) -> None:
    if host in keeper.hosts:
        keeper.ask(host, "roomy")


def _stall(keeper: LabControl, host: str) -> None:
    _alive(keeper, host)
    if not keeper.record["share"]:
        raise InvalidRequest(f"{host} has no file system that supports stalling", "; ".join(keeper.record["notes"]))
    gate = os.open(keeper.folder.gate(host), os.O_RDONLY)
    fcntl.flock(gate, fcntl.LOCK_EX)
    keeper.gates[host] = gate


def _release(keeper: LabControl, host: str) -> None:
    os.close(keeper.gates.pop(host))


def _signal_all(number: signal.Signals) -> Callable[[LabControl, str], None]:
    def send(keeper: LabControl, host: str) -> None:
        if number == signal.SIGSTOP:
            _alive(keeper, host)
        if host not in keeper.hosts:
            return
        reached: set[int] = set()
        while True:  # until no new process is found: one may be forking now
            new = set(namespaces.inhabitants(keeper.hosts[host].pid)) - reached
            if not new:
                break
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            reached |= new
        if number == signal.SIGCONT:
            namespaces.wake_entrances(keeper.hosts[host].pid)

    return send


def _crash(keeper: LabControl, host: str) -> None:
    os.kill(_alive(keeper, host), signal.SIGKILL)
    keeper.forget_host(host)
    # the other faults of this host are gone with it
    for name, where in [key for key in keeper.faults if key[1] == host and key[0] != "crash"]:
        if name == "stall":
            _release(keeper, host)
        del keeper.faults[name, where]


def _boot(keeper: LabControl, host: str) -> None:
    keeper.boot((host,))
    keeper.start_services((host,))


def _drop_ssh(keeper: LabControl, host: str) -> None:
    _alive(keeper, host)
    # the listener and its fork for each connection; commands started through them live on
    keeper.kill_service(host, "sshd", "sshd")


def _ssh_again(keeper: LabControl, host: str) -> None:
    if host in keeper.hosts:
        keeper.ask(host, "start", name="sshd", argv=files.sshd(keeper.folder))


def _slurmctld_down(keeper: LabControl, host: str) -> None:
    _alive(keeper, HEAD)
    keeper.kill_service(HEAD, "slurmctld", "slurmctld")


def _slurmctld_up(keeper: LabControl, host: str) -> None:
    if HEAD in keeper.hosts:
        keeper.ask(HEAD, "start", name="slurmctld", argv=files.slurmctld(keeper.folder))


FAULTS: Mapping[str, Fault] = {
    "partition": Fault("the host sends and receives no packets", _disconnect, _reconnect),
    "slow-dns": Fault(
        "DNS lookups time out, as reverse lookups do on many clusters; names in /etc/hosts resolve",
        _slow_names,
        lambda keeper, host: _slow_names(keeper, host, False),
    ),
    "loopback-name": Fault(
        "the host's own name resolves to 127.0.1.1, as some installers configure it",
        _loopback_name,
        lambda keeper, host: _loopback_name(keeper, host, False),
    ),
    "full-disk": Fault(
        "the host's local file systems are full: scratch, /tmp, /var/tmp; with --no-shared-home also its home",
        _fill,
        _empty,
    ),
    "stall": Fault("writes to the directory `share` hang on this host, and cannot be killed", _stall, _release),
    "freeze": Fault(
        "all processes of the host are stopped (SIGSTOP)", _signal_all(signal.SIGSTOP), _signal_all(signal.SIGCONT)
    ),
    "crash": Fault("all processes of the host are killed at once; `clear` starts it again", _crash, _boot),
    "drop-ssh": Fault("all ssh connections to the host break, and new ones are refused", _drop_ssh, _ssh_again),
    "slurmctld-down": Fault("slurmctld is killed", _slurmctld_down, _slurmctld_up, of_host=False),
}
