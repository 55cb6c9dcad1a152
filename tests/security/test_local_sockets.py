"""Another user of the machine, who sees all socket names and binds any of them, runs nothing and stops nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lab_cluster import STEPS_UNTIL_GO, LabCluster
from waiting import until

from muster.agent import orphans
from muster.lab.spec import SECOND_USER
from muster.protocol import local_sockets
from muster.protocol.frames import VERSION, encode_frame
from muster.protocol.listener import LocalListener, Peer
from muster.protocol.messages import FROM_CLIENT, ON_MACHINE

NOBODY = 65534

SQUATTER = Path(__file__).with_name("squatter.py").read_text()


class Squatters:
    """The attacker's processes, and what they have recorded."""

    def __init__(self) -> None:
        # not in pytest's directory, which each new pytest closes to other users, nor in /tmp: each host has its own
        self.folder, self.started = Path(tempfile.mkdtemp(prefix="squat-", dir="/var/lib")), list[Any]()
        self.folder.chmod(0o777)
        self.victim = self.folder / "victim"
        self.victim.write_text("nobody is to see this")
        self.victim.chmod(0o600)

    @property
    def argv(self) -> list[str]:
        return ["/usr/bin/python3", "-c", SQUATTER, str(self.folder), str(self.victim)]

    def told(self, what: str) -> list[str]:
        """Return names that were `seen` or `bound`; or what was `heard`."""
        return [line for path in self.folder.glob(f"*.{what}") for line in path.read_text().splitlines()]

    def ready(self, count: int) -> None:
        until(lambda: len(list(self.folder.glob("*.bound"))) == count, "she watches")

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)

    def in_vain(self) -> None:
        """Check that no one connected to the attacker, and nothing of the attacker's was run."""
        assert [] == self.told("heard")
        assert not (self.folder / "harm").exists()


@pytest.fixture
def squatters() -> Iterator[Squatters]:
    made = Squatters()
    yield made
    made.close()


@pytest.fixture
def here(squatters: Squatters) -> Squatters:
    """Attackers on this machine, as another user."""
    other: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    squatters.started.append(subprocess.Popen(squatters.argv, cwd="/", **other))
    squatters.ready(1)
    return squatters


def a_run_id() -> str:
    """A run ID of this test alone: concurrent tests of the same user see each other's sockets."""
    return f"20261127-000000-{os.urandom(6).hex()}"


def names(run_id: str) -> list[str]:
    """Return the names that the run itself has bound."""
    with open("/proc/net/unix") as file:
        return sorted(set(re.findall(rf"@(muster/0/{run_id}/[0-9a-f]{{20}})\n", file.read())))


@pytest.fixture
def ours(muster: Any) -> Iterator[Any]:
    """A muster of which no process is left after the test."""
    yield muster
    kill_all(muster.home)


def kill_all(home: Path) -> None:
    """Kill every process with this MUSTER_HOME on its command line or in its environment."""

    def pids() -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            try:
                text = Path(f"/proc/{name}/cmdline").read_bytes() + Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if name.isdigit() and os.fsencode(str(home)) in text and state not in "ZX":
                found.append(int(name))
        return found

    # stopped first, so that none reports the end of another
    for number in (signal.SIGSTOP, signal.SIGKILL):
        before: list[int] = []
        while (found := pids()) != before:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            before = found
    until(lambda: not pids(), "all have ended")


def test_an_attacker_that_binds_names_stops_no_run(ours: Any, here: Squatters) -> None:
    words = ("sh", "-c", "echo ready; sleep 1000")
    for _ in range(2):  # the attacker binds names as soon as the first name of a run is visible
        done = ours("run", "-d", "-g", "1", "--", "true")
        assert 0 == done.returncode, done.stderr
        assert 0 == ours("wait", "last").returncode
    assert 0 == ours("run", "-d", "--name", "served", "-g", "1", "--", *words).returncode
    served = ours.newest()
    attached = ours.start("run", "--name", "attached", "-g", "1", "--", *words)
    until(lambda: len(list((ours.home / "runs").glob("*/attempt_0/*.out"))) == 4, "both run")
    (other,) = {path.parent for path in (ours.home / "runs").glob("*/job.json")} - {
        path.parent for path in (ours.home / "runs").glob("*/controller.json")
    }
    bound: set[str] = set()
    for run in (served, other):
        bound |= set(until(lambda run=run: names(run.name), "its agent listens"))  # type: ignore[misc]
    until(lambda: bound <= set(here.told("seen")), "she has seen them")
    assert {"running"} == {run["state"] for run in json.loads(ours("ps", "--json").stdout) if run["name"]}
    kill_all(ours.home)
    attached.communicate()
    until(lambda: bound <= set(here.told("bound")), "she has taken all of them")
    states = {run["name"]: run["state"] for run in json.loads(ours("ps", "--json").stdout) if run["name"]}
    assert {"served": "lost", "attached": "lost"} == states
    for name in states:
        stacks = ours("stacks", name)
        assert 2 == stacks.returncode
        assert "nobody is to see this" not in stacks.stdout + stacks.stderr and "forged" not in stacks.stdout
        assert 0 == ours("kill", name).returncode
        assert 0 == ours("rm", name).returncode
    here.in_vain()


def _wrong(kind: str) -> dict[str, Any]:
    """Return the fields of a message with values that are invalid for all of them."""
    fields = {**FROM_CLIENT, **ON_MACHINE}[kind].fields
    return {name: [{"": [None]}] for name in fields} or {"nonsense": 1}


GARBAGE = {
    "bytes": b"not a frame at all",
    "no UTF-8": b"\0\0\0\x04\0\0\0\0\xff\xfe\xfd\xfc",
    "deep": b"\0\1\x86\xa0\0\0\0\0" + b"[" * 100000,
    "no object": b"\0\0\0\x02\0\0\0\0[]",
    "no kind": b"\0\0\0\x02\0\0\0\0{}",
    "no such kind": encode_frame("nonsense"),
    "fields of no kind": encode_frame("attach", nonsense=1)
    + encode_frame("stacks", ranks=5)
    + encode_frame("started")
    + encode_frame("register"),
    "no number": encode_frame("credit", node="x", count=[]) + encode_frame("stop", number="x"),
    **{f"random bytes {seed}": Random(seed).randbytes(1000) for seed in range(5)},
    **{f"no {kind}": encode_frame(kind, b"x" * 100, **_wrong(kind)) for kind in {*FROM_CLIENT, *ON_MACHINE} - {"end"}},
}


def test_invalid_frames_end_their_connection_and_no_run(ours: Any, tmp_path: Path) -> None:
    """To the agent and the controller, from the same user: by mistake, because that user could kill them too."""
    words = ("-g", "1", "--", "sh", "-c", "until [ -e go ]; do sleep 0.02; done; exit 5")
    assert 0 == ours("run", "-d", *words).returncode
    attached = ours.start("run", *words)
    until(lambda: len(list((ours.home / "runs").glob("*/attempt_0/*.out"))) == 2, "both run")
    runs = [path.parent for path in (ours.home / "runs").glob("*/job.json")]
    sockets = [name for run in runs for name in until(lambda run=run: names(run.name), "it listens")]  # type: ignore[misc]
    assert 3 == len(sockets), "two agents, and a supervisor"
    for name in sockets:
        for data in GARBAGE.values():
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(120)
                link.connect("\0" + name)
                try:
                    link.sendall(data)
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(1 << 16):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it was closed at once
    states = json.loads(ours("ps", "--json").stdout)
    assert ["running", "running"] == [run["state"] for run in states]
    (tmp_path / "go").touch()
    assert 5 == attached.wait(timeout=120)
    attached.communicate()
    assert [5, 5] == [ours("wait", run.name).returncode for run in runs]
    events = [run / "events.jsonl" for run in runs if (run / "controller.json").exists()]
    assert '"refused"' in events[0].read_text()
    assert not any("supervisor began again" in path.read_text() for path in events)


SENDS = """
import socket, sys
where, *texts = sys.argv[1:]
address = "\\0" + where if "/" in where else (where.split()[0], int(where.split()[1]))
for data in map(bytes.fromhex, texts):
    with socket.socket(socket.AF_UNIX if "/" in where else socket.AF_INET) as link:
        link.settimeout(120)
        link.connect(address)
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while link.recv(1 << 16):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
print("sent")
"""
"""WHERE HEX…: send each over a connection of its own, and wait until it is closed."""


def test_random_bytes_on_every_socket_of_a_run_on_hosts_end_their_connection_and_no_run(there: LabCluster) -> None:
    """Sockets of agents and controller that other processes of a host can reach, and the two ports that other hosts
    can: that of the controller, and the rendezvous."""
    words = ("-H", "n1,n2", "-g", "1", there.script(STEPS_UNTIL_GO))
    assert 0 == there.muster("run", "-d", *words).returncode
    there.steps(2, 3)
    run = there.run.name
    (started,) = [event for event in events(there) if event["event"] == "listening"]

    def told(host: str, text: str, *more: str) -> str:
        done = there.lab.run(host, ["/usr/bin/python3", "-c", text, *more], cwd="/", timeout=240)
        assert 0 == done.returncode, done.stderr
        return str(done.stdout)

    names = 'import re; print(*re.findall(r"(?m)@(muster/0/%s/[0-9a-f]{20})$", open("/proc/net/unix").read()))'
    sockets = [(host, name) for host in ("n1", "n2") for name in told(host, names % run).split()]
    assert 3 == len(sockets), "two agents, and a controller"
    find = "ss -Hltnp | grep \"pid=$(pgrep -o -f '[m]uster.pyz serve'),\" | grep -o '[0-9.]*:[0-9]* ' | head -1"
    door = there.lab.run("n1", ["sh", "-c", find], cwd="/", check=True).stdout.strip()
    address = there.lab.run("n1", ["hostname", "-i"], cwd="/", check=True).stdout.split()[0]
    sockets += [("n2", f"{address} {port}") for port in (door.rpartition(":")[2], started["port"])]
    texts = [data.hex() for data in GARBAGE.values()]
    for host, where in sockets:
        # the maximum size of an argument is 128 KiB
        assert "sent\n" == told(host, SENDS, where, *(text for text in texts if len(text) < 1 << 17)), where
        made = len(there.log(0).splitlines())
        until(lambda made=made: len(there.log(0).splitlines()) > made + 2, f"the run goes on after {where}")  # type: ignore[misc]
    assert ["running"] == [now["state"] for now in json.loads(there.muster("ps", "--json").stdout)]
    (there.folder / "go").touch()
    assert 0 == there.muster("wait", "last").returncode
    kinds = [event["event"] for event in events(there)]
    assert 10 < kinds.count("refused") <= 20, "ten each, by the controller's socket and its port"
    assert not {"supervisor began again", "lost", "storeended", "unable"} & set(kinds)
    there.nothing_left()


def events(there: LabCluster) -> list[dict[str, Any]]:
    """Return the recorded events of the newest run."""
    return [json.loads(line) for line in (there.run / "events.jsonl").read_text().splitlines()]


NO_NUMBERS: tuple[Any, ...] = ("x", -1, 1.5, True, None, [], {}, 1 << 64)
NO_SIGNALS: tuple[Any, ...] = (*NO_NUMBERS, 0, 4000)
NO_TEXTS: tuple[Any, ...] = (5, True, [], {}, "\0")
NO_RANKS: tuple[Any, ...] = (5, "x", {}, [-1], ["0"], [True], [[]])
WRONG: dict[str, dict[str, dict[str, tuple[Any, tuple[Any, ...]]]]] = {
    local_sockets.SUPERVISOR: {
        "attach": {
            "want": (True, (None, *NO_RANKS)),
            "offsets": ({}, (7, None, [], *({"0/0.out": value} for value in (*NO_NUMBERS, 1 << 62)))),
            "tail": (None, ("x", -1, True, [], 1 << 64)),
            "events": (0, NO_NUMBERS),
            "owner": (False, (0, None, "x")),
        },
        "credit": {"node": (0, (*NO_NUMBERS, 99)), "count": (0, NO_NUMBERS)},
        "stop": {"number": (15, NO_SIGNALS)},
        "forward_signal": {"number": (10, NO_SIGNALS)},
        "kill": {"by": ("", NO_TEXTS)},
        "stdin": {"at": (0, NO_NUMBERS), "end": (False, (0, None, "x"))},
        "stacks": {"ranks": (None, NO_RANKS)},
    },
    local_sockets.AGENT: {
        "kill": {"by": ("", NO_TEXTS)},
        "stacks": {"ranks": (None, NO_RANKS)},
        "register": {
            "version": (VERSION, (*NO_NUMBERS,)),
            "rank": (0, NO_NUMBERS),
            "launcher": ("x", (*NO_TEXTS, None)),
            **dict.fromkeys(("world_size", "local_rank", "local_world_size", "node_rank"), (1, ("x", -1, []))),
        },
        "exec_request": {
            "host": ("x", (*NO_TEXTS, None)),
            "words": ([], (None, 5, "x", [5], ["\0"], ["\ud800"])),
            "env": ({}, (None, 5, [], {"A": 5}, {"": ""}, {"A=": ""}, {"A": "\0"})),
        },
        "started": {"pid": (2, (*NO_NUMBERS, 0, 1))},
        "exited": {"code": (0, ("x", [])), "signal": (None, ("x", [])), "asked": (None, ("x", []))},
    },
}
"""By listener and kind: a valid value of each field, and invalid ones."""


def test_a_field_of_a_wrong_kind_ends_its_connection_and_no_run(ours: Any) -> None:
    assert 0 == ours("run", "-d", "-g", "1", "--", "sleep", "600").returncode
    run = ours.newest()
    until(lambda: list(run.glob("attempt_0/*.out")), "it runs")
    taken = []
    for who, kinds in WRONG.items():
        for kind, fields in kinds.items():
            right = {name: value for name, (value, _) in fields.items()}
            for name, wrong in ((name, value) for name, (_, values) in fields.items() for value in values):
                link = until(lambda who=who: local_sockets.find(str(run), who), "somebody listens")  # type: ignore[misc]
                with link:
                    link.settimeout(120)
                    link.sendall(encode_frame(kind, **{**right, name: wrong}))
                    try:
                        said = link.recv(1 << 16)
                    except ConnectionResetError:
                        said = b""
                if said:
                    taken.append((who, kind, name, wrong))
    assert [] == taken
    assert ["running"] == [now["state"] for now in json.loads(ours("ps", "--json").stdout)]
    assert '"broken"' not in (run / "events.jsonl").read_text()
    assert "supervisor began again" not in (run / "events.jsonl").read_text()
    assert 0 == ours("stacks", run.name).returncode
    assert 0 == ours("kill", run.name).returncode


def test_an_agent_that_crashes_ends_its_ranks_and_the_error_is_reported(ours: Any, tmp_path: Path) -> None:
    """An error of the agent's own: the directory for the logs of the second attempt cannot be opened."""
    script = "until [ -e go ]; do sleep 0.02; done; exit 5"
    words = ("--max-restarts", "1", "-g", "1", "--", "sh", "-c", script)
    assert 0 == ours("run", "-d", *words).returncode
    attached = ours.start("run", *words)
    until(lambda: len(list((ours.home / "runs").glob("*/attempt_0/*.out"))) == 2, "both run")
    runs = [path.parent for path in (ours.home / "runs").glob("*/job.json")]
    for run in runs:
        (run / "attempt_1").symlink_to("attempt_1")
    (tmp_path / "go").touch()
    _, said = attached.communicate(timeout=120)
    assert (125, True) == (attached.returncode, "Too many levels of symbolic links" in said), said
    for run in runs:
        waited = ours("wait", run.name)
        assert 125 == waited.returncode, waited.stdout + waited.stderr
        shown = ours("show", run.name).stdout
        assert "Too many levels of symbolic links" in shown and "agent" in shown, shown
        assert not [line for line in shown.splitlines() if line.startswith("state") and "lost" in line]


def test_a_launcher_on_two_nodes_starts_what_was_asked_for_and_speaks_to_nobody_else(
    there: LabCluster, squatters: Squatters
) -> None:
    """mpirun, which reaches the other node by `remote-exec`, and starts a shim for each rank there."""
    for host in ("n1", "n2"):
        squatters.started.append(there.lab.start(host, squatters.argv, user=SECOND_USER, cwd="/"))
    squatters.ready(2)
    words = ("--launcher", "mpirun", "--launcher-args", "mpirun.openmpi", "--", "sh", "-c", "echo rank $RANK")
    done = there.muster("run", "-H", "n1,n2", "-g", "1", *words)
    assert (0, {"[0] rank 0", "[1] rank 1"}) == (done.returncode, set(done.stdout.splitlines())), done.stderr
    assert squatters.told("seen"), "she has seen the names"
    squatters.in_vain()


# ---- who listens and who connects ------------------------------------------------------------------------------------


def other_user(text: str, *words: str) -> subprocess.Popen[str]:
    """A Python of another user; its output is a pipe."""
    other: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", text, *words], cwd="/", stdout=subprocess.PIPE, text=True, **other
    )


LISTENS = """
import socket, sys
traps = []
for name in sys.argv[2:]:
    traps.append(socket.socket(socket.AF_UNIX))
    traps[-1].bind("\\0" + name)
    traps[-1].listen(0)
full = []
for name in sys.argv[2:] if sys.argv[1] != "empty" else ():
    while True:
        link = socket.socket(socket.AF_UNIX)
        link.setblocking(False)
        try:
            link.connect("\\0" + name)
        except BlockingIOError:
            break
        full.append(link)
forged = []
if sys.argv[1] == "blank line":
    forged = ["x\\n\\ny"]
elif sys.argv[1] == "forged lines":
    with open("/proc/net/unix") as file:
        inodes = {line.split()[6] for line in list(file)[1:]}
    forged = [f"\\n0 0 0 0 0 0 {inode} @{sys.argv[2]}" for inode in inodes]
for name in forged:
    traps.append(socket.socket(socket.AF_UNIX))
    traps[-1].bind("\\0" + name)
print("listens", flush=True)
sys.stdin.read()
"""


def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like before Linux 5.3, which does not report the owner of a socket."""
    told = local_sockets._listening
    monkeypatch.setattr(local_sockets, "_listening", lambda: (sock._replace(uid=None) for sock in told()))


@pytest.mark.parametrize("queue", ["empty", "full", "blank line", "forged lines"])
def test_a_name_that_another_user_has_is_passed_over_on_both_sides(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sockets, "_PATIENCE", 0.2)
    sockets = local_sockets.Sockets(a_run_id(), local_sockets.new_token())
    first, second = list(sockets.names(os.getuid(), local_sockets.AGENT))[:2]
    bystander = sockets.listen(local_sockets.SUPERVISOR)  # this user's pid, which the attacker may forge
    other = other_user(LISTENS, queue, first[1:], second[1:])
    try:
        assert other.stdout is not None
        assert "listens\n" == other.stdout.readline()
        assert sockets.connect(local_sockets.AGENT, os.getuid()) is None
        with monkeypatch.context() as patch:
            untold(patch)
            assert local_sockets.connect(first, os.getuid()) is None
        bystander.close()
        assert not orphans.looked_after(sockets.run_id)
        with sockets.listen(local_sockets.AGENT) as ours:
            link = sockets.connect(local_sockets.AGENT, os.getuid())
            assert link is not None
            with link:
                assert ours.getsockname() == link.getpeername() != first
        theirs = local_sockets.connect(first, NOBODY) if queue == "empty" else None
        if theirs is not None:  # root's client of that user's run
            theirs.close()
    finally:
        bystander.close()
        other.kill()
        other.communicate()


def test_a_busy_listener_of_this_user_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sockets, "_PATIENCE", 0.1)
    sockets = local_sockets.Sockets(a_run_id(), local_sockets.new_token())
    with sockets.listen(local_sockets.AGENT, queue=0):
        links = [sockets.connect(local_sockets.AGENT, os.getuid())]
        with pytest.raises(TimeoutError):
            while True:
                links.append(sockets.connect(local_sockets.AGENT, os.getuid()))
        untold(monkeypatch)
        with pytest.raises(TimeoutError):
            sockets.connect(local_sockets.AGENT, os.getuid())
        for link in links:
            assert link is not None
            link.close()


def test_no_name_reveals_another_one() -> None:
    sockets = local_sockets.Sockets(a_run_id() + "-" + "x" * 24, local_sockets.new_token())
    every = [*sockets.names(4294967294, local_sockets.AGENT), *sockets.names(4294967294, local_sockets.SUPERVISOR)]
    every += sockets._replace(token=local_sockets.new_token()).names(4294967294, local_sockets.AGENT)
    assert len(every) == len({name.rpartition("/")[2] for name in every})
    assert all(len(os.fsencode(name)) < 107 for name in every)


def test_an_agent_hears_its_user_and_no_other_one() -> None:
    from test_strangers import Loop

    loop, notes, heard, gone = Loop(), list[str](), list[Any](), list[Peer]()
    sockets = local_sockets.Sockets(a_run_id(), local_sockets.new_token())
    with sockets.listen(local_sockets.AGENT) as ours:

        def came(sock: socket.socket) -> None:
            Peer(loop, sock, lambda peer, fields, payload: heard.append(fields), gone.append, notes.append)

        LocalListener(loop, ours, came, notes.append)
        name = ours.getsockname()[1:]
        name = name.decode() if isinstance(name, bytes) else name
        speaks = f"""if True:
            import socket, sys
            link = socket.socket(socket.AF_UNIX)
            link.connect("\\0" + sys.argv[1])
            try:
                link.send({encode_frame("kill")!r})
                print(link.recv(1) == b"", flush=True)
            except OSError:
                print(True, flush=True)"""
        other = other_user(speaks, name)
        loop.until(lambda: other.poll() is not None, "the other user has gone")
        said, _ = other.communicate()
        assert ("True\n", [f"refused a connection of user {NOBODY}"], []) == (said, notes, heard)
        link = sockets.connect(local_sockets.AGENT, os.getuid())
        assert link is not None
        with link:
            link.sendall(encode_frame("kill"))
            loop.until(lambda: heard, "our own is heard")
        loop.until(lambda: gone, "and has gone")
    loop.close()
