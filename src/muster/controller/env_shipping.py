"""Sending an environment to hosts: once from here, and then from host to host."""

from __future__ import annotations

import os
import secrets
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from muster import environments
from muster.controller.bootstrap import Need
from muster.controller.connections import ProcessConnection
from muster.controller.started_agents import WAY, StartedAgents
from muster.core.hostlist import fold_hostlist
from muster.core.model import Job
from muster.core.plurals import plural
from muster.environments import ENV, Environment
from muster.errors import InvalidRequest, Unreachable
from muster.protocol.frames import encode_frame
from muster.ui.formatting import seconds, size_in_words

_AHEAD = 8 << 20
"""Bytes that wait for the connection to a host."""
_STALLED = 120.0
"""Seconds without progress after which a host counts as unreachable."""
_UNPACKED = 600.0
"""Seconds for hosts to finish after the last piece."""
_FIRST = 300.0
"""Seconds for hosts to prepare, which includes the removal of old environments."""
_ROOM = 1.05
"""Space that is required, in sizes of the environment: file systems need some for each file."""
_WORTH = 0.9
"""Pieces that do not become smaller than this are sent as they are."""
_SLOW = 4 << 20
"""Bytes that wait for a connection from which on it counts as slower than this machine."""
_FAST = 40e6
"""Bytes per second from which on a connection is not worth compression: hosts unpack hardly faster than that."""
_FASTER = 1.3
"""How many times faster than the connection this machine has to compress, for that to be worth its CPU time."""


_OF_ENVIRONMENT = ("VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH")
"""Environment variables of ranks that may contain the path of an environment."""


class Shipment(NamedTuple):
    """What was sent."""

    pythons: Mapping[str, str]
    """The interpreter of each host, in its copy of the environment."""
    files: int
    size: int
    """Bytes of the files that were sent."""


def ship_by(
    agents: StartedAgents,
    run_dir: str,
    found: Environment,
    folder: str,
    pythons: Mapping[str, str],
    records: str,
    synced: str = "",
) -> Shipment:
    """Start these agents, send an environment to their hosts as `ship` does, and end them. Raises `MusterError`."""
    try:
        agents.come(Need("/"), run_dir)
        if agents.failed:  # as many as there are spares: the start of the run tells why they are left out
            agents.arrange([link.node for link in agents.living])
        return ship(agents, found, folder, pythons, records, synced)
    finally:
        agents.abort()


def ship(
    agents: StartedAgents, found: Environment, folder: str, pythons: Mapping[str, str], records: str, synced: str = ""
) -> Shipment:
    """Send an environment to the hosts that lack it, and return where it is on each of them.

    `folder`: the directory for environments there; empty for the default. `pythons`: base interpreters of hosts.
    `synced`: the directory that `--sync` copies. Raises `InvalidRequest`, `Unreachable`.
    """
    elsewhere = [path for _, path in found.editable if not (synced and _below(path, synced))]

    def question(link: ProcessConnection) -> bytes:
        usual, named = found.base, pythons.get(link.host, "")
        return encode_frame(
            "get_env_facts", named=named, usual=usual, version=found.version, folder=folder, paths=elsewhere
        )

    links = agents.living
    told = dict(zip((link.host for link in links), agents.exchange(links, "env_facts", question, _FIRST)))
    _check(found, told)
    found = environments.read(found, records, _without_base(found, told))
    for note in found.notes:
        agents.say(note)
    address = found.address
    paths = {host: f"{facts['root']}/{address}/{ENV}/{found.python}" for host, facts in told.items()}
    missing = [link for link in links if address not in told[link.host]["known"]]
    common = list(told[missing[0].host]["known"]) if missing else []
    common = [name for name in common if all(name in told[link.host]["known"] for link in missing)]
    similar, kept = environments.similar(found, records, common)
    size = sum(entry.size for entry in found.entries if entry.name not in kept)
    _check_space(found, size, {link.host: told[link.host] for link in missing})
    secret = secrets.token_hex(32)

    def opening(link: ProcessConnection) -> bytes:
        facts = told[link.host]
        return encode_frame(
            "open_env", root=facts["root"], address=address, base=facts["base"], similar=similar, secret=secret
        )

    opened = agents.exchange(links, "env_opened", opening, _FIRST)
    _fail_all(agents, links, opened)
    ports = {link.host: answer["port"] for link, answer in zip(links, opened) if answer["port"]}
    missing = [link for link in links if link.host in ports]
    if not missing:
        return Shipment(paths, 0, 0)
    files = sum(entry.name not in kept for entry in found.entries)
    hosts = fold_hostlist(link.host for link in missing)
    rest = f", {plural(len(kept), 'file')} unchanged" if kept else ""
    agents.say(f"sending the {found.in_words} to {hosts}: {plural(files, 'file')} ({size_in_words(size)}){rest}")
    began = time.monotonic()
    roots = _tree(agents, missing, ports)
    _stream(agents, missing, roots, environments.pieces(found, kept))
    environments.remember(found, records)
    agents.say(f"sent the environment in {seconds(time.monotonic() - began)}")
    return Shipment(paths, files, size)


def job_there(job: Job, found: Environment, pythons: Mapping[str, str]) -> Job:
    """Return the job with the interpreter that the first host has in its copy of an environment."""
    return job._replace(
        python=next(iter(pythons.values())),
        python_source=f"{found.in_words}, sent to the hosts",
        python_named=True,
        env=moved(job.env, found.prefix, pythons),
    )


def moved(env: Mapping[str, str], prefix: str, pythons: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables for the copies of an environment; if these are at different paths, without those
    that contain its path."""
    found = dict(env)
    paths = {os.path.dirname(os.path.dirname(path)) for path in pythons.values()}
    for name in _OF_ENVIRONMENT:
        if prefix in found.get(name, ""):
            if len(paths) == 1:
                found[name] = found[name].replace(prefix, next(iter(paths)))
            else:
                del found[name]
    return found


def _below(path: str, top: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(top).rstrip("/") + "/") or path == top


_OTHER = "choose another directory on the hosts with `--env-dir PATH`"


def _check(found: Environment, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `InvalidRequest` if the environment cannot work on all hosts."""
    failed = {host: facts["failed"] for host, facts in told.items() if facts["failed"]}
    if failed:
        why = "; ".join(f"{host}: {text}" for host, text in failed.items())
        raise InvalidRequest(f"--ship-env: cannot write to the directory of environments: {why}", _OTHER)
    machine = os.uname().machine
    other = {host: facts["machine"] for host, facts in told.items() if facts["machine"] != machine}
    if other:
        hosts = fold_hostlist(other)
        raise InvalidRequest(
            f"--ship-env: {found.prefix} is for {machine}, {hosts} has {next(iter(other.values()))}",
            "make an environment on one of these hosts, and start the run there",
        )
    without = [host for host, facts in told.items() if found.base and not facts["base"]]
    if without and not found.base_can_be_sent:
        raise InvalidRequest(
            f"--ship-env: no Python {found.version} on {fold_hostlist(without)}, which {found.prefix} is based on "
            f"({found.base})",
            "install it there, name it with `--python HOSTS:PATH`, or make the environment with `uv venv "
            "--managed-python`, whose Python is sent too",
        )
    for name, path in found.editable:
        absent = [host for host, facts in told.items() if path in facts["absent"]]
        if absent:
            raise InvalidRequest(
                f"--ship-env: {name} is installed in place (editable), and {path} is not on {fold_hostlist(absent)}",
                "run with `--sync` in that directory, which copies it, or install the package without `--editable`",
            )


def _without_base(found: Environment, told: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a host lacks the interpreter that the environment is based on."""
    return bool(found.base) and not all(facts["base"] for facts in told.values())


def _check_space(found: Environment, size: int, told: Mapping[str, Mapping[str, Any]]) -> None:
    need = int(size * _ROOM) + (4096 * len(found.entries) >> 2)
    full = {host: facts for host, facts in told.items() if facts["free"] < need}
    if full:
        free = (f"{host} has {size_in_words(facts['free'])} in {facts['root']}" for host, facts in full.items())
        raise InvalidRequest(
            f"--ship-env: the environment needs {size_in_words(need)}, and {', '.join(free)}",
            f"remove unused environments with `muster clean --environments --hosts …`, or {_OTHER}",
        )


def _fail_all(agents: StartedAgents, links: Sequence[ProcessConnection], answers: Sequence[Mapping[str, Any]]) -> None:
    for link, answer in zip(links, answers):
        if answer["failed"]:
            agents.fail(link, Unreachable(f"--ship-env: {answer['failed']}", "try again", link.host))
    agents.raise_failed()


# ---- from host to host -----------------------------------------------------------------------------------------------


def parents(count: int) -> list[int]:
    """Return for each host the one that sends to it, -1 for this machine: each sends to at most two others."""
    return [(number + 1) // 2 - 1 for number in range(count)]


def _tree(
    agents: StartedAgents, missing: Sequence[ProcessConnection], ports: Mapping[str, int]
) -> list[ProcessConnection]:
    """Connect the hosts to each other, and return those that get the environment from here.

    A host that cannot connect to the one before it gets it from here, too.
    """
    others = dict(zip((link.node for link in missing[1:]), parents(len(missing))[1:]))

    def question(link: ProcessConnection) -> bytes:
        parent = missing[others[link.node]]
        addresses = [address for _, address in parent.facts["interfaces"]] or [parent.facts["reached_at"]]
        return encode_frame("fetch_env", addresses=addresses, port=ports[parent.host], patience=WAY)

    answers = agents.exchange(missing[1:], "env_connected", question) if others else []
    apart = [link for link, answer in zip(missing[1:], answers) if answer["failed"]]
    if apart:
        hosts = fold_hostlist(link.host for link in apart)
        agents.say(f"{hosts} cannot connect to another host, so the environment is sent there from this machine")
    return [missing[0], *apart]


class Pace:
    """Whether compressed pieces arrive sooner: how fast this machine compresses, and how fast the connection is."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._packing: deque[float] = deque(maxlen=8)
        """Bytes per second in which the last pieces were compressed, by one thread each."""

    def pack(self, piece: bytes) -> bytes:
        """Return a piece compressed, and note how long that took."""
        began = time.perf_counter()
        smaller = zlib.compress(piece, 1)
        self._packing.append(len(piece) / max(time.perf_counter() - began, 1e-9))
        return smaller

    def worth(self, waiting: int, arrived: float, behind: bool = False) -> bool:
        """Return whether to compress the next piece: `waiting` bytes have not been taken by the connection, which takes
        `arrived` bytes per second. The first pieces are compressed to measure.

        `behind`: data waits because a host unpacks more slowly than it arrives. Then compression costs time on both
        sides, and nothing arrives sooner.
        """
        if waiting <= _SLOW or behind or arrived > _FAST:
            return False
        rates = list(self._packing)
        return not rates or self.threads * sum(rates) / len(rates) > _FASTER * arrived


def packed(pieces: Iterable[bytes], pace: Pace, worth: Callable[[], bool]) -> Iterator[tuple[bytes, bool]]:
    """Yield the pieces, compressed by several threads if that is `worth` it, and whether that made them smaller."""

    def pack(piece: bytes, wanted: bool) -> tuple[bytes, bool]:
        smaller = pace.pack(piece) if wanted else piece
        return (smaller, True) if len(smaller) < _WORTH * len(piece) else (piece, False)

    with ThreadPoolExecutor(pace.threads) as pool:
        waiting: deque[Future[tuple[bytes, bool]]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(pack, piece, worth()))
            if len(waiting) > 2 * pace.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _stream(
    agents: StartedAgents,
    missing: Sequence[ProcessConnection],
    roots: Sequence[ProcessConnection],
    pieces: Iterable[bytes],
) -> None:
    """Send the stream to these hosts, and wait until all have unpacked it."""
    agents.answers, agents.behind = {}, set()
    pace, began, sent = Pace(min(4, os.cpu_count() or 1)), time.monotonic(), 0

    def worth() -> bool:
        waiting = max(_waiting(roots))
        return pace.worth(waiting, (sent - waiting) / max(time.monotonic() - began, 1e-9), bool(agents.behind))

    for piece, smaller in packed(pieces, pace, worth):
        _send(agents, missing, roots, encode_frame("env_piece", piece, packed=smaller, last=False))
        sent += len(piece)
    _send(agents, missing, roots, encode_frame("env_piece", b"", packed=False, last=True))
    deadline = time.monotonic() + _UNPACKED
    while len([link for link in missing if link.node in agents.answers]) < len(missing):
        agents.turn("env_ready", deadline - time.monotonic())
        _raise_failed(agents, missing)
        if time.monotonic() >= deadline:
            silent = [link for link in missing if link.node not in agents.answers]
            raise Unreachable(f"--ship-env: no answer from {fold_hostlist(link.host for link in silent)}", "try again")
    _raise_failed(agents, missing)


def _send(
    agents: StartedAgents, missing: Sequence[ProcessConnection], roots: Sequence[ProcessConnection], frame: bytes
) -> None:
    """Send a frame to these hosts, and wait until they have taken most of what was sent before."""
    for link in roots:
        agents.send(link, frame)
    left, deadline = _waiting(roots), time.monotonic() + _STALLED
    while max(left) > _AHEAD:
        agents.turn("env_ready", 1.0)
        _raise_failed(agents, missing)
        now = _waiting(roots)
        if now != left:
            left, deadline = now, time.monotonic() + _STALLED
        elif time.monotonic() >= deadline:
            slow = [link.host for link in roots if len(link.channel.out) > _AHEAD]
            raise Unreachable(
                f"--ship-env: {fold_hostlist(slow)} stopped taking data", "check the network and the disk"
            )


def _waiting(links: Sequence[ProcessConnection]) -> list[int]:
    return [len(link.channel.out) for link in links]


def _raise_failed(agents: StartedAgents, missing: Sequence[ProcessConnection]) -> None:
    """Raise an error if a host has failed: the first one, since the hosts after it fail with it."""
    agents.raise_failed()
    failed = [(link, agents.answers[link.node]) for link in missing if agents.answers.get(link.node, {}).get("failed")]
    own = [one for one in failed if not one[1]["failed"].startswith("transfer interrupted")] or failed
    for link, answer in own:
        agents.fail(
            link, Unreachable(f"--ship-env: {answer['failed']}", "free some space there, or try again", link.host)
        )
    agents.raise_failed()
