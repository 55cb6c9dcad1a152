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

from muster.agent import system, trace, tree
from muster.agent.boot import NO_PYTHON, SETUP_FAILED
from muster.agent.eventloop import EventLoop
from muster.agent.messages import TO_CONTROLLER
from muster.agent.protocol import VERSION, Dispatcher, Refused, handlers, pack
from muster.agent.signals import CapturedSignals
from muster.errors import Impossible, Interrupted, MusterError, RunFailed, Unreachable
from muster.hosts import fold_hosts, fold_reasons
from muster.places import TRANSPORTS
from muster.places.target import Target
from muster.printable import line as safe
from muster.world.bootstrap import Need, Remedies, Routes
from muster.world.code import Tree, sync_sends
from muster.world.link import SIGNALS, ChildLink, end_links, start_agent

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
    *("told", "flagged", "shares", "compared", "remembered", "opened", "knocked", "probed", "clock", "moved"),
}
"""What agents say when they were asked something before there is a plan."""


class Gathering:
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
        self.links: list[ChildLink] = []
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
        self.reach(run_dir)

    @property
    def controller_offset(self) -> float:
        """The controller will be on node 0."""
        return self.links[0].offset

    def reach(self, run_dir: str, strict: bool = True) -> dict[str, dict[str, Any]]:
        """Start all agents; gives what each host tells of itself. Raises `Unreachable`, `Impossible`, `Interrupted`.

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
                link.wire.tracer = trace.tracer(run_dir, "controller", "agent", link.host)
                self.links.append(link)
                self.loop.add_reader(link.stdout, partial(self._heard, link))
                self.loop.add_reader(link.stderr, partial(self._complained, link))
                self._flush(link)
                deadline = time.monotonic() + patience
            self._turn("told", min(deadline, restless) - time.monotonic())
            now = time.monotonic()
            if self.failed and strict:
                deadline = min(deadline, now + MERCY)
            missing = fold_hosts(link.host for link in self._missing(self.links))
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
    def living(self) -> list[ChildLink]:
        """The agents of the hosts that could be reached."""
        return [link for link in self.links if link.node not in self.failed]

    def _missing(self, links: Sequence[ChildLink]) -> list[ChildLink]:
        """Those of which there is neither an answer nor why there will be none."""
        return [link for link in links if link.node not in self.answers and link.node not in self.failed]

    def _fail_silent(self, links: Sequence[ChildLink], how: str) -> None:
        for link in links:
            hint = f"is it up, and do its file systems answer? `muster doctor --hosts {link.host}` looks"
            self._fail(link, Unreachable(how, hint, link.host))

    def _send(self, link: ChildLink, data: bytes) -> None:
        link.wire.put(data)
        self._flush(link)

    def _flush(self, link: ChildLink) -> None:
        link.wire.pump(self.loop, partial(self._flush, link))

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

    def _complained(self, link: ChildLink) -> None:
        if not link.listen():
            self.loop.remove_reader(link.stderr)

    def _heard(self, link: ChildLink) -> None:
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
                self._fail(link, RunFailed(said, host=link.host))

    def _on_hello(self, link: ChildLink, payload: bytes, **facts: Any) -> None:
        link.facts.update(facts)
        if facts["version"] != VERSION:
            words = f"its agent speaks version {facts['version']}, muster {VERSION}"
            self._fail(link, Impossible(words, host=link.host))
        else:
            self._send(link, self.first)  # not before: what follows the agent's own text is lost until it runs

    def _on_broken(self, link: ChildLink, payload: bytes, text: str, limit: bool, **more: Any) -> None:
        link.broken, link.met_limit = (text.strip().splitlines() or ["?"])[-1], limit

    def _on_note(self, link: ChildLink, payload: bytes, text: str, **more: Any) -> None:
        """What it has to say can wait until there is a run."""

    def _answered(self, kind: str, link: ChildLink, payload: bytes, **fields: Any) -> None:
        if kind == self._awaited:
            if kind == "moved":
                self.moved.add(link.node)
            self.answers[link.node] = {**fields, "heard": time.monotonic()}

    def _fail(self, link: ChildLink, error: MusterError) -> None:
        self.failed.setdefault(link.node, error)

    def _why(self, link: ChildLink) -> MusterError:
        """Why an agent did not come to life, or ended."""
        code, how = link.status()
        link.listen()
        said = link.complaint.decode("utf-8", "replace")
        if link.preface is None:
            words = safe(link.broken) or link.last_words(1) or how
            hint = system.FEWER_PROCESSES if link.met_limit else "see agent.log there"
            return Unreachable(f"the connection broke ({words})", hint, link.host)
        if code == SETUP_FAILED:
            return Impossible(link.last_words(), "try that line there by hand", link.host)
        if code == NO_PYTHON or code == 126 or code == 127:
            hint = "name the one to use there: `--python PATH`, `--python HOST:PATH`"
            return Impossible(link.last_words(1), hint, link.host)
        known = TRANSPORTS[self.targets[link.node].place].explain(code, said)
        if known is not None:
            return Unreachable(known.says, known.hint.replace("HOST", link.host), link.host)
        return Unreachable(link.last_words() or how, f"try it by hand: `ssh {link.host} true`", link.host)

    def _raise_failed(self) -> None:
        """Tell all that failed in one error, equal reasons folded over hosts."""
        if not self.failed:
            return
        errors = [self.failed[number] for number in sorted(self.failed)]
        hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
        reasons = fold_reasons((error.host, error.message) for error in errors)
        answered = [link.host for link in self.links if link.node in self.answers]
        more = f" ({fold_hosts(answered)} answered)" if answered else ""
        kind = Impossible if all(isinstance(error, Impossible) for error in errors) else Unreachable
        raise kind(f"not all hosts can be used: {reasons}{more}", "; ".join(hints[:3]) or None)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self.first = pack("tell", cwd=self.need.cwd, script=self.need.script, run_dir=self.run_dir)

    def look_again(self, need: Need) -> None:
        """Ask once more what there is, after the code was sent."""
        self.need = need
        self._ask()
        for link, answer in zip(self.links, self._exchange(self.links, "told", self.first)):
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
        Raises `Impossible`.
        """

        def question(link: ChildLink) -> bytes:
            home = link.facts["home"] if sent else ""
            return pack("compare", listed, root=code.root, home=home, place=[] if sent else place)

        listed, place = tree.entries(code.root, code.names), tree.place(code.root)
        answers = self._exchange(self.links, "compared", question, _PROBE)
        found, own = {}, {}
        for link, answer in zip(self.links, answers):
            names = []
            for number, name in enumerate(code.names):
                theirs = answer["digests"].get(str(number))
                if theirs is None:
                    continue
                if name not in own:
                    own[name] = tree.digest(os.path.join(code.root, name))
                if theirs != own[name] and (theirs or sent):
                    names.append(name)
            # a host must not choose what it is sent: only what is not here
            names += [name for name in answer["stale"] if _is_inside(name) and not _is_here(code.root, name)]
            if names:
                found[self.targets[link.node]] = names
        unreadable = [name for name, known in own.items() if not known and _is_here(code.root, name)]
        if unreadable and sent:
            path = os.path.join(code.root, unreadable[0])
            raise Impossible(f"cannot read {path}", "`chmod` it, or have git ignore it")
        return found

    def remember(self, code: Tree, targets: Collection[Target]) -> None:
        """Have hosts write down what they were sent."""
        listed = tree.entries(code.root, code.names)
        self._exchange(
            [link for link in self.links if self.targets[link.node] in targets],
            "remembered",
            lambda link: pack("remember", listed, root=code.root, home=link.facts["home"]),
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
        self._exchange([first], "flagged", pack("flag", run_dir=theirs))
        answers = self._exchange(others, "shares", pack("shares", run_dir=theirs))
        return [(theirs, True)] + [
            (theirs, True) if answer["shares"] else (_own(link, run_id), False) for link, answer in zip(others, answers)
        ]

    def move(
        self, prepares: Sequence[Mapping[str, Any]], archive: bytes, files: Mapping[str, str], **where: Any
    ) -> None:
        """Have each agent get ready, and leave its connection to this machine for the supervisor on node 0.

        The connection to node 0 then is one to the supervisor, if it `stays`. Raises `RunFailed` and the like.
        """
        first, others = self.links[0], self.links[1:]
        for links in (others, [first]):
            for link in links:
                own = {"files": dict(files), "port": 0} if link is first else {"files": {}, "stays": False}
                fields = {**where, **own, "prepare": dict(prepares[link.node])}
                self._send(link, pack("move", archive if link is first else b"", **fields))
            for link, answer in zip(links, self._exchange(links, "moved", b"")):
                if answer["failed"]:
                    hint = system.FEWER_PROCESSES if answer["limit"] else "see agent.log there"
                    self._fail(link, RunFailed(answer["failed"], hint, link.host))
            self._raise_failed()
        self._end(others)

    def hand_over(self) -> ChildLink:
        """The connection to node 0, which now is one to the supervisor."""
        return self.links[0]

    # ---- where they meet --------------------------------------------------------------------------------------------

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Have the other nodes try to connect to node 0. Raises `Unreachable`."""
        first, others = self.links[0], self.links[1:]
        port = self._exchange([first], "opened", pack("open"))[0]["port"]
        answers = self._exchange(others, "knocked", pack("knock", addresses=addresses, port=port, patience=WAY))
        return Routes(port, [answer["ways"] for answer in answers])

    def measure_clocks(self) -> None:
        """Measure by how much the clock of each host differs: half of the shortest way there and back is the error."""
        best = dict.fromkeys(range(len(self.targets)), float("inf"))
        for _ in range(3):
            sent = time.monotonic()
            for link, answer in zip(self.living, self._exchange(self.living, "clock", pack("clock"))):
                if answer and answer["heard"] - sent < best[link.node]:
                    best[link.node] = answer["heard"] - sent
                    link.offset = answer["t"] - (sent + answer["heard"]) / 2

    def _exchange(
        self,
        links: Sequence[ChildLink],
        kind: str,
        question: bytes | Callable[[ChildLink], bytes],
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

        def question(link: ChildLink) -> bytes:
            own = root if link.facts["shared"] else link.facts["home"]
            return pack("probe", names=names, folders=[folder, own])

        links = self.living
        answers = self._exchange(links, "probed", question, _PROBE)
        self.probed = {link.host: {**link.facts, **told} for link, told in zip(links, answers) if told}
        return self.probed

    def ways(self, most: int) -> dict[tuple[str, str], str]:
        """Why one machine cannot connect to another on a free port; empty where it can.

        Each pair is tried, among more than `most` each with three others: the next two, and the one opposite.
        """
        found: dict[tuple[str, str], str] = {}
        links = self.living
        opened = self._exchange(links, "opened", pack("open")) if len(links) > 1 else []
        ports = {link.node: answer["port"] for link, answer in zip(links, opened) if answer}
        links = [link for link in links if link.node in ports]
        count = len(links)
        for step in range(1, count) if count <= most else (1, 2, count // 2):
            ends = {link.node: links[(number + step) % count] for number, link in enumerate(links)}

            def question(link: ChildLink, ends: Mapping[int, ChildLink] = ends) -> bytes:
                end = ends[link.node]
                addresses = [address for _, address in end.facts["interfaces"]]
                return pack("knock", addresses=addresses, port=ports[end.node], patience=WAY)

            # all at once: every machine is tried by one other
            for start, answer in zip(links, self._exchange(links, "knocked", question)):
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

    def give_up(self) -> None:
        """End all agents; they have started nothing."""
        for link in self.links:
            if link.preface is not None:
                link.kill()  # still on its way
        self._end(self.links)

    def _end(self, links: Sequence[ChildLink]) -> None:
        for link in links:
            if not link.stdout.closed:
                self.loop.remove(link.stdin, link.stdout, link.stderr)
        end_links(links)


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _is_here(root: str, name: str) -> bool:
    return os.path.lexists(os.path.join(root, name))


def _own(link: ChildLink, run_id: str) -> str:
    """The run directory on a node that shares none."""
    return f"{link.facts['home']}/runs/{run_id}"
