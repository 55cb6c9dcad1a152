"""The configuration of a lab: number of hosts, their names and addresses, and paths of its files. Pure."""

from __future__ import annotations

from typing import NamedTuple

from muster.errors import InvalidRequest

HEAD = "head"
"""The host from which jobs are started; it runs slurmctld and munged."""

SECOND_USER = "ada"
"""The second user, who is not root."""

SETTLING = 200.0
"""Seconds that sshd and Slurm may take to recover from faults: slurmctld rarely checks a node that it considers down.
"""

MOST = 250
"""Maximum number of nodes, limited by the address range."""

SWITCH_ADDRESS = "10.77.255.254"
"""Address of the switch, which is also the name server that never answers (fault slow-dns)."""

FUSE_LIBRARY = "libfuse3.so.3"
"""The library used for file systems that stall."""

PREFIX = 16
"""Prefix length of the network."""

RESOLVER_PORT = 53
SSH_PORT = 22


SCHEDULERS = {"slurm": "Slurm", "sge": "Grid Engine"}


class Shape(NamedTuple):
    """The requested size of a lab."""

    nodes: int = 3
    gpus: int = 4
    """GPUs per node, as seen by Slurm; no devices exist."""
    cpus: int = 8
    """Cores per node, as seen by Slurm; all nodes share the machine's cores."""
    shared_home: bool = True
    """False gives each node its own home and /home, initially empty. /tmp and /var/tmp are always its own."""
    scheduler: str = "slurm"
    """The scheduler: one of `SCHEDULERS`."""
    accounting: bool = False
    """True adds the accounting of jobs: slurmdbd and MariaDB on the head."""

    def check(self) -> None:
        """Raise `InvalidRequest` if such a lab is not possible."""
        if self.scheduler not in SCHEDULERS:
            raise InvalidRequest(
                f"--scheduler {self.scheduler}: the lab has no such scheduler", f"use {' or '.join(SCHEDULERS)}"
            )
        if self.accounting and self.scheduler != "slurm":
            raise InvalidRequest("--accounting: only a lab with Slurm has it", "leave out --accounting or --scheduler")
        if not 1 <= self.nodes <= MOST:
            raise InvalidRequest(f"--nodes {self.nodes}: a lab has 1 to {MOST} nodes", "choose another --nodes")
        if not 0 <= self.gpus <= 16:
            raise InvalidRequest(f"--gpus {self.gpus}: a lab node has 0 to 16 GPUs", "choose another --gpus")
        if not 1 <= self.cpus <= 1024:
            raise InvalidRequest(f"--cpus {self.cpus}: a lab node has 1 to 1024 cores", "choose another --cpus")

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the nodes: n1, n2, …"""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of all hosts: the head and the nodes."""
        return (HEAD, *self.node_names)


def address(host: str) -> str:
    """Return the IP address of a host: 10.77.0.1 for the head, 10.77.1.N for node N."""
    return "10.77.0.1" if host == HEAD else f"10.77.1.{host[1:]}"


def card(host: str) -> str:
    """Return the MAC address of a host. It stays the same after a crash, since its neighbours cache it."""
    numbers = [int(number) for number in address(host).split(".")]
    return "02:6d:" + ":".join(f"{number:02x}" for number in numbers)


class Folder(NamedTuple):
    """The paths of a lab's files: all below one directory, with the same path on every host."""

    path: str

    @property
    def record(self) -> str:
        """The JSON file with the lab's configuration and the pids of its processes."""
        return f"{self.path}/lab.json"

    @property
    def control(self) -> str:
        """The socket of the daemon."""
        return f"{self.path}/control"

    @property
    def keeper_log(self) -> str:
        """The log of the daemon and the init processes."""
        return f"{self.path}/keeper.log"

    @property
    def ssh(self) -> str:
        """Directory of the ssh keys, configuration and known hosts."""
        return f"{self.path}/ssh"

    @property
    def munge(self) -> str:
        """Directory of the key and socket of munged."""
        return f"{self.path}/munge"

    @property
    def slurm(self) -> str:
        """Directory of Slurm's configuration files, logs and spool directories."""
        return f"{self.path}/slurm"

    @property
    def slurm_conf(self) -> str:
        """The value of SLURM_CONF."""
        return f"{self.slurm}/slurm.conf"

    @property
    def sge(self) -> str:
        """Directory of Grid Engine's files, the value of SGE_ROOT."""
        return f"{self.path}/sge"

    @property
    def slurmdbd_conf(self) -> str:
        """The configuration of slurmdbd, which looks for it beside slurm.conf."""
        return f"{self.slurm}/slurmdbd.conf"

    @property
    def database(self) -> str:
        """Directory of the files of MariaDB."""
        return f"{self.path}/database"

    @property
    def homes(self) -> str:
        """Parent directory of the second user's home."""
        return f"{self.path}/home"

    @property
    def scratch(self) -> str:
        """A file system of each host's own, at the same path; `fault full-disk` fills it."""
        return f"{self.path}/scratch"

    @property
    def share(self) -> str:
        """A directory that all hosts share through FUSE; `fault stall` makes its writes hang."""
        return f"{self.path}/share"

    @property
    def shared(self) -> str:
        """The directory behind `share`."""
        return f"{self.path}/behind-share"

    @property
    def cgroups(self) -> str:
        """Mount point of the freezer hierarchy while the lab creates or removes its groups."""
        return f"{self.path}/cgroup"

    def gate(self, host: str) -> str:
        """Return the file whose lock stalls a host's writes to `share`."""
        return f"{self.path}/gate/{host}"

    def log(self, host: str, service: str) -> str:
        """Return the log file of a host's service."""
        return f"{self.path}/log/{service}-{host}.log"
