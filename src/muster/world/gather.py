"""Reach hosts: bring an agent to life on each, ask what there is, and find where they can all meet.

Nothing of the job is started here. Whatever fails ends with one sentence that names the hosts, and with no agent left.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from muster import stored
from muster.agent import meet, system, tree
from muster.agent.boot import NO_PYTHON, SETUP_FAILED
from muster.agent.protocol import VERSION, pack
from muster.errors import Impossible, Interrupted, MusterError, RunFailed, Unreachable
from muster.hosts import fold_hosts
from muster.model import Host, Job
from muster.places.ssh import refusal
from muster.plurals import plural
from muster.printable import line as safe
from muster.stored import Check, Malformed, checked, flag, several, table, text, texts, texts_by_name, whole
from muster.world import meeting
from muster.world.code import Tree, sync_sends
from muster.world.link import SIGNALS, ChildLink, end_links, prepare_parent, start_agent

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

_FRAMES: Mapping[str, Mapping[str, Check]] = {
    "hello": {"version": whole, "pid": whole, "python": text, "executable": text, "host": text},
    "told": {
        **dict.fromkeys(("host", "boot", "reached_at", "script", "home", "unwritable"), text),
        **dict.fromkeys(("cores", "all_cores"), whole),
        **dict.fromkeys(("interface_names", "gpus", "temporary"), texts),
        **dict.fromkeys(("cwd", "shared"), flag),
        **dict.fromkeys(("limits", "shm"), table),
        "interfaces": several(texts),
        "env": texts_by_name,
    },
    "opened": {"port": whole},
    "compared": {"digests": texts_by_name, "stale": texts},
    "knocked": {"ways": lambda ways: {text(name): texts_by_name(way) for name, way in table(ways).items()}},
    "clock": {"t": stored.number},
    "shares": {"shares": flag},
    "moved": {"failed": text},
    "broken": {"text": text},
}
"""The fields of what an agent says before there is a plan, and what they have to be: a host may say anything."""


class Gathering:
    """The agents of a run on hosts, until they can be given a plan."""

    def __init__(self, job: Job, hosts: Sequence[Host], env: Mapping[str, str], say: Callable[[str], None]):
        self.job, self.hosts, self.env, self.say = job, hosts, env, say
        _, self.signals = prepare_parent(job)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.signals, selectors.EVENT_READ)
        self.links: list[ChildLink] = []
        self.answers: dict[int, dict[str, Any]] = {}
        """By node: the frame that was waited for, with `heard`, when it came."""
        self.failed: dict[int, MusterError] = {}
        self.run_dir = ""
        self.first = b""
        """What each agent is asked once it lives."""
        self.sources: Tree | None = None
        """Files besides the script that have to be the same everywhere."""
        self.strict = True
        """One host that fails ends it for all."""
        self.moved: set[int] = set()
        """Nodes whose agent has left its connection, so that this may end."""

    # ---- reaching ---------------------------------------------------------------------------------------------------

    def reach(self, run_dir: str, strict: bool = True) -> dict[str, dict[str, Any]]:
        """Start all agents; gives what each host tells of itself. Raises `Unreachable`, `Impossible`, `Interrupted`.

        Unless `strict` hosts that cannot be reached are left in `failed`, and the others go on.
        """
        self.strict = strict
        patience = PATIENCE if strict else _BRIEF
        self.run_dir = run_dir
        self._ask_for(self.job)
        waiting = list(enumerate(self.hosts))
        deadline, restless = time.monotonic() + patience, time.monotonic() + RESTLESS
        while len(self.answers.keys() | self.failed.keys()) < len(self.hosts):
            while waiting and len(self._missing(self.links)) < WINDOW:
                number, host = waiting.pop(0)
                link = start_agent(self.job, number, host, self.env)
                self.links.append(link)
                for file in (link.stdout, link.stderr):
                    self.selector.register(file, selectors.EVENT_READ, link)
                link.wire.pump(self.selector, link)
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
            self._fail(link, Unreachable(f"{link.host}: {how}", hint))

    def _send(self, link: ChildLink, data: bytes) -> None:
        link.wire.put(data)
        link.wire.pump(self.selector, link)

    def _turn(self, kind: str, wait: float) -> None:
        """Wait for something, and take frames of this kind as answers."""
        for key, _ in self.selector.select(max(0.0, wait)):
            link = key.data
            if link is None:
                self._signalled()
            elif key.fd == link.wire.writing:
                link.wire.pump(self.selector, link)
            elif key.fileobj is link.stderr:
                if not link.listen():
                    self.selector.unregister(link.stderr)
            else:
                self._heard(link, kind)

    def _signalled(self) -> None:
        for number in os.read(self.signals, 64):
            if number in SIGNALS:
                how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                error = Interrupted(f"{how} before anything was started")
                error.exit_code = 128 + number
                raise error

    def _heard(self, link: ChildLink, kind: str) -> None:
        frames = link.read()
        if frames is None:
            self.selector.unregister(link.stdout)
            if link.node not in self.moved:
                self._fail(link, self._why(link))
            return
        for fields, _ in frames:
            needed = _FRAMES.get(fields["kind"], {})
            try:
                checked(fields, needed, tuple(needed))
            except Malformed as error:
                said = f"{link.host}: its agent sent `{fields['kind']}` in a way that is not understood: {error}"
                self._fail(link, RunFailed(said))
                continue
            if fields["kind"] == "hello":
                link.facts.update(fields)
                if fields["version"] != VERSION:
                    words = f"{link.host}: its agent speaks version {fields['version']}, muster {VERSION}"
                    self._fail(link, Impossible(words))
                else:
                    self._send(link, self.first)  # not before: what follows the agent's own text is lost until it runs
            elif fields["kind"] == kind:
                if kind == "moved":
                    self.moved.add(link.node)
                self.answers[link.node] = {**fields, "heard": time.monotonic()}
            elif fields["kind"] == "broken":
                link.broken = fields["text"].strip().splitlines()[-1]

    def _fail(self, link: ChildLink, error: MusterError) -> None:
        self.failed.setdefault(link.node, error)

    def _why(self, link: ChildLink) -> MusterError:
        """Why an agent did not come to life, or ended."""
        code, how = link.status()
        link.listen()
        said = link.complaint.decode("utf-8", "replace")
        if link.preface is None:
            words = safe(link.broken) or link.last_words(1) or how
            return Unreachable(
                f"{link.host}: the connection broke ({words})", system.hint_for(words, "see agent.log there")
            )
        if code == SETUP_FAILED:
            return Impossible(f"{link.host}: {link.last_words()}", "try that line there by hand")
        if code == NO_PYTHON or code == 126 or code == 127:
            words = link.last_words(1)
            return Impossible(
                f"{link.host}: {words}", "name the one to use there: `--python PATH`, `--python HOST:PATH`"
            )
        known = refusal(said) if code == 255 else None
        if known is not None:
            return Unreachable(f"{link.host}: {known.says}", known.hint.replace("HOST", link.host))
        return Unreachable(f"{link.host}: {link.last_words() or how}", f"try it by hand: `ssh {link.host} true`")

    def _raise_failed(self) -> None:
        """Tell all that failed in one error, equal reasons folded over hosts."""
        if not self.failed:
            return
        by_reason: dict[str, list[str]] = {}
        hints: list[str] = []
        for error in (self.failed[number] for number in sorted(self.failed)):
            host, _, reason = error.sentence.partition(": ")
            by_reason.setdefault(reason, []).append(host)
            if error.hint and error.hint not in hints:
                hints.append(error.hint)
        reasons = "; ".join(f"{fold_hosts(names)}: {reason}" for reason, names in by_reason.items())
        answered = [link.host for link in self.links if link.node in self.answers]
        more = f" ({fold_hosts(answered)} answered)" if answered else ""
        kind = Impossible if all(isinstance(error, Impossible) for error in self.failed.values()) else Unreachable
        raise kind(f"not all hosts can be used: {reasons}{more}", "; ".join(hints[:3]) or None)

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _ask_for(self, job: Job) -> None:
        self.first = pack("tell", cwd=job.cwd, script=job.program.path, run_dir=self.run_dir)

    def look_again(self, job: Job) -> None:
        """Ask once more what there is for this job, after its code was sent."""
        self.job = job
        self._ask_for(job)
        for link, answer in zip(self.links, self._exchange(self.links, "told", self.first)):
            link.facts.update(answer)

    def differing(self, code: Tree, sent: bool = False) -> dict[Host, list[str]]:
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
                found[self.hosts[link.node]] = names
        unreadable = [name for name, known in own.items() if not known and _is_here(code.root, name)]
        if unreadable and sent:
            path = os.path.join(code.root, unreadable[0])
            raise Impossible(f"cannot read {path}", "`chmod` it, or have git ignore it")
        return found

    def remember(self, code: Tree, hosts: Collection[Host]) -> None:
        """Have hosts write down what they were sent."""
        listed = tree.entries(code.root, code.names)
        self._exchange(
            [link for link in self.links if self.hosts[link.node] in hosts],
            "remembered",
            lambda link: pack("remember", listed, root=code.root, home=link.facts["home"]),
        )

    def check_room(self) -> None:
        """Raise `Impossible` where the files of a run cannot be kept."""
        full = {link.host: link.facts["unwritable"] for link in self.links if link.facts["unwritable"]}
        if full:
            told = "; ".join(f"{host} {why}" for host, why in full.items())
            raise Impossible(
                f"not all hosts can keep the run: {told}",
                ("free some space there, or " if any("space" in why for why in full.values()) else "")
                + "set MUSTER_HOME there",
            )

    def check(self) -> None:
        """What would fail later, and less clearly."""
        job = self.job
        without = [link.host for link in self.links if not link.facts["cwd"]]
        if without:
            raise Impossible(
                f"there is no folder {job.cwd} on {fold_hosts(without)}",
                "the ranks start there: `--sync` sends it, or share it, or name another by --cwd",
            )
        if path := job.program.path:
            own = meet.digest(os.path.join(job.cwd, path))
            absent = [link.host for link in self.links if not link.facts["script"]]
            other = [link.host for link in self.links if link.facts["script"] not in ("", own)]
            if absent:
                raise Impossible(
                    f"there is no {path} on {fold_hosts(absent)}", "`--sync` sends it; or share its folder"
                )
            if other:
                raise Impossible(
                    f"{path} on {fold_hosts(other)} is not the one that is here",
                    "`--sync` sends this one; or share its folder",
                )
        if self.sources is not None and self.sources.names:
            differing = {host.name: names for host, names in self.differing(self.sources).items()}
            if differing:
                refuse_other_code(differing, "here", self.sources, f"`--sync` sends {sync_sends(job.cwd)}")
        versions: dict[str, list[str]] = {}
        for link in self.links:
            versions.setdefault(".".join(link.facts["python"].split(".")[:2]), []).append(link.host)
        if len(versions) > 1:
            told = ", ".join(f"{fold_hosts(names)} {version}" for version, names in versions.items())
            raise Impossible(f"Python differs between hosts: {told}", "name one that all have: `--python PATH`")

    # ---- moving -----------------------------------------------------------------------------------------------------

    def share(self, run_dir: str, run_id: str) -> list[tuple[str, bool]]:
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
                failed = str(answer["failed"])
                if failed:
                    self._fail(
                        link, RunFailed(f"{link.host}: {failed}", system.hint_for(failed, "see agent.log there"))
                    )
            self._raise_failed()
        end_links(others)

    def hand_over(self) -> ChildLink:
        """The connection to node 0, which now is one to the supervisor."""
        self.close()
        return self.links[0]

    # ---- where they meet --------------------------------------------------------------------------------------------

    def meet(self) -> meeting.Meeting:
        """Find the address of node 0 that all others reach, and how the clocks differ. Raises `Unreachable`."""
        self._clocks()
        if len(self.links) == 1:
            return meeting.ALONE
        first, others = self.links[0], self.links[1:]
        addresses = meeting.usable(first.host, first.facts, self.job.env)
        port = self._exchange([first], "opened", pack("open"))[0]["port"]
        answers = self._exchange(others, "knocked", pack("knock", addresses=addresses, port=port, patience=WAY))
        facts = [link.facts for link in self.links]
        ways = [answer["ways"] for answer in answers]
        return meeting.choose([link.host for link in self.links], facts, addresses, port, ways)

    def _clocks(self) -> None:
        """Measure by how much the clock of each host differs: half of the shortest way there and back is the error."""
        best = dict.fromkeys(range(len(self.hosts)), float("inf"))
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
        self._clocks()
        found = {}
        for link in self.living:
            told = self.probed.get(link.host)
            if told is not None:
                found[link.host] = told["wall"] - (wall + (told["at"] - link.offset) - at)
        return found

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Watch no more."""
        self.selector.close()

    def give_up(self) -> None:
        """End all agents; they have started nothing."""
        for link in self.links:
            if link.preface is not None:
                link.kill()  # still on its way
        end_links(self.links)


def refuse_other_code(differing: Mapping[str, Sequence[str]], where: str, code: Tree, hint: str) -> None:
    """Raise `Impossible` where hosts have other Python files that ranks may import. `hint` says what --sync does."""
    if not differing:
        return
    names = list(dict.fromkeys(name for found in differing.values() for name in found))
    told = safe(names[0]) + (f" and {plural(len(names) - 1, 'other file')}" if len(names) > 1 else "")
    raise Impossible(
        f"{told} in {code.root} on {fold_hosts(differing)} {'is' if len(names) == 1 else 'are'} not what is {where}",
        f"{hint}; `--no-code-check` starts the run anyway" + ("; what git ignores is not compared" if code.git else ""),
    )


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _is_here(root: str, name: str) -> bool:
    return os.path.lexists(os.path.join(root, name))


def _own(link: ChildLink, run_id: str) -> str:
    """The run directory on a node that shares none."""
    return f"{link.facts['home']}/runs/{run_id}"
