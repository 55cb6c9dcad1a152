"""Contents of the files that a lab's ssh, Slurm and resolver read. Pure: writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from muster.lab import sge
from muster.lab.spec import HEAD, SECOND_USER, SWITCH_ADDRESS, Folder, Shape, address

GPU_DEVICES = "/run/gpu"
"""Directory on each host with the device nodes that stand for GPUs."""

CGROUPS_INSIDE = "/run/cgroup"
"""Directory on each host with its own freezer hierarchy."""

PARTITIONS = (
    # jobs in `main` and `spare` are preempted by jobs in `urgent`: those in `main` at once, those in `spare` after a
    # grace time
    "PartitionName=main Default=YES PriorityTier=1 PreemptMode=REQUEUE",
    "PartitionName=spare PriorityTier=1 PreemptMode=REQUEUE GraceTime=6",
    "PartitionName=urgent PriorityTier=100 PreemptMode=OFF",
)


DATABASE_SOCKET = "/run/mysqld/mysqld.sock"
"""Where MariaDB's clients expect its socket. /run is each host's own, so no server of the machine is touched."""

ACCOUNTING_PORT = 6819
"""Port of slurmdbd."""


def slurm_conf(shape: Shape, folder: Folder, tracks: str, more: Mapping[str, str]) -> str:
    """Return slurm.conf; `tracks` is its ProctrackType, `more` are keys to override."""
    keys = {
        "ClusterName": "lab",
        "SlurmctldHost": f"{HEAD}({address(HEAD)})",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # a requeued job waits until its last credential expires, which takes 121 s by default
        "AuthInfo": f"socket={folder.munge}/socket,cred_expire=5",
        "StateSaveLocation": f"{folder.slurm}/state",
        "SlurmdSpoolDir": f"{folder.slurm}/spool-%n",
        "SlurmctldPidFile": f"{folder.slurm}/slurmctld.pid",
        "SlurmdPidFile": f"{folder.slurm}/slurmd-%n.pid",
        "ProctrackType": tracks,
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        # the nodes claim more cores than the machine has
        "SlurmdParameters": "config_overrides",
        "ReturnToService": "2",
        "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=0,bf_interval=5",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "MpiDefault": "none",
        "KillWait": "5",
        # a step cannot end while slurmctld is down, as in a fault here, and its node would be drained after a minute
        "UnkillableStepTimeout": "600",
        "SlurmdTimeout": "15",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        **({"GresTypes": "gpu"} if shape.gpus else {}),
        **(_accounting(shape, folder) if shape.accounting else {}),
        **more,
    }
    gres = f" Gres=gpu:toy:{shape.gpus}" if shape.gpus else ""
    lines = [f"{key}={value}" for key, value in keys.items()]
    each = f"CPUs={shape.cpus} RealMemory=16000{gres}"
    lines += [f"NodeName={node} NodeAddr={address(node)} {each}" for node in shape.node_names]
    lines += [f"{partition} Nodes=ALL MaxTime=INFINITE DefaultTime=60" for partition in PARTITIONS]
    return "\n".join(lines) + "\n"


def _accounting(shape: Shape, folder: Folder) -> dict[str, str]:
    """Return keys of slurm.conf."""
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": address(HEAD),
        "AccountingStoragePass": f"{folder.munge}/socket",
        **({"AccountingStorageTRES": "gres/gpu"} if shape.gpus else {}),
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "2",  # practice jobs are short
    }


def gres_conf(shape: Shape) -> str:
    """Return gres.conf: device nodes that stand for GPUs, so that Slurm sets CUDA_VISIBLE_DEVICES as for real ones."""
    return f"Name=gpu Type=toy File={GPU_DEVICES}/gpu[0-{shape.gpus - 1}]\n" if shape.gpus else ""


def cgroup_conf() -> str:
    """Return cgroup.conf, for cgroup v1, whose freezer only needs a mount."""
    return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={CGROUPS_INSIDE}\n"


def variables(shape: Shape, folder: Folder) -> dict[str, str]:
    """Return the environment variables with which the scheduler's programs find the lab's cluster."""
    return {"SLURM_CONF": folder.slurm_conf} if shape.scheduler == "slurm" else sge.variables(folder)


def slurmdbd_conf(folder: Folder) -> str:
    """Return slurmdbd.conf. The database knows root by its socket, so there is no password."""
    keys = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder.munge}/socket",
        "DbdHost": HEAD,
        "DbdAddr": address(HEAD),
        "DbdPort": str(ACCOUNTING_PORT),
        "SlurmUser": "root",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "slurm_acct_db",
        "PidFile": f"{folder.slurm}/slurmdbd.pid",
        "CommitDelay": "1",
    }
    return "".join(f"{key}={value}\n" for key, value in keys.items())


def sshd_config(folder: Folder, shape: Shape) -> str:
    """Return the sshd_config of all sshds in the lab.

    It selects a fast key exchange: all hosts share the cores of one machine, and the usual one takes 0.3 s of CPU.
    """
    return f"""HostKey {folder.ssh}/host_key
AuthorizedKeysFile {folder.ssh}/authorized_keys_%u
PidFile none
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
X11Forwarding no
PrintMotd no
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
MaxStartups 500
MaxSessions 500
AcceptEnv LANG LC_*
SetEnv {" ".join(f"{name}={value}" for name, value in variables(shape, folder).items())}
Subsystem sftp internal-sftp
"""


def ssh_config(folder: Folder, shape: Shape) -> str:
    """Return the hosts' /etc/ssh/ssh_config; %u is the calling user."""
    return f"""Host {" ".join(shape.hosts)} 10.77.*
    IdentityFile {folder.ssh}/id_%u
    IdentitiesOnly yes
    GlobalKnownHostsFile {folder.ssh}/known_hosts
    UserKnownHostsFile /dev/null
    UpdateHostKeys no
"""


def ssh_config_outside(folder: Folder, shape: Shape, connect: str) -> str:
    """Return an ssh configuration for use outside the lab; `connect` is its ProxyCommand, without host and port."""
    blocks = [f"Host {host}\n    HostName {address(host)}\n" for host in shape.hosts]
    return (
        "".join(blocks)
        + f"""Host {" ".join(shape.hosts)}
    User root
    IdentityFile {folder.ssh}/id_root
    IdentitiesOnly yes
    GlobalKnownHostsFile {folder.ssh}/known_hosts
    UserKnownHostsFile /dev/null
    UpdateHostKeys no
    ProxyCommand {connect} %h %p
    ProxyUseFdpass yes
"""
    )


def known_hosts(shape: Shape, key: str) -> str:
    """Return known_hosts with one key for all hosts."""
    names = [f"{host},{address(host)}" for host in shape.hosts]
    return "".join(f"{name} {' '.join(key.split()[:2])}\n" for name in names)


def genders(shape: Shape) -> str:
    """Return the genders file for `pdsh -a` and `pdsh -g compute`: the nodes, without the head."""
    return "".join(f"{node} compute\n" for node in shape.node_names)


def hosts_file(shape: Shape, own: str, loopback: bool = False) -> str:
    """Return the /etc/hosts of a host.

    With `loopback` its own name maps to 127.0.1.1, as some installers write it.
    """
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{'127.0.1.1' if loopback and host == own else address(host)} {host}" for host in shape.hosts]
    return "\n".join(lines) + "\n"


def nsswitch(slow: bool = False) -> str:
    """Return nsswitch.conf: names come from files, and with `slow` also from a name server that never answers."""
    hosts = "files dns" if slow else "files"
    return f"passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\nservices: files\nprotocols: files\n"


def resolv_conf(slow: bool = False) -> str:
    """Return resolv.conf; it has a name server only if `slow`."""
    return f"nameserver {SWITCH_ADDRESS}\n" if slow else ""


def passwd(machine: str, folder: Folder) -> tuple[str, int]:
    """Return the machine's passwd with the second user added, and that user's uid."""
    lines = [line for line in machine.splitlines() if line.strip() and not line.startswith(f"{SECOND_USER}:")]
    taken = {line.split(":")[2] for line in lines if line.count(":") >= 3}
    number = next(number for number in range(2001, 60000) if str(number) not in taken)
    lines.append(f"{SECOND_USER}:x:{number}:{number}:{SECOND_USER}:{folder.homes}/{SECOND_USER}:/bin/bash")
    return "\n".join(lines) + "\n", number


def group(machine: str, number: int) -> str:
    """Return the machine's groups with the second user's added."""
    return "".join(line + "\n" for line in machine.splitlines() if line.strip()) + f"{SECOND_USER}:x:{number}:\n"


def shadow(users: str) -> str:
    """Return shadow without passwords and locked accounts: without PAM, sshd refuses accounts whose password is `!`."""
    return "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in users.splitlines())
