"""Agents on hosts that a transport reaches: each is started as a child process, and asked for its facts.

Every failure ends with one message that names the hosts, and leaves no agent behind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from muster.agent import code_tree
from muster.agent.bootstrap import NO_PYTHON, SETUP_FAILED, is_no_python
from muster.controller.bootstrap import Need, Remedies, Routes
from muster.controller.connections import SIGNALS, ProcessConnection, end_links, start_agent
from muster.core.hostlist import fold_hostlist, fold_reasons
from muster.core.printable import line as safe
from muster.errors import ControlError, Interrupted, InvalidRequest, MusterError, Unreachable
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.protocol import trace
from muster.protocol.frames import VERSION, Dispatcher, Refused, encode_frame, handlers
from muster.protocol.messages import TO_CONTROLLER
from muster.transports import TRANSPORTS
from muster.transports.target import Target

if TYPE_CHECKING:
    from muster.code_sync import Tree

WINDOW = 64
"""Maximum number of hosts contacted concurrently."""

PATIENCE = 60.0
"""Seconds for a host to answer."""

_BRIEF = 30.0
"""Seconds for a host to answer the doctor: slower ones count as broken."""

RESTLESS = 8.0
"""Seconds after which the user is told which hosts are still awaited."""

MERCY = 5.0
"""Seconds for the others once one host has failed, so that all failures are reported together."""

_PIECE = 4 << 20
"""Bytes of a file that are sent at once."""
_PROBE = 300.0
"""Seconds for the examination of a machine, which includes two imports of torch."""

WAY = 5.0
"""Seconds for a connection between two nodes."""

ANSWERS = {
    *("facts", "marker_written", "marker_checked", "compared", "remembered", "brought"),
    *("env_facts", "env_opened", "env_connected", "env_ready"),
    *("probe_port", "routes", "probed", "clock", "detached"),
}
"""Kinds of answers to the questions before there is a plan."""


class StartedAgents:
    """The agents of a run on hosts, until they are configured; an `AgentSource`."""

    remedies = Remedies(
        directory="ranks start in it: copy it with `--sync`, share it, or choose another with --cwd",
        script="copy it with `--sync`, or share its directory",
        other_script="copy this one with `--sync`, or share its directory",
    )
    reference, one_run_dir, own_clock = "the copy here", False, False

    def __init__(
        self,
        loop: EventLoop,
        signals: CapturedSignals,
        need: Need,
        targets: Sequence[Target],
        env: Mapping[str, str],
        say: Callable[[str], object],
    ):
        self.loop, self.need, self.targets, self.env, self.say = loop, need, targets, env, say
        signals.handle(self._signalled)
        self.links: list[ProcessConnection] = []
        self.answers: dict[int, dict[str, Any]] = {}
        """By node: the expected answer, with its arrival time `heard`."""
        self._awaited = ""
        """The kind of that answer."""
        self.failed: dict[int, MusterError] = {}
        self.run_dir = ""
        self.code: Tree | None = None
        """Files besides the script that must be identical on all hosts."""
        self.strict = True
        """True if one failing host makes all fail."""
        self.spares = 0
        """The number of hosts that may fail before there is a plan."""
        self._dispatch = Dispatcher(
            {**{kind: partial(self._answered, kind) for kind in ANSWERS}, **handlers(self, "_on_")},
            lambda kind, fields: TO_CONTROLLER[kind].fitting(fields),
            lambda text, link: self.say(f"{link.host}: {text}"),
        )
        self.behind: set[int] = set()
        """Nodes that unpack an environment more slowly than it arrives."""
        self.meanwhile: Callable[[], object] | None = None
        """Called once, when the first agents are on their way: the time until they answer is free."""
        self.moved: set[int] = set()
        """Nodes whose agent has detached, so that its connection may end."""

    # ---- starting ---------------------------------------------------------------------------------------------------

    def come(self, need: Need, run_dir: str) -> None:
        """Start all agents, and collect the facts of each host."""
        self.need = need
        self.start_agents(run_dir, strict=not self.spares)
        if len(self.failed) > self.spares:
            self.raise_failed()

    def arrange(self, order: Sequence[int]) -> None:
        """Keep the hosts with these numbers, numbered anew in this order, and end the other agents."""
        kept = [self.links[number] for number in order]
        left_out = [link for link in self.links if link not in kept]
        for link in left_out:
            if link.banner is not None or link.node in self.failed:
                link.kill()  # nothing was started there, and it may hang
        self._end(left_out)
        self.targets = [self.targets[number] for number in order]
        self.links, self.failed, self.answers, self.strict = kept, {}, {}, True
        for number, link in enumerate(kept):
            link.node = number

    @property
    def controller_offset(self) -> float:
        """The clock offset of node 0, where the controller will be."""
        return self.links[0].offset

    def start_agents(self, run_dir: str, strict: bool = True) -> dict[str, dict[str, Any]]:
        """Start all agents and return the facts of each host. Raises `Unreachable`, `InvalidRequest`, `Interrupted`.

        Unless `strict`, unreachable hosts are put into `failed`, and the others continue.
        """
        self.strict = strict
        patience = PATIENCE if strict or self.spares else _BRIEF
        self.run_dir = run_dir
        waiting = list(enumerate(self.targets))
        deadline, restless = time.monotonic() + patience, time.monotonic() + RESTLESS
        while len(self.answers.keys() | self.failed.keys()) < len(self.targets):
            while waiting and len(self._missing(self.links)) < WINDOW:
                number, target = waiting.pop(0)
                link = start_agent(target, number, self.env)
                link.channel.tracer = trace.tracer(run_dir, "controller", "agent", link.host)
                self.links.append(link)
                self.loop.add_reader(link.stdout, partial(self._heard, link))
                self.loop.add_reader(link.stderr, partial(self._complained, link))
                self._flush(link)
                deadline = time.monotonic() + patience
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            self.turn("facts", min(deadline, restless) - time.monotonic())
            now = time.monotonic()
            enough = self.spares and len(self.targets) - len(self.answers) <= self.spares
            if (self.failed and strict) or enough:
                deadline = min(deadline, now + MERCY)
            missing = fold_hostlist(link.host for link in self._missing(self.links))
            if now >= restless and missing:
                self.say(f"waiting for an answer from {missing}")
                restless = now + 4 * RESTLESS
            if now >= deadline:
                self._fail_silent(self._missing(self.links), "no answer")
                if strict:
                    break
                deadline = now + patience  # for the hosts that were not started yet
        if strict:
            self.raise_failed()
        self.links.sort(key=lambda link: link.node)
        for link in self.living:
            link.facts.update(self.answers[link.node])
        return {link.host: link.facts for link in self.links}

    @property
    def living(self) -> list[ProcessConnection]:
        """The agents of the hosts that could be reached."""
        return [link for link in self.links if link.node not in self.failed]

    def _missing(self, links: Sequence[ProcessConnection]) -> list[ProcessConnection]:
        """Return those that have neither answered nor failed."""
        return [link for link in links if link.node not in self.answers and link.node not in self.failed]

    def _fail_silent(self, links: Sequence[ProcessConnection], how: str) -> None:
        for link in links:
            hint = f"check the host and its file systems with `muster doctor --hosts {link.host}`"
            self.fail(link, Unreachable(how, hint, link.host))

    def send(self, link: ProcessConnection, data: bytes) -> None:
        """Send a frame to an agent."""
        link.channel.send(data)
        self._flush(link)

    def _flush(self, link: ProcessConnection) -> None:
        link.channel.pump(self.loop, partial(self._flush, link))

    def turn(self, kind: str, wait: float) -> None:
        """Wait for an event, accepting messages of this kind as answers."""
        self._awaited = kind
        self.loop.run_once(wait)

    def _signalled(self, numbers: Sequence[int]) -> None:
        raise_interrupted(numbers)

    def _complained(self, link: ProcessConnection) -> None:
        if not link.drain_stderr():
            self.loop.remove_reader(link.stderr)

    def _heard(self, link: ProcessConnection) -> None:
        frames = link.read()
        if frames is None:
            self.loop.remove_reader(link.stdout)
            if link.node not in self.moved:
                self.fail(link, self._why(link))
            return
        for fields, payload in frames:
            try:
                self._dispatch(fields, payload, link)
            except Refused as error:
                said = f"invalid message `{fields['kind']}` from its agent: {error}"
                self.fail(link, ControlError(said, host=link.host))

    def _on_hello(self, link: ProcessConnection, payload: bytes, **facts: Any) -> None:
        link.facts.update(facts)
        if facts["version"] != VERSION:
            words = f"its agent has protocol version {facts['version']}, muster {VERSION}"
            self.fail(link, InvalidRequest(words, host=link.host))
        else:
            # not earlier: anything after the agent's own source is lost until it runs
            self.send(link, self._ask(link))

    def _on_agent_crashed(self, link: ProcessConnection, payload: bytes, text: str, limit: bool, **more: Any) -> None:
        link.broken, link.met_limit = (text.strip().splitlines() or ["?"])[-1], limit

    def _on_note(self, link: ProcessConnection, payload: bytes, text: str, **more: Any) -> None:
        """Ignore notes until there is a run."""

    def _on_env_behind(self, link: ProcessConnection, payload: bytes, behind: bool, **more: Any) -> None:
        (self.behind.add if behind else self.behind.discard)(link.node)

    def _answered(self, kind: str, link: ProcessConnection, payload: bytes, **fields: Any) -> None:
        if kind == self._awaited:
            if kind == "detached":
                self.moved.add(link.node)
            self.answers[link.node] = {**fields, "heard": time.monotonic()}

    def fail(self, link: ProcessConnection, error: MusterError) -> None:
        """Note that a host cannot be used."""
        self.failed.setdefault(link.node, error)

    def _why(self, link: ProcessConnection) -> MusterError:
        """Return why an agent did not start, or ended."""
        code, how = link.status()
        link.drain_stderr()
        said = link.stderr_tail.decode("utf-8", "replace")
        if link.banner is None:
            words = safe(link.broken) or link.stderr_summary(1) or how
            hint = processes.FEWER_PROCESSES if link.met_limit else "see agent.log on the host"
            return Unreachable(f"connection lost ({words})", hint, link.host)
        if code == SETUP_FAILED:
            return InvalidRequest(link.stderr_summary(), "run that line by hand on the host", link.host)
        hint = "choose the interpreter there with `--python PATH` or `--python HOST:PATH`"
        if code == NO_PYTHON or code == 126 or code == 127:
            return InvalidRequest(link.stderr_summary(1), hint, link.host)
        if is_no_python(said, code):
            python = self.targets[link.node].python
            return InvalidRequest(f"{python} is not a Python interpreter", hint, link.host)
        known = TRANSPORTS[self.targets[link.node].transport].explain(code, said)
        if known is not None:
            return Unreachable(known.says, known.hint.replace("HOST", link.host), link.host)
        return Unreachable(link.stderr_summary() or how, f"try `ssh {link.host} true`", link.host)

    def raise_failed(self) -> None:
        """Raise one error for all that failed, with equal reasons grouped by host."""
        if not self.failed:
            return
        errors = [self.failed[number] for number in sorted(self.failed)]
        hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
        reasons = fold_reasons((error.host, error.message) for error in errors)
        answered = [link.host for link in self.links if link.node in self.answers]
        more = f" ({fold_hostlist(answered)} answered)" if answered else ""
        kind = InvalidRequest if all(isinstance(error, InvalidRequest) for error in errors) else Unreachable
        raise kind(f"cannot use all hosts: {reasons}{more}", "; ".join(hints[:3]) or None)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _ask(self, link: ProcessConnection) -> bytes:
        need = self.need.of(link.node)
        return encode_frame("get_facts", cwd=need.cwd, script=need.script, run_dir=self.run_dir)

    def refresh_facts(self, need: Need) -> None:
        """Collect the facts again, after the code was sent."""
        self.need = need
        for link, answer in zip(self.links, self.exchange(self.links, "facts", self._ask)):
            link.facts.update(answer)

    def differing(self, code: Tree) -> dict[str, list[str]]:
        """Return by host the files that differ from the local ones."""
        return {target.host: names for target, names in self.compare(code).items()}

    def code_remedy(self) -> str:
        """Return what --sync would send."""
        from muster.code_sync import sync_sends  # imported late: the agents start before it is needed

        return f"`--sync` copies {sync_sends(self.need.cwd)}"

    def compare(self, code: Tree, sent: bool = False) -> dict[Target, list[str]]:
        """Return the files that differ on each host, leaving out hosts without differences.

        `sent`: include missing files, and files that muster once sent there and that no longer exist here. Otherwise a
        missing file is harmless: it may be written by an earlier run here, and importing it fails with a clear error.
        Raises `InvalidRequest`.
        """

        def question(link: ProcessConnection) -> bytes:
            home = link.facts["home"] if sent else ""
            return encode_frame("compare", listed, root=code.root, home=home, place=[] if sent else place)

        listed, place = code_tree.entries(code.root, code.names), code_tree.place(code.root)
        answers = self.exchange(self.links, "compared", question, _PROBE)
        found, own = {}, {}
        for link, answer in zip(self.links, answers):
            names = []
            for number, name in enumerate(code.names):
                theirs = answer["digests"].get(str(number))
                if theirs is None:
                    continue
                if name not in own:
                    own[name] = code_tree.digest(os.path.join(code.root, name))
                if theirs != own[name] and (theirs or sent):
                    names.append(name)
            # a host must not choose what it is sent: accept only names that do not exist here
            names += [name for name in answer["stale"] if _is_inside(name) and not _is_here(code.root, name)]
            if names:
                found[self.targets[link.node]] = names
        unreadable = [name for name, known in own.items() if not known and _is_here(code.root, name)]
        if unreadable and sent:
            path = os.path.join(code.root, unreadable[0])
            raise InvalidRequest(f"cannot read {path}", "make it readable, or add it to .gitignore")
        return found

    def remember(self, code: Tree, targets: Collection[Target]) -> None:
        """Have hosts record what they were sent."""
        listed = code_tree.entries(code.root, code.names)
        self.exchange(
            [link for link in self.links if self.targets[link.node] in targets],
            "remembered",
            lambda link: encode_frame("remember", listed, root=code.root, home=link.facts["home"]),
        )

    # ---- detaching --------------------------------------------------------------------------------------------------

    def run_dirs(self, run_dir: str, run_id: str) -> list[tuple[str, bool]]:
        """Return for each node its run directory, and whether it is the same directory as on node 0."""
        first, others = self.links[0], self.links[1:]
        if first.facts["shared"]:
            found = [(run_dir, True)]
            found += [(run_dir, True) if link.facts["shared"] else (_own(link, run_id), False) for link in others]
            return found
        theirs = _own(first, run_id)
        self.exchange([first], "marker_written", encode_frame("write_marker", run_dir=theirs))
        answers = self.exchange(others, "marker_checked", encode_frame("check_marker", run_dir=theirs))
        return [(theirs, True)] + [
            (theirs, True) if answer["shares"] else (_own(link, run_id), False) for link, answer in zip(others, answers)
        ]

    def bring(self, name: str, data: bytes, run_dirs: Mapping[int, str]) -> None:
        """Write a file into the run directories of these nodes, in pieces. Raises `MusterError`."""
        links = [link for link in self.links if link.node in run_dirs]
        for offset in range(0, len(data), _PIECE):
            piece = data[offset : offset + _PIECE]

            def question(link: ProcessConnection, piece: bytes = piece, offset: int = offset) -> bytes:
                return encode_frame("bring", piece, run_dir=run_dirs[link.node], name=name, offset=offset)

            for link, answer in zip(links, self.exchange(links, "brought", question, _PROBE)):
                if answer["failed"]:
                    self.fail(link, ControlError(answer["failed"], "free some space on the host", link.host))
            self.raise_failed()

    def detach_agents(
        self, prepares: Sequence[Mapping[str, Any]], archive: bytes, files: Mapping[str, str], **where: Any
    ) -> None:
        """Configure each agent, and detach it from this machine to the controller on node 0.

        The connection to node 0 becomes one to the controller, if it `stays`. Raises `ControlError` and others.
        """
        first, others = self.links[0], self.links[1:]
        for links in (others, [first]):
            for link in links:
                own = {"files": dict(files), "port": 0} if link is first else {"files": {}, "stays": False}
                fields = {**where, **own, "configuration": dict(prepares[link.node])}
                self.send(link, encode_frame("detach", archive if link is first else b"", **fields))
            for link, answer in zip(links, self.exchange(links, "detached", b"")):
                if answer["failed"]:
                    hint = processes.FEWER_PROCESSES if answer["limit"] else "see agent.log on the host"
                    self.fail(link, ControlError(answer["failed"], hint, link.host))
            self.raise_failed()
        self._end(others)

    def take_connection(self) -> ProcessConnection:
        """Return the connection to node 0, which is now one to the controller."""
        return self.links[0]

    # ---- rendezvous -------------------------------------------------------------------------------------------------

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Have the other nodes try to connect to node 0. Raises `Unreachable`."""
        first, others = self.links[0], self.links[1:]
        port = self.exchange([first], "probe_port", encode_frame("open_probe_port"))[0]["port"]
        answers = self.exchange(
            others, "routes", encode_frame("probe_routes", addresses=addresses, port=port, patience=WAY)
        )
        return Routes(port, [answer["ways"] for answer in answers])

    def measure_clocks(self) -> None:
        """Measure the clock offset of each host; the error is at most half of the shortest round trip."""
        best = dict.fromkeys(range(len(self.targets)), float("inf"))
        for _ in range(3):
            sent = time.monotonic()
            for link, answer in zip(self.living, self.exchange(self.living, "clock", encode_frame("clock"))):
                if answer and answer["heard"] - sent < best[link.node]:
                    best[link.node] = answer["heard"] - sent
                    link.offset = answer["t"] - (sent + answer["heard"]) / 2

    def exchange(
        self,
        links: Sequence[ProcessConnection],
        kind: str,
        question: bytes | Callable[[ProcessConnection], bytes],
        within: float = PATIENCE,
    ) -> list[dict[str, Any]]:
        """Send a question to these nodes, and return their answers.

        Unless `strict`, a node that fails meanwhile gets an empty answer.
        """
        self.answers = {}
        for link in links:
            self.send(link, question if isinstance(question, bytes) else question(link))
        deadline = time.monotonic() + within
        while self._missing(links):
            self.turn(kind, deadline - time.monotonic())
            if time.monotonic() >= deadline:
                self._fail_silent(self._missing(links), "stopped answering")
            if self.strict and any(link.node in self.failed for link in links):
                self.raise_failed()
        return [self.answers.get(link.node, {}) for link in links]

    # ---- for the doctor ---------------------------------------------------------------------------------------------

    def probe(self, names: Sequence[str], folder: str, root: str) -> dict[str, dict[str, Any]]:
        """Return the doctor's facts of each reachable machine; `root` is the local muster directory.

        A machine that shares that directory reports on it, others report on their own.
        """

        def question(link: ProcessConnection) -> bytes:
            own = root if link.facts["shared"] else link.facts["home"]
            return encode_frame("probe", names=names, folders=[folder, own])

        links = self.living
        answers = self.exchange(links, "probed", question, _PROBE)
        self.probed = {link.host: {**link.facts, **told} for link, told in zip(links, answers) if told}
        return self.probed

    def probe_routes(self, most: int) -> dict[tuple[str, str], str]:
        """Return why machines cannot connect to each other on a free port, by (from, to); empty if they can.

        With more than `most` machines, each tries only three others: the next two, and the one opposite.
        """
        found: dict[tuple[str, str], str] = {}
        links = self.living
        opened = self.exchange(links, "probe_port", encode_frame("open_probe_port")) if len(links) > 1 else []
        ports = {link.node: answer["port"] for link, answer in zip(links, opened) if answer}
        links = [link for link in links if link.node in ports]
        count = len(links)
        for step in range(1, count) if count <= most else (1, 2, count // 2):
            ends = {link.node: links[(number + step) % count] for number, link in enumerate(links)}

            def question(link: ProcessConnection, ends: Mapping[int, ProcessConnection] = ends) -> bytes:
                end = ends[link.node]
                addresses = [address for _, address in end.facts["interfaces"]]
                return encode_frame("probe_routes", addresses=addresses, port=ports[end.node], patience=WAY)

            # all at once: every machine is contacted by one other
            for start, answer in zip(links, self.exchange(links, "routes", question)):
                tried = [way.get("error", "") for way in answer.get("ways", {}).values()] or ["the host has no address"]
                if answer:
                    found[start.host, ends[start.node].host] = min(tried, key=len)
        return found

    def clocks_ahead(self, wall: float, at: float) -> dict[str, float]:
        """Return the seconds by which each machine's wall clock is ahead of ours, `wall` at monotonic time `at`."""
        self.measure_clocks()
        found = {}
        for link in self.living:
            told = self.probed.get(link.host)
            if told is not None:
                found[link.host] = told["wall"] - (wall + (told["at"] - link.offset) - at)
        return found

    # ---- the end ----------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Terminate all agents, which have started nothing."""
        for link in self.links:
            if link.banner is not None:
                link.kill()  # not started yet
        self._end(self.links)

    def _end(self, links: Sequence[ProcessConnection]) -> None:
        for link in links:
            if not link.stdout.closed:
                self.loop.remove(link.stdin, link.stdout, link.stderr)
        end_links(links)


def raise_interrupted(numbers: Sequence[int]) -> None:
    """Raise `Interrupted` if one of these signals ends a run that has not started."""
    for number in numbers:
        if number in SIGNALS:
            how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            error = Interrupted(f"interrupted by {how} before any rank started")
            error.exit_code = 128 + number
            raise error


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _is_here(root: str, name: str) -> bool:
    return os.path.lexists(os.path.join(root, name))


def _own(link: ProcessConnection, run_id: str) -> str:
    """Return the run directory on a node that does not share one."""
    return f"{link.facts['home']}/runs/{run_id}"
