"""A peer that connects to a port of a run without the secret gets nothing, uses few resources, and ends nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lab_cluster import STEPS_UNTIL_GO, LabCluster
from waiting import until

from muster.agent.dialer import ControllerDialer, Met
from muster.controller.agent_listener import AgentListener
from muster.lab.spec import SECOND_USER
from muster.linux.eventloop import EventLoop
from muster.protocol import frames
from muster.protocol.frames import FrameDecoder, encode_frame
from muster.protocol.handshake import Terms

TERMS = Terms("5ec2e7" * 8, "20261127-000000-abcdef-train")


class Loop(EventLoop):
    """The loop of an agent and of a controller; it also keeps the authenticated connections."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Met] = []

    def until(self, condition: Callable[[], Any], what: str, within: float = 120) -> Any:
        return until(lambda: (self.run_once(0.02), condition())[1], what, within)

    def complain(self, text: str) -> None:
        """Record what an agent would write to its log."""

    def connected(self, met: Met, same: bool) -> None:
        self.met.append(met)

    def close(self) -> None:
        super().close()
        for met in self.met:
            os.close(met.fd)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as made:
        yield made


def dialer(loop: Loop, port: socket.socket, terms: Terms = TERMS) -> ControllerDialer:
    made = ControllerDialer(loop, *port.getsockname(), terms, 1, lambda: 0, loop.connected, loop.complain)
    made.dial()
    return made


class Impostor:
    """Has bound the port after the controller died, and knows everything but the secret."""

    def __init__(self, loop: Loop, port: socket.socket) -> None:
        self.loop, self.port, self.trials = loop, port, 0
        self.hellos: list[dict[str, Any]] = []
        port.setblocking(False)
        loop.add_reader(port, self.called)

    def called(self) -> None:
        sock, _ = self.port.accept()
        sock.setblocking(False)
        decoder, self.trials = FrameDecoder(), self.trials + 1
        # the nonce of an earlier connection, so that its proof could be replayed
        nonce = self.hellos[-1]["nonce"] if self.hellos and self.trials % 2 else "ab" * 32
        sock.send(encode_frame("challenge", version=frames.VERSION, nonce=nonce))
        sock.send(encode_frame("nonce", nonce=nonce))  # as in earlier versions

        def heard() -> None:
            data = sock.recv(4096)
            for said, _ in decoder.feed(data):
                self.hellos.append(said)
                for frame in self.answers(said):
                    try:
                        sock.send(frame)
                    except OSError:
                        break
            if not data:
                self.loop.remove_reader(sock)
                sock.close()

        self.loop.add_reader(sock, heard)

    def answers(self, said: dict[str, Any]) -> list[bytes]:
        """Return the attacker's variants: another order, the same proof, its nonce as its own."""
        mac, number = said.get("mac", said.get("proof")), self.trials % 4
        if number == 0:
            return [
                encode_frame("nonce", nonce=said["nonce"]),
                encode_frame("challenge", version=frames.VERSION, nonce=said["nonce"]),
            ]
        if number == 1:
            return [encode_frame("welcome", mac=mac, proof=mac, incarnation="", heard=0)]
        if number == 2:
            return [encode_frame("welcome", mac="ü" * 64, proof="ü" * 64, incarnation="x", heard=0)]
        return [encode_frame(**said), b"\xff" * 64]


def test_an_agent_rejects_an_impostor_and_then_finds_its_controller(loop: Loop, port: socket.socket) -> None:
    """Reflection, replay, reordering, proofs that are not ASCII: each ends the connection, and the agent reconnects."""
    impostor = Impostor(loop, port)
    dialer(loop, port)
    loop.until(lambda: impostor.trials >= 5, "the agent has tried five times")
    assert not loop.met
    assert len(impostor.hellos) <= impostor.trials, "one proof a connection"
    loop.remove_reader(port)
    AgentListener(loop, port, TERMS, "life", lambda node: 0, lambda node, met: loop.met.append(met), print)
    loop.until(lambda: len(loop.met) == 2, "both have met")


def _hello(**fields: Any) -> bytes:
    return encode_frame(
        "response", **{"node": 1, "nonce": "ab" * 32, "incarnation": "", "heard": 0, "mac": "cd" * 32, **fields}
    )


HOSTILE = {
    "a proof that is no ASCII": _hello(mac="ü" * 32, proof="ü" * 64),
    "a proof of no type": _hello(mac=None, proof={}),
    "a node of no number": _hello(node="x"),
    "no fields": encode_frame("response"),
    "no UTF-8": b"\0\0\0\x04\0\0\0\0\xff\xfe\xfd\xfc",
    "deep": b"\0\0\x0f\xa0\0\0\0\0" + b"[" * 4000,
    "huge": b"\xff" * 8,
    "large": b"\0\0\x10\0\0\0\0\0" + b"x" * 4096,
    "a browser": b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n",
    "another kind": encode_frame("welcome"),
    "early": _hello() + encode_frame("facts"),
    "drop by drop": struct.pack("!II", 100, 0),
    **{f"random bytes {seed}": Random(seed).randbytes(100) for seed in range(5)},
}


def test_data_of_an_unauthenticated_peer_end_its_connection_and_nothing_else(loop: Loop, port: socket.socket) -> None:
    notes: list[str] = []
    AgentListener(loop, port, TERMS, "life", lambda node: 0, lambda node, met: loop.met.append(met), notes.append)
    for name, data in HOSTILE.items():
        with socket.create_connection(port.getsockname()) as stranger:
            stranger.sendall(data)
            if name == "drop by drop":  # and sends nothing more
                stranger.shutdown(socket.SHUT_WR)
            stranger.setblocking(False)

            def closed(stranger: socket.socket = stranger) -> bool:
                try:
                    return stranger.recv(4096) == b""
                except ConnectionResetError:
                    return True
                except BlockingIOError:
                    return False

            loop.until(closed, f"she is sent away: {name}")
    assert not loop.met
    assert 9 <= len(notes) <= 10 and "127.0.0.1" in notes[0] and "more are not reported" in notes[-1]
    dialer(loop, port)
    loop.until(lambda: len(loop.met) == 2, "who knows the secret is let in")


FEW = """
import resource, socket, sys, time
sys.path[:0] = sys.argv[2:]
from test_strangers import TERMS, Loop
from muster.controller.agent_listener import AgentListener
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
loop, notes, turns = Loop(), [], 0
def came(node, met):
    with open("/dev/null"):  # the run's own work
        print("came", node, turns, time.process_time(), flush=True)
port = socket.socket(fileno=int(sys.argv[1]))
AgentListener(loop, port, TERMS, "life", lambda node: 0, came, lambda text: print("note", text, flush=True))
while True:
    with open("/dev/null"):
        loop.run_once(1.0)
    turns += 1
"""


def test_connections_beyond_the_descriptor_limit_neither_stop_nor_busy_the_controller(
    loop: Loop, port: socket.socket
) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    words = [sys.executable, "-c", FEW, str(port.fileno()), *paths]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    idle: list[socket.socket] = []
    controller = subprocess.Popen(words, pass_fds=[port.fileno()], stdout=subprocess.PIPE, text=True)
    try:
        assert controller.stdout is not None
        for _ in range(1200):
            idle.append(socket.socket())
            idle[-1].setblocking(False)
            idle[-1].connect_ex(port.getsockname())
        dialer(loop, port)
        # the kernel's queue holds all of them, and those before the agent are handled one after the other
        loop.until(lambda: loop.met, "the agent is let in", 120)
        while not (line := controller.stdout.readline()).startswith("came"):
            assert line.startswith("note"), line
        _, node, turns, busy = line.split()
        assert "1" == node
        assert int(turns) < 20000 and float(busy) < 20, "it does not spin"
        assert controller.poll() is None
    finally:
        controller.kill()
        controller.communicate()
        for sock in idle:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


FLOOD = """
import resource, socket, sys, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
where, words, idle = ("n1", int(sys.argv[1])), [bytes.fromhex(word) for word in sys.argv[2:]], []
while True:
    while len(idle) < 1200:
        idle.append(socket.socket())
        idle[-1].setblocking(False)
        idle[-1].connect_ex(where)
    for data in words:
        with socket.create_connection(where) as link:
            link.sendall(data)
    print("flooded", flush=True)
    time.sleep(0.5)
    for link in idle[:]:
        try:
            if not link.recv(4096):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            link.close()
            idle.remove(link)
"""


SNIFF = """
import socket, struct, sys
port, of = int(sys.argv[1]), socket.inet_aton(socket.gethostbyname(sys.argv[2]))
sock, streams = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)), {}
print("ready", flush=True)
while True:
    packet = sock.recv(65535)
    length, start = struct.unpack("!H", packet[2:4])[0], (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_TCP or packet[12:16] != of:
        continue
    source, target, number = struct.unpack("!HHI", packet[start : start + 8])
    data = packet[start + (packet[start + 12] >> 4) * 4 : length]
    if target == port and data:
        stream = streams.setdefault(source, {})
        stream[number] = data
        whole = b"".join(stream[number] for number in sorted(stream))
        if b'"response"' in whole and len(whole) > 600:
            print(whole.hex(), flush=True)
            break
"""
"""PORT HOST: prints what the agent of that host says on its next connection: its proof, and frames."""

REPLAY = """
import socket, sys, time
for _ in range(5):
    with socket.create_connection(("n1", int(sys.argv[1])), 30) as link:
        try:
            link.sendall(bytes.fromhex(sys.argv[2]))
            link.shutdown(socket.SHUT_WR)
            answer = b""
            while data := link.recv(4096):
                answer += data
        except ConnectionError:  # it was closed before all of it was sent
            pass
        print(answer.count(b'"kind"'), answer.count(b'"challenge"'), flush=True)
"""


def test_an_attacker_on_the_network_neither_ends_a_run_nor_keeps_its_agents_from_a_new_controller(
    there: LabCluster,
) -> None:
    words = ("-H", "n1,n2", "-g", "1", "--lease", "60s")
    assert 0 == there.muster("run", "-d", *words, there.script(STEPS_UNTIL_GO)).returncode
    there.steps(2, 3)
    find = "ss -Hltnp | grep \"pid=$(pgrep -o -f '[m]uster.pyz serve'),\" | grep -o ':[0-9]* '"
    port = there.lab.run("n1", ["sh", "-c", find], cwd="/", check=True).stdout.strip(": \n")
    argv = ["/usr/bin/python3", "-c", FLOOD, port, *(data.hex() for data in HOSTILE.values())]
    ada = there.lab.start("head", argv, user=SECOND_USER, cwd="/", stdout=subprocess.PIPE)
    try:
        assert ada.stdout is not None
        assert [ada.stdout.readline() for _ in range(3)] == ["flooded\n"] * 3
        assert there.pids("n1", "muster.pyz serve"), "what she sent has ended nothing"
        supervisor = there.pids("n1", "muster.pyz serve")[0]
        sniffer = there.lab.start("n1", ["/usr/bin/python3", "-c", SNIFF, port, "n2"], cwd="/", stdout=subprocess.PIPE)
        assert sniffer.stdout is not None and sniffer.stdout.readline() == "ready\n"
        os.kill(supervisor, signal.SIGKILL)  # both agents have to reconnect among the attacker's connections
        said, _ = sniffer.communicate(timeout=120)
        replay = ["/usr/bin/python3", "-c", REPLAY, port, said.strip()]
        done = there.lab.run("head", replay, user=SECOND_USER, cwd="/", timeout=240)
        assert {"1 1"} >= set(done.stdout.splitlines()), "nothing but the challenge that everybody gets"
        assert 5 == len(done.stdout.splitlines()), done.stderr
        there.steps(2, len(there.log(0).splitlines()) + 20)
        (there.folder / "go").touch()
        assert 0 == there.muster("wait", "last").returncode
    finally:
        ada.kill()
        ada.communicate()
    events = [json.loads(line) for line in (there.run / "events.jsonl").read_text().splitlines()]
    refused = [event["text"] for event in events if event["event"] == "refused"]
    assert any("no handshake" in text or "secret" in text for text in refused)
    assert len(refused) <= 20, "ten of each supervisor"
    assert 1 == len([event for event in events if event["event"] == "supervisor began again"])
    steps = there.log(0).splitlines()
    assert steps == [f"step {number}" for number in range(len(steps))] == there.log(1).splitlines(), "no line is lost"
    there.nothing_left()
