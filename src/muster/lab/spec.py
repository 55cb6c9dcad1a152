"""What a lab is made of: how many hosts, their names and addresses, and where its files lie. Touches nothing."""

from __future__ import annotations

from typing import NamedTuple

from muster.errors import InvalidRequest

HEAD = "head"
"""The host from which jobs are started; slurmctld and munged live there."""

SECOND_USER = "ada"
"""The second user, who is not root."""

SETTLING = 200.0
"""Seconds that sshd and Slurm may take to come up after faults: slurmctld checks a node that it considers down only now
and then."""

MOST = 250
"""Nodes that a lab may have: its addresses end there."""

SWITCH_ADDRESS = "10.77.255.254"
"""The switch itself. It also is the name server that never answers (fault slow-dns)."""

FUSE_LIBRARY = "libfuse3.so.3"
"""What makes file systems that stall."""

PREFIX = 16
"""Bits of the network in an address."""

RESOLVER_PORT = 53
SSH_PORT = 22


class Shape(NamedTuple):
    """What was asked for."""

    nodes: int = 3
    gpus: int = 4
    """GPUs a node, as Slurm counts them; there is no device behind them."""
    cpus: int = 8
    """Cores a node, as Slurm counts them; the machine's own cores are shared."""
    shared_home: bool = True
    """False gives each node a home and a /home of its own, empty at first. /tmp and /var/tmp always are."""

    def check(self) -> None:
        """Raise `InvalidRequest` when there can be no such lab."""
        if not 1 <= self.nodes <= MOST:
            raise InvalidRequest(
                f"a lab has 1 to {MOST} nodes, and {self.nodes} were asked for", "name another `--nodes`"
            )
        if not 0 <= self.gpus <= 16:
            raise InvalidRequest(f"a node of a lab has 0 to 16 GPUs, and {self.gpus} were asked for", "see `--gpus`")
        if not 1 <= self.cpus <= 1024:
            raise InvalidRequest(f"a node of a lab has 1 to 1024 cores, and {self.cpus} were asked for", "see `--cpus`")

    @property
    def node_names(self) -> tuple[str, ...]:
        """n1, n2, …"""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The head and the nodes."""
        return (HEAD, *self.node_names)


def address(host: str) -> str:
    """The address of a host. It is 10.77.0.1 for the head, 10.77.1.N for node N."""
    return "10.77.0.1" if host == HEAD else f"10.77.1.{host[1:]}"


def card(host: str) -> str:
    """The hardware address of a host. It is the same after a crash: its neighbours remember it."""
    numbers = [int(number) for number in address(host).split(".")]
    return "02:6d:" + ":".join(f"{number:02x}" for number in numbers)


class Folder(NamedTuple):
    """Where the files of a lab lie: all beneath one folder, by the same path on every host."""

    path: str

    @property
    def record(self) -> str:
        """What the lab is and which processes hold it, as JSON."""
        return f"{self.path}/lab.json"

    @property
    def control(self) -> str:
        """The socket on which the keeper hears."""
        return f"{self.path}/control"

    @property
    def keeper_log(self) -> str:
        """What the keeper and the hosts said."""
        return f"{self.path}/keeper.log"

    @property
    def ssh(self) -> str:
        """Keys, configuration, known hosts."""
        return f"{self.path}/ssh"

    @property
    def munge(self) -> str:
        """The key and the socket of munged."""
        return f"{self.path}/munge"

    @property
    def slurm(self) -> str:
        """slurm.conf and its company, logs, spool folders."""
        return f"{self.path}/slurm"

    @property
    def slurm_conf(self) -> str:
        """What SLURM_CONF names."""
        return f"{self.slurm}/slurm.conf"

    @property
    def homes(self) -> str:
        """Where the second user is at home."""
        return f"{self.path}/home"

    @property
    def scratch(self) -> str:
        """A file system of each host's own, behind the same path; the one that `fault full-disk` fills."""
        return f"{self.path}/scratch"

    @property
    def share(self) -> str:
        """A folder that all hosts share through FUSE; `fault stall` makes its writes hang."""
        return f"{self.path}/share"

    @property
    def shared(self) -> str:
        """The files behind `share`."""
        return f"{self.path}/behind-share"

    @property
    def cgroups(self) -> str:
        """Where the freezer hierarchy is mounted while the lab makes or removes its groups in it."""
        return f"{self.path}/cgroup"

    def gate(self, host: str) -> str:
        """The file by whose lock writes on `share` of a host are held up."""
        return f"{self.path}/gate/{host}"

    def log(self, host: str, service: str) -> str:
        """What a service of a host said."""
        return f"{self.path}/log/{service}-{host}.log"
