"""What the doctor concludes: each check one function over what the machines told, and one row in `CHECKS`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from muster.core.fold import by_value
from muster.core.plurals import plural
from muster.linux.hardware import IDENTITY
from muster.schedulers import SCHEDULERS, get_scheduler, title

Facts = Mapping[str, Any]
"""What a machine told of itself; see `agent/probe.py`."""


class ClusterFacts(NamedTuple):
    """What is known of all machines together."""

    facts: Mapping[str, Facts]
    """By host, in their order."""
    ways: Mapping[tuple[str, str], str]
    """Why (from, to) cannot be connected on a free port; empty when it can."""
    clocks: Mapping[str, float]
    """By how many seconds the wall clock of a host is ahead of that of this machine."""
    folder: str
    """Where the ranks start."""
    nodes: Mapping[str, tuple[str, str]]
    """Of the scheduler, by node: the state and the reason; empty without one."""
    gres: Mapping[str, int]
    """The GPUs that the scheduler has for each node."""
    scheduler: str = ""
    """The key of the scheduler that is here; empty without one."""
    scheduler_silent: str = ""
    """Why it does not answer."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: str
    """`error`: training will fail or hang. `warning`: it will be slow, or fail some day."""
    host: str
    summary: str
    impact: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """For `muster doctor --json`, whose keys stay as they are: scripts read them."""
        return {
            "level": self.level,
            "host": self.host,
            "found": self.summary,
            "why": self.impact,
            "do": self.remedy,
        }


class Check(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[ClusterFacts], Iterator[Finding]]
    cheap: bool = False
    """It needs only what `machine.at_no_cost` tells, so that each run can look."""


SLOW_NAME = 0.1
SLOW_REFUSAL = 2.0
SLOW_IMPORT = 15.0
GIB = 1 << 30
SMALL_SHM = 128 << 20
"""What containers have by default is half of it: a handful of DataLoader workers is too much for that."""


def _names(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        for name, told in facts["names"].items():
            if "hangs" in told or told.get("seconds", 0.0) > 4.0:
                took = told.get("hangs") or told["seconds"]
                yield Finding(
                    "error",
                    host,
                    f"looking up {name} takes {took:.1f} s",
                    "each connection between ranks waits for that",
                    "a line for each host in /etc/hosts, or `hosts: files` in /etc/nsswitch.conf",
                )
            elif "error" in told:
                yield Finding(
                    "warning",
                    host,
                    f"{name} is no name there: {told['error']}",
                    "launchers that hand over names (mpirun, deepspeed, Ray) fail; muster hands over addresses",
                    "a line for each host in /etc/hosts",
                )
            elif told["seconds"] > SLOW_NAME:
                yield Finding(
                    "warning",
                    host,
                    f"looking up {name} takes {told['seconds']:.2f} s",
                    "each connection between ranks waits for that",
                    "a line for each host in /etc/hosts",
                )


def _refusals(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        took = facts["nobody"].get("hangs", facts["nobody"].get("seconds", 0.0))
        if took > SLOW_REFUSAL:
            yield Finding(
                "warning",
                host,
                f"a name or address that no file has takes {took:.1f} s to be refused",
                "a server for names does not answer, and torch looks up addresses backwards",
                "see /etc/resolv.conf there; or `hosts: files` in /etc/nsswitch.conf",
            )


def _names_agree(patient: ClusterFacts) -> Iterator[Finding]:
    seen: dict[str, dict[str, list[str]]] = {}
    for host, facts in patient.facts.items():
        for name, told in facts["names"].items():
            if told.get("addresses") and name != host:
                seen.setdefault(name, {}).setdefault(", ".join(told["addresses"]), []).append(host)
    for name, answers in seen.items():
        real = {address for _, address in patient.facts.get(name, {}).get("interfaces", ())}
        wrong = [host for told, hosts in answers.items() if not real & set(told.split(", ")) for host in hosts]
        # names of other kinds, as ssh may have them, are not where the machine says it is
        for host in wrong if wrong and len(wrong) < sum(map(len, answers.values())) else _odd(answers):
            why = "hosts that look for it find different machines"
            yield Finding("error", host, f"{name} means {_differ(answers)}", why, "one /etc/hosts for all")


def _own_name(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        addresses = facts["own"].get("addresses", [])
        if "error" in facts["own"]:
            yield Finding(
                "warning",
                host,
                f"its own name has no address: {facts['own']['error']}",
                "gloo looks it up, and fails; muster names the interface instead",
                "a line for it in /etc/hosts there",
            )
        if len(patient.facts) > 1 and any(address.startswith("127.") for address in addresses):
            yield Finding(
                "warning",
                host,
                f"its own name means {', '.join(addresses)}",
                "gloo and some launchers tell others to connect there, and these reach themselves; muster names the "
                "interface instead",
                f"remove the line with 127.0.1.1 from /etc/hosts of {host}, or give the name its real address",
            )


def _ways(patient: ClusterFacts) -> Iterator[Finding]:
    """Each way that is broken, told of the host that is in most of them: a firewall there breaks all ways to it."""
    broken = {pair: why for pair, why in patient.ways.items() if why}
    while broken:
        counts = Counter(host for pair in broken for host in pair)
        worst = max(patient.facts, key=lambda host: counts[host])
        for pair in [pair for pair in broken if worst in pair]:
            start, end = pair
            words = f"cannot connect to {end}" if start == worst else f"{start} cannot connect to it"
            yield Finding(
                "error",
                worst,
                f"{words}: {broken.pop(pair)}",
                "ranks connect to each other on ports that the kernel chooses",
                "let TCP through between the nodes, on all ports from 1024 on",
            )


def _mtu(patient: ClusterFacts) -> Iterator[Finding]:
    sizes = by_value(
        (host, facts["mtus"][name]) for host, facts in patient.facts.items() for name, _ in facts["interfaces"][:1]
    )
    for host in _odd(sizes):
        why = "large messages may be lost without a word"
        yield Finding("warning", host, f"MTU differs: {_differ(sizes)}", why, "one MTU for all")


def _versions(patient: ClusterFacts) -> Iterator[Finding]:
    with_torch = {host: facts for host, facts in patient.facts.items() if "version" in facts["torch"]}
    for what, read in _VERSIONS.items():
        found = by_value((host, str(value)) for host, facts in with_torch.items() if (value := read(facts)) != "")
        for host in _odd(found):
            why = "ranks hang or disagree"
            yield Finding("error", host, f"{what}: {_differ(found)}", why, "the same environment on all")


_VERSIONS: Mapping[str, Callable[[Facts], Any]] = {
    "torch differs": lambda facts: facts["torch"]["version"],
    "CUDA of torch differs": lambda facts: facts["torch"]["cuda"],
    "NCCL differs": lambda facts: facts["torch"]["nccl"],
    "Python differs": lambda facts: ".".join(facts["python"].split(".")[:2]),
    "the driver differs": lambda facts: _drivers(facts),
}


def _drivers(facts: Facts) -> str:
    return ",".join(sorted({gpu["driver_version"] for gpu in facts["smi"].get("gpus", ())}))


def _differ(found: Mapping[Any, Sequence[str]]) -> str:
    """`2.13 on n1, n2; 2.12 on n3`."""
    return "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in found.items())


def _odd(found: Mapping[Any, Sequence[str]]) -> list[str]:
    """The hosts that are not as most are."""
    most = max(found.values(), key=len, default=())
    return [host for hosts in found.values() if hosts is not most for host in hosts]


def _torch(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        torch = facts["torch"]
        if "hangs" in torch:
            found = f"`import torch` was not done after {torch['hangs']:.0f} s"
            yield Finding("error", host, found, "no rank starts", "see the disk on which it lies")
        elif "error" in torch:
            do = f"install it there: {facts['executable']} -m pip install torch"
            yield Finding("error", host, f"`import torch` fails: {torch['error']}", "no rank can start", do)
        elif torch["first"] > SLOW_IMPORT:
            yield Finding(
                "warning",
                host,
                f"`import torch` takes {torch['first']:.0f} s, and {torch['again']:.0f} s again",
                "a shared file system with many small files; every start waits for that",
                "an environment on a local disk, or in one file (squashfs)",
            )


def _gpus(patient: ClusterFacts) -> Iterator[Finding]:
    counts = {host: len(facts["gpus"]) for host, facts in patient.facts.items()}
    most = max(counts.values(), default=0)
    for host, facts in patient.facts.items():
        smi, torch = facts["smi"], facts["torch"].get("gpus")
        if counts[host] < most:
            yield Finding(
                "error",
                host,
                f"it has {plural(counts[host], 'GPU')}, and others {most}",
                "it gets fewer ranks, or ranks without a GPU",
                "`nvidia-smi` there; a GPU that fell off the bus comes back by a restart",
            )
        if "error" in smi or "hangs" in smi:
            how = f"fails: {smi['error']}" if "error" in smi else f"has said nothing after {smi['hangs']:.0f} s"
            yield Finding(
                "error",
                host,
                f"nvidia-smi {how}",
                "the driver, or a GPU, does not work",
                "`dmesg` there, for `NVRM` and `Xid`; after an update of the driver the machine must be restarted",
            )
        elif torch is not None and torch < counts[host]:
            yield Finding(
                "error",
                host,
                f"torch sees {torch} of {plural(counts[host], 'GPU')}",
                "ranks without a GPU compute on cores, or end",
                "a torch without CUDA, a driver that is too old for it, or CUDA_VISIBLE_DEVICES",
            )
        for gpu in smi.get("gpus", ()):
            used = gpu.get("memory.used", "")
            if used.isdigit() and int(used) > 1024:
                yield Finding(
                    "warning",
                    host,
                    f"GPU {gpu['index']} has {int(used) // 1024} GiB in use",
                    "somebody else is on it, or a run has left something behind",
                    f"`muster clean -H {host}`, or `nvidia-smi` there",
                )


def _room(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        for path, told in facts["folders"].items():
            if "hangs" in told or told.get("seconds", 0.0) > 2.0:
                yield Finding(
                    "error",
                    host,
                    f"writing in {path} hangs",
                    "logs and checkpoints stop, and whoever writes cannot be ended",
                    "see the file server; `dmesg` there",
                )
            elif "error" in told:
                yield Finding("error", host, f"{path}: {told['error']}", "ranks read and write there", "mount it")
            elif not told["writes"]:
                why, full = told.get("why", ""), told.get("full", False)
                do = "free some space there" if full else "choose another folder: --run-dir, --cwd"
                # code may lie where nobody writes; runs may not
                level = "warning" if path == patient.folder and not full else "error"
                yield Finding(level, host, f"cannot write in {path}: {why}", "ranks read and write there", do)
            elif told["free"] < GIB:
                yield Finding(
                    "warning",
                    host,
                    f"{path} has {told['free'] // (1 << 20)} MiB left",
                    "a checkpoint that finds no room is lost",
                    "free some space there",
                )
            elif told["files"] is not None and told["files"] < 10000:
                yield Finding("warning", host, f"{path} has room for {told['files']} files", "as above", "delete some")


def _temporary(patient: ClusterFacts) -> Iterator[Finding]:
    """Launchers of others are given a file in the temporary directory, under one name on all hosts."""
    why = "launchers of others (torchrun, mpirun, …) are given a file there; compilers and workers want it too"
    usable = {host: facts["temporary"] for host, facts in patient.facts.items() if "temporary" in facts}
    for host, found in usable.items():
        if not found:
            do = "free some space in /tmp, or name another one by TMPDIR"
            yield Finding("error", host, "no temporary directory can be written: /tmp, /var/tmp, /dev/shm", why, do)
        elif "/tmp" not in found:
            do = "free some space there, or see how it is mounted: `findmnt /tmp`"
            yield Finding("warning", host, f"/tmp cannot be written; {found[0]} is used instead", why, do)
    if len(usable) > 1 and all(usable.values()) and not set.intersection(*map(set, usable.values())):
        host = next(iter(usable))
        yield Finding("error", host, "no temporary directory can be written on all hosts", why, "TMPDIR, alike on all")


def _shm(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        total = facts["shm"].get("total", GIB)
        if total < GIB:
            yield Finding(
                "error" if total < SMALL_SHM else "warning",
                host,
                f"/dev/shm has {total // (1 << 20)} MiB",
                "DataLoader workers and NCCL exchange data there, and die of SIGBUS when it is full",
                "in a container `--shm-size=8g`, or `--ipc=host`",
            )


def _shared(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        told = facts["folders"].get(patient.folder, {})
        if told.get("there") is False:
            yield Finding(
                "error", host, f"there is no folder {patient.folder}", "the ranks start there", "`--sync`, or mount it"
            )
    sharing = {host: bool(facts["shared"]) for host, facts in patient.facts.items()}
    for host, shares in sharing.items():
        if not shares and any(sharing.values()):
            yield Finding(
                "warning",
                host,
                "it does not share the folder of runs, and others do",
                "a shared folder that is not mounted there: checkpoints and data are missing too",
                "`mount` there, or `--run-dir`",
            )


def _limits(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        files, processes = facts["limits"]["open files"], facts["limits"]["processes"]
        if 0 <= files < 1024:
            yield Finding(
                "warning", host, plural(files, "open file"), "each peer and worker takes some", "ulimit -n 65536"
            )
        if 0 <= processes < 4096:
            yield Finding(
                "warning",
                host,
                plural(processes, "process", "processes"),
                "DataLoader workers count",
                "ulimit -u 65536",
            )
        locked = facts["limits"]["locked"]
        if facts.get("infiniband") and 0 <= locked < GIB:
            yield Finding(
                "error",
                host,
                f"{locked >> 10} KiB of memory may be locked, and there is InfiniBand ({facts['infiniband'][0]})",
                "RDMA locks its buffers: NCCL fails with `unhandled system error`",
                "`memlock unlimited` in limits.conf, and LimitMEMLOCK of sshd or slurmd",
            )
        if facts.get("kills_user_processes"):
            yield Finding(
                "warning",
                host,
                "KillUserProcesses=yes in logind.conf",
                "a run with -d ends when you log out there",
                "`loginctl enable-linger`",
            )


def _clocks(patient: ClusterFacts) -> Iterator[Finding]:
    usual = sorted(patient.clocks.values())[len(patient.clocks) // 2] if patient.clocks else 0.0
    for host, ahead in ((host, ahead - usual) for host, ahead in patient.clocks.items()):
        if abs(ahead) > 1.0:
            yield Finding(
                "warning",
                host,
                f"its clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}",
                "logs of several hosts cannot be compared, and some file systems lose writes",
                "chrony or ntpd on all hosts",
            )


def _variables(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        env, own = facts["env"], facts["interface_names"]
        for name in IDENTITY:
            if name in env:
                yield Finding(
                    "warning",
                    host,
                    f"{name}={env[name]} is set for everybody",
                    "a script that is started without a launcher believes it",
                    "take it out of .bashrc or the profile there",
                )
        for name, fits in (("NCCL_SOCKET_IFNAME", _nccl_finds), ("GLOO_SOCKET_IFNAME", _gloo_finds)):
            if env.get(name) and not fits(env[name], own):
                yield Finding(
                    "error",
                    host,
                    f"{name}={env[name]}, and there is no such interface (there are {', '.join(sorted(own))})",
                    "ranks find no way to each other",
                    "leave it out: muster names the interface that works",
                )


def _nccl_finds(asked: str, names: Collection[str]) -> bool:
    """NCCL takes one that begins so, or, after `=`, is called so; after `^` any other one."""
    if asked.startswith("^"):
        return True
    words = [word for word in asked.lstrip("=").split(",") if word]
    return any(name == word if asked.startswith("=") else name.startswith(word) for word in words for name in names)


def _gloo_finds(asked: str, names: Collection[str]) -> bool:
    """gloo wants each of them, by its whole name."""
    return all(word in names for word in asked.split(","))


def gloo_interface(facts: Facts) -> str:
    """What gloo takes by itself: that of the address which the machine's own name has."""
    asked = facts["env"].get("GLOO_SOCKET_IFNAME")
    own = facts["own"].get("addresses", [])
    return asked or next((name for name, address in facts["interfaces"] if address in own), "lo" if own else "none")


def nccl_interface(facts: Facts) -> str:
    """What NCCL takes by itself: one of InfiniBand, else the first that is neither loopback nor docker's."""
    names = [name for name, _ in facts["interfaces"]]
    fit = [name for name in names if name.startswith("ib")]
    fit += [name for name in names if not name.startswith(("ib", "lo", "docker"))]
    fit += [name for name in names if name.startswith("docker")]
    return facts["env"].get("NCCL_SOCKET_IFNAME") or next(iter(fit), "lo")


def _interfaces(patient: ClusterFacts) -> Iterator[Finding]:
    if len(patient.facts) < 2:
        return
    for host, facts in patient.facts.items():
        ways = dict(facts["interfaces"])
        for library, variable, chosen in (
            ("gloo", "GLOO_SOCKET_IFNAME", gloo_interface(facts)),
            ("NCCL", "NCCL_SOCKET_IFNAME", nccl_interface(facts)),
        ):
            others = [address for name, address in facts["interfaces"] if name != chosen]
            if (
                variable not in facts["env"]
                and chosen in ways
                and not _near(ways[chosen], patient, host)
                and any(_near(address, patient, host) for address in others)
            ):
                yield Finding(
                    "warning",
                    host,
                    f"{library} takes {chosen} ({ways[chosen]}) by itself, and no other host is in that network",
                    "started without muster ranks find no way to each other; muster names the interface that works",
                    f"{variable}, with the name of the interface that the others reach",
                )


def _near(address: str, patient: ClusterFacts, host: str) -> bool:
    """Another machine has an address that begins alike (the first half of an IPv4 address)."""
    return any(
        address.split(".")[:2] == found.split(".")[:2]
        for other, facts in patient.facts.items()
        if other != host
        for _, found in facts["interfaces"]
    )


def _cores(patient: ClusterFacts) -> Iterator[Finding]:
    for host, facts in patient.facts.items():
        if facts["cores"] == 1 and facts["all_cores"] > 1:
            yield Finding(
                "warning",
                host,
                f"only 1 of {facts['all_cores']} cores may be used",
                "all ranks and their workers share it",
                "ask the scheduler for more (`--cpus-per-task`), or see `taskset`",
            )
        threads = facts["env"].get("OMP_NUM_THREADS", "")
        if threads and not (threads.isdigit() and 0 < int(threads) <= facts["cores"]):
            few = f"and it has {plural(facts['cores'], 'core')}" if threads.isdigit() else "which is no number"
            yield Finding(
                "warning",
                host,
                f"OMP_NUM_THREADS={threads} is set for everybody, {few}",
                "each rank starts so many threads, and they wait for each other",
                "leave it out: muster shares the cores among the ranks",
            )


def _scheduler(patient: ClusterFacts) -> Iterator[Finding]:
    machines = get_scheduler(patient.scheduler).machines if patient.scheduler else None
    if machines is None:
        return
    name, remedies = title(patient.scheduler), machines.remedies
    if patient.scheduler_silent:
        yield Finding(
            "warning",
            next(iter(patient.facts), name),
            f"{name} does not answer: {patient.scheduler_silent}",
            "nothing can be handed in, and states of jobs are unknown",
            remedies.silent,
        )
    for node, count in patient.gres.items():
        there = len(patient.facts[node]["gpus"]) if node in patient.facts else 0
        if there and there != count:
            yield Finding(
                "warning",
                node,
                f"{name} has {plural(count, 'GPU')} for it, and {there} are there",
                "jobs get GPUs that are not there, or some are never used",
                remedies.gpus,
            )
    for node, (state, reason) in patient.nodes.items():
        bad = ("down", "drain", "fail", "unk")
        if state.lower().startswith(bad) or state.endswith("*"):
            yield Finding(
                "error",
                node,
                f"{name} holds it for {state}" + (f": {reason}" if reason else ""),
                "no job starts there",
                remedies.node.format(node=node),
            )


CHECKS = (
    Check("names resolve, alike and fast", _names),
    Check("unknown names are refused", _refusals),
    Check("names mean the same everywhere", _names_agree),
    Check("own name is no loopback", _own_name),
    Check("nodes reach each other", _ways),
    Check("gloo and NCCL take the right interface", _interfaces),
    Check("MTU agrees", _mtu),
    Check("torch can be imported", _torch),
    Check("versions agree", _versions),
    Check("GPUs are there and free", _gpus),
    Check("cores and threads", _cores, cheap=True),
    Check("shared memory", _shm, cheap=True),
    Check("room, and writes that work", _room),
    Check("temporary files can be written", _temporary, cheap=True),
    Check("folders are there and shared", _shared),
    Check("limits", _limits, cheap=True),
    Check("clocks agree", _clocks),
    Check("variables that hurt", _variables, cheap=True),
    Check(f"{' and '.join(row.title for row in SCHEDULERS.values())}'s own view", _scheduler),
)


def run_checks(patient: ClusterFacts) -> list[tuple[str, list[Finding]]]:
    """All checks by name, with what each found, in order."""
    return [(check.name, list(check.run(patient))) for check in CHECKS]


def preflight(facts: Mapping[str, Facts], env: Mapping[str, str]) -> list[str]:
    """What a run can know before it starts ranks, and what would end it: the errors of the checks that are free.

    `facts` are what `machine.at_no_cost` tells, by host; `env` is set for all ranks.
    """
    known = {host: {**told, "env": {**told["env"], **env}} for host, told in facts.items()}
    patient = ClusterFacts(known, {}, {}, "", {}, {})
    found = [finding for check in CHECKS if check.cheap for finding in check.run(patient)]
    return [f"{one.host}: {one.summary}: {one.impact}; {one.remedy}" for one in found if one.level == "error"]


def passed(results: Sequence[tuple[str, list[Finding]]]) -> bool:
    """No check has found an error."""
    return not any(finding.level == "error" for _, findings in results for finding in findings)
