"""Agents on hosts that a transport reaches: each is started as a child process here, and asked what there is.

Whatever fails ends with one sentence that names the hosts, and with no agent left.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from muster.agent import code_tree
from muster.agent.bootstrap import NO_PYTHON, SETUP_FAILED
from muster.code_sync import Tree, sync_sends
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

WINDOW = 64
"""Hosts that are reached at the same time."""

PATIENCE = 60.0
"""Seconds in which a host must answer."""

_BRIEF = 30.0
"""The same for a doctor: who is slower than that is not well."""

RESTLESS = 8.0
"""Seconds after which the person is told who is waited for."""

MERCY = 5.0
"""Seconds that the others still have once one host has failed, so that all that fail are told together."""

_PROBE = 300.0
"""Seconds in which a machine must have been looked at; two imports of torch are in it."""

WAY = 5.0
"""Seconds in which a connection between two nodes must be made."""

ANSWERS = {
    *("facts", "marker_written", "marker_checked", "compared", "remembered"),
    *("probe_port", "routes", "probed", "clock", "detached"),
}
"""What agents say when they were asked something before there is a plan."""


class StartedAgents:
    """The agents of a run on hosts, until they can be given a plan; an `AgentSource`."""

    remedies = Remedies(
        directory="the ranks start there: `--sync` sends it, or share it, or name another by --cwd",
        script="`--sync` sends it; or share its folder",
        other_script="`--sync` sends this one; or share its folder",
    )
    reference, one_run_dir, own_clock = "here", False, False

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
        """By node: the frame that was waited for, with `heard`, when it came."""
        self._awaited = ""
        """The kind of that frame."""
        self.failed: dict[int, MusterError] = {}
        self.run_dir = ""
        self.first = b""
        """What each agent is asked once it lives."""
        self.code: Tree | None = None
        """Files besides the script that have to be the same everywhere."""
        self.strict = True
        """One host that fails ends it for all."""
        self._dispatch = Dispatcher(
            {**{kind: partial(self._answered, kind) for kind in ANSWERS}, **handlers(self, "_on_")},
            lambda kind, fields: TO_CONTROLLER[kind].fitting(fields),
            lambda text, link: self.say(f"{link.host}: {text}"),
        )
        self.moved: set[int] = set()
        """Nodes whose agent has left its connection, so that this may end."""

    # ---- reaching ---------------------------------------------------------------------------------------------------

    def come(self, need: Need, run_dir: str) -> None:
        """Start all agents, and hear what each host tells of itself."""
        self.need = need
        self.start_agents(run_dir)

    @property
    def controller_offset(self) -> float:
        """The controller will be on node 0."""
        return self.links[0].offset

    def start_agents(self, run_dir: str, strict: bool = True) -> dict[str, dict[str, Any]]:
        """Start all agents; gives what each host tells of itself. Raises `Unreachable`, `InvalidRequest`,
        `Interrupted`.

        Unless `strict` hosts that cannot be reached are left in `failed`, and the others go on.
        """
        self.strict = strict
        patience = PATIENCE if strict else _BRIEF
        self.run_dir = run_dir
        self._ask()
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
            self._turn("facts", min(deadline, restless) - time.monotonic())
            now = time.monotonic()
            if self.failed and strict:
                deadline = min(deadline, now + MERCY)
            missing = fold_hostlist(link.host for link in self._missing(self.links))
            if now >= restless and missing:
                self.say(f"waiting for {missing} to answer")
                restless = now + 4 * RESTLESS
            if now >= deadline:
                self._fail_silent(self._missing(self.links), "no answer")
                if strict:
                    break
                deadline = now + patience  # for those that had no place yet
        if strict:
            self._raise_failed()
        self.links.sort(key=lambda link: link.node)
        for link in self.living:
            link.facts.update(self.answers[link.node])
        return {link.host: link.facts for link in self.links}

    @property
    def living(self) -> list[ProcessConnection]:
        """The agents of the hosts that could be reached."""
        return [link for link in self.links if link.node not in self.failed]

    def _missing(self, links: Sequence[ProcessConnection]) -> list[ProcessConnection]:
        """Those of which there is neither an answer nor why there will be none."""
        return [link for link in links if link.node not in self.answers and link.node not in self.failed]

    def _fail_silent(self, links: Sequence[ProcessConnection], how: str) -> None:
        for link in links:
            hint = f"is it up, and do its file systems answer? `muster doctor --hosts {link.host}` looks"
            self._fail(link, Unreachable(how, hint, link.host))

    def _send(self, link: ProcessConnection, data: bytes) -> None:
        link.channel.send(data)
        self._flush(link)

    def _flush(self, link: ProcessConnection) -> None:
        link.channel.pump(self.loop, partial(self._flush, link))

    def _turn(self, kind: str, wait: float) -> None:
        """Wait for something, and take frames of this kind as answers."""
        self._awaited = kind
        self.loop.run_once(wait)

    def _signalled(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in SIGNALS:
                how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                error = Interrupted(f"{how} before anything was started")
                error.exit_code = 128 + number
                raise error

    def _complained(self, link: ProcessConnection) -> None:
        if not link.drain_stderr():
            self.loop.remove_reader(link.stderr)

    def _heard(self, link: ProcessConnection) -> None:
        frames = link.read()
        if frames is None:
            self.loop.remove_reader(link.stdout)
            if link.node not in self.moved:
                self._fail(link, self._why(link))
            return
        for fields, payload in frames:
            try:
                self._dispatch(fields, payload, link)
            except Refused as error:
                said = f"its agent sent `{fields['kind']}` in a way that is not understood: {error}"
                self._fail(link, ControlError(said, host=link.host))

    def _on_hello(self, link: ProcessConnection, payload: bytes, **facts: Any) -> None:
        link.facts.update(facts)
        if facts["version"] != VERSION:
            words = f"its agent speaks version {facts['version']}, muster {VERSION}"
            self._fail(link, InvalidRequest(words, host=link.host))
        else:
            self._send(link, self.first)  # not before: what follows the agent's own text is lost until it runs

    def _on_agent_crashed(self, link: ProcessConnection, payload: bytes, text: str, limit: bool, **more: Any) -> None:
        link.broken, link.met_limit = (text.strip().splitlines() or ["?"])[-1], limit

    def _on_note(self, link: ProcessConnection, payload: bytes, text: str, **more: Any) -> None:
        """What it has to say can wait until there is a run."""

    def _answered(self, kind: str, link: ProcessConnection, payload: bytes, **fields: Any) -> None:
        if kind == self._awaited:
            if kind == "detached":
                self.moved.add(link.node)
            self.answers[link.node] = {**fields, "heard": time.monotonic()}

    def _fail(self, link: ProcessConnection, error: MusterError) -> None:
        self.failed.setdefault(link.node, error)

    def _why(self, link: ProcessConnection) -> MusterError:
        """Why an agent did not come to life, or ended."""
        code, how = link.status()
        link.drain_stderr()
        said = link.stderr_tail.decode("utf-8", "replace")
        if link.banner is None:
            words = safe(link.broken) or link.stderr_summary(1) or how
            hint = processes.FEWER_PROCESSES if link.met_limit else "see agent.log there"
            return Unreachable(f"the connection broke ({words})", hint, link.host)
        if code == SETUP_FAILED:
            return InvalidRequest(link.stderr_summary(), "try that line there by hand", link.host)
        if code == NO_PYTHON or code == 126 or code == 127:
            hint = "name the one to use there: `--python PATH`, `--python HOST:PATH`"
            return InvalidRequest(link.stderr_summary(1), hint, link.host)
        known = TRANSPORTS[self.targets[link.node].place].explain(code, said)
        if known is not None:
            return Unreachable(known.says, known.hint.replace("HOST", link.host), link.host)
        return Unreachable(link.stderr_summary() or how, f"try it by hand: `ssh {link.host} true`", link.host)

    def _raise_failed(self) -> None:
        """Tell all that failed in one error, equal reasons folded over hosts."""
        if not self.failed:
            return
        errors = [self.failed[number] for number in sorted(self.failed)]
        hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
        reasons = fold_reasons((error.host, error.message) for error in errors)
        answered = [link.host for link in self.links if link.node in self.answers]
        more = f" ({fold_hostlist(answered)} answered)" if answered else ""
        kind = InvalidRequest if all(isinstance(error, InvalidRequest) for error in errors) else Unreachable
        raise kind(f"not all hosts can be used: {reasons}{more}", "; ".join(hints[:3]) or None)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self.first = encode_frame("get_facts", cwd=self.need.cwd, script=self.need.script, run_dir=self.run_dir)

    def refresh_facts(self, need: Need) -> None:
        """Ask once more what there is, after the code was sent."""
        self.need = need
        self._ask()
        for link, answer in zip(self.links, self._exchange(self.links, "facts", self.first)):
            link.facts.update(answer)

    def differing(self, code: Tree) -> dict[str, list[str]]:
        """By host: the files that are not what they are here."""
        return {target.host: names for target, names in self.compare(code).items()}

    def code_remedy(self) -> str:
        """What --sync would send."""
        return f"`--sync` sends {sync_sends(self.need.cwd)}"

    def compare(self, code: Tree, sent: bool = False) -> dict[Target, list[str]]:
        """The files that are not on a host what they are here; those of which all are, are left out.

        `sent`: also those that are not there, or that muster sent there once and are here no more. What is not there
        at all is no danger otherwise: it may be what an earlier run wrote here, and an import of it fails in words.
        Raises `InvalidRequest`.
        """

        def question(link: ProcessConnection) -> bytes:
            home = link.facts["home"] if sent else ""
            return encode_frame("compare", listed, root=code.root, home=home, place=[] if sent else place)

        listed, place = code_tree.entries(code.root, code.names), code_tree.place(code.root)
        answers = self._exchange(self.links, "compared", question, _PROBE)
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
            # a host must not choose what it is sent: only what is not here
            names += [name for name in answer["stale"] if _is_inside(name) and not _is_here(code.root, name)]
            if names:
                found[self.targets[link.node]] = names
        unreadable = [name for name, known in own.items() if not known and _is_here(code.root, name)]
        if unreadable and sent:
            path = os.path.join(code.root, unreadable[0])
            raise InvalidRequest(f"cannot read {path}", "`chmod` it, or have git ignore it")
        return found

    def remember(self, code: Tree, targets: Collection[Target]) -> None:
        """Have hosts write down what they were sent."""
        listed = code_tree.entries(code.root, code.names)
        self._exchange(
            [link for link in self.links if self.targets[link.node] in targets],
            "remembered",
            lambda link: encode_frame("remember", listed, root=code.root, home=link.facts["home"]),
        )

    # ---- moving -----------------------------------------------------------------------------------------------------

    def run_dirs(self, run_dir: str, run_id: str) -> list[tuple[str, bool]]:
        """For each node: the run directory there, and whether it is the same folder as that of node 0."""
        first, others = self.links[0], self.links[1:]
        if first.facts["shared"]:
            found = [(run_dir, True)]
            found += [(run_dir, True) if link.facts["shared"] else (_own(link, run_id), False) for link in others]
            return found
        theirs = _own(first, run_id)
        self._exchange([first], "marker_written", encode_frame("write_marker", run_dir=theirs))
        answers = self._exchange(others, "marker_checked", encode_frame("check_marker", run_dir=theirs))
        return [(theirs, True)] + [
            (theirs, True) if answer["shares"] else (_own(link, run_id), False) for link, answer in zip(others, answers)
        ]

    def detach_agents(
        self, prepares: Sequence[Mapping[str, Any]], archive: bytes, files: Mapping[str, str], **where: Any
    ) -> None:
        """Have each agent get ready, and leave its connection to this machine for the supervisor on node 0.

        The connection to node 0 then is one to the supervisor, if it `stays`. Raises `ControlError` and the like.
        """
        first, others = self.links[0], self.links[1:]
        for links in (others, [first]):
            for link in links:
                own = {"files": dict(files), "port": 0} if link is first else {"files": {}, "stays": False}
                fields = {**where, **own, "configuration": dict(prepares[link.node])}
                self._send(link, encode_frame("detach", archive if link is first else b"", **fields))
            for link, answer in zip(links, self._exchange(links, "detached", b"")):
                if answer["failed"]:
                    hint = processes.FEWER_PROCESSES if answer["limit"] else "see agent.log there"
                    self._fail(link, ControlError(answer["failed"], hint, link.host))
            self._raise_failed()
        self._end(others)

    def take_connection(self) -> ProcessConnection:
        """The connection to node 0, which now is one to the supervisor."""
        return self.links[0]

    # ---- where they meet --------------------------------------------------------------------------------------------

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Have the other nodes try to connect to node 0. Raises `Unreachable`."""
        first, others = self.links[0], self.links[1:]
        port = self._exchange([first], "probe_port", encode_frame("open_probe_port"))[0]["port"]
        answers = self._exchange(
            others, "routes", encode_frame("probe_routes", addresses=addresses, port=port, patience=WAY)
        )
        return Routes(port, [answer["ways"] for answer in answers])

    def measure_clocks(self) -> None:
        """Measure by how much the clock of each host differs: half of the shortest way there and back is the error."""
        best = dict.fromkeys(range(len(self.targets)), float("inf"))
        for _ in range(3):
            sent = time.monotonic()
            for link, answer in zip(self.living, self._exchange(self.living, "clock", encode_frame("clock"))):
                if answer and answer["heard"] - sent < best[link.node]:
                    best[link.node] = answer["heard"] - sent
                    link.offset = answer["t"] - (sent + answer["heard"]) / 2

    def _exchange(
        self,
        links: Sequence[ProcessConnection],
        kind: str,
        question: bytes | Callable[[ProcessConnection], bytes],
        within: float = PATIENCE,
    ) -> list[dict[str, Any]]:
        """Ask these nodes something, and wait for the answer of each.

        Unless this is `strict` one that fails meanwhile has an empty answer.
        """
        self.answers = {}
        for link in links:
            self._send(link, question if isinstance(question, bytes) else question(link))
        deadline = time.monotonic() + within
        while self._missing(links):
            self._turn(kind, deadline - time.monotonic())
            if time.monotonic() >= deadline:
                self._fail_silent(self._missing(links), "it answered, and then no more")
            if self.strict and any(link.node in self.failed for link in links):
                self._raise_failed()
        return [self.answers.get(link.node, {}) for link in links]

    # ---- for the doctor ---------------------------------------------------------------------------------------------

    def probe(self, names: Sequence[str], folder: str, root: str) -> dict[str, dict[str, Any]]:
        """What a doctor wants to know of each machine that lives; `root` is the folder of muster here.

        A machine that shares that folder tells of it, another one of its own.
        """

        def question(link: ProcessConnection) -> bytes:
            own = root if link.facts["shared"] else link.facts["home"]
            return encode_frame("probe", names=names, folders=[folder, own])

        links = self.living
        answers = self._exchange(links, "probed", question, _PROBE)
        self.probed = {link.host: {**link.facts, **told} for link, told in zip(links, answers) if told}
        return self.probed

    def probe_routes(self, most: int) -> dict[tuple[str, str], str]:
        """Why one machine cannot connect to another on a free port; empty where it can.

        Each pair is tried, among more than `most` each with three others: the next two, and the one opposite.
        """
        found: dict[tuple[str, str], str] = {}
        links = self.living
        opened = self._exchange(links, "probe_port", encode_frame("open_probe_port")) if len(links) > 1 else []
        ports = {link.node: answer["port"] for link, answer in zip(links, opened) if answer}
        links = [link for link in links if link.node in ports]
        count = len(links)
        for step in range(1, count) if count <= most else (1, 2, count // 2):
            ends = {link.node: links[(number + step) % count] for number, link in enumerate(links)}

            def question(link: ProcessConnection, ends: Mapping[int, ProcessConnection] = ends) -> bytes:
                end = ends[link.node]
                addresses = [address for _, address in end.facts["interfaces"]]
                return encode_frame("probe_routes", addresses=addresses, port=ports[end.node], patience=WAY)

            # all at once: every machine is tried by one other
            for start, answer in zip(links, self._exchange(links, "routes", question)):
                tried = [way.get("error", "") for way in answer.get("ways", {}).values()] or ["it has no address"]
                if answer:
                    found[start.host, ends[start.node].host] = min(tried, key=len)
        return found

    def clocks_ahead(self, wall: float, at: float) -> dict[str, float]:
        """By how many seconds the wall clock of each machine is ahead of ours, which was `wall` at our `at`."""
        self.measure_clocks()
        found = {}
        for link in self.living:
            told = self.probed.get(link.host)
            if told is not None:
                found[link.host] = told["wall"] - (wall + (told["at"] - link.offset) - at)
        return found

    # ---- the end ----------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End all agents; they have started nothing."""
        for link in self.links:
            if link.banner is not None:
                link.kill()  # still on its way
        self._end(self.links)

    def _end(self, links: Sequence[ProcessConnection]) -> None:
        for link in links:
            if not link.stdout.closed:
                self.loop.remove(link.stdin, link.stdout, link.stderr)
        end_links(links)


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _is_here(root: str, name: str) -> bool:
    return os.path.lexists(os.path.join(root, name))


def _own(link: ProcessConnection, run_id: str) -> str:
    """The run directory on a node that shares none."""
    return f"{link.facts['home']}/runs/{run_id}"
