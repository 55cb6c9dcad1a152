"""The catalogue of messages (`protocol/messages.py`) is complete: the source sends and handles exactly its kinds."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from muster.agent import rank_shim
from muster.agent.agent import Agent
from muster.agent.local_requests import LocalRequests
from muster.agent.ranks import RankProcesses
from muster.agent.survey import Survey
from muster.client import client, remote
from muster.client.attach import AttachedClient
from muster.client.compat import RENAMED_IN
from muster.controller.detached import DetachedController
from muster.controller.foreground import ForegroundController
from muster.controller.joining_agents import JoiningAgents
from muster.controller.sessions import Sessions
from muster.controller.started_agents import ANSWERS, StartedAgents
from muster.protocol import frames, handshake
from muster.protocol.frames import Dispatcher, Refused, named
from muster.protocol.message_types import Message
from muster.protocol.messages import (
    AGENT,
    CLIENT,
    CONTROLLER,
    FORK_SERVER,
    FORMER,
    FROM_CLIENT,
    HANDSHAKE_LEG,
    LEGS,
    MESSAGES,
    PROXY,
    SHIM,
    SINCE,
    TO_CLIENT,
)

SRC = Path(__file__).parents[2] / "src" / "muster"

Ends = tuple[str, str]


class Place(NamedTuple):
    """A module where a function sends messages."""

    module: str
    """A prefix of the function's name."""
    function: str
    at: int
    """Index of the argument with the kind."""
    ends: tuple[Ends, ...]
    """Sender and receiver."""


VISITORS = ((AGENT, CLIENT), (AGENT, SHIM))
PLACES = (
    Place("agent.", "emit", 0, ((AGENT, CONTROLLER),)),
    Place("agent.agent", "encode_frame", 0, ((AGENT, CONTROLLER),)),
    Place("agent.local_requests", "encode_frame", 0, VISITORS),
    Place("agent.external", "encode_frame", 0, ((AGENT, SHIM),)),
    Place("agent.detach", "encode_frame", 0, ((AGENT, CONTROLLER),)),
    Place("protocol.channel", "encode_frame", 0, ((AGENT, CONTROLLER), (CONTROLLER, AGENT))),
    Place("protocol.handshake", "encode_frame", 0, ((AGENT, CONTROLLER), (CONTROLLER, AGENT))),
    Place("agent.rank_shim", "encode_frame", 0, ((SHIM, AGENT),)),
    Place("agent.rank_shim", "_tell", 1, ((SHIM, AGENT),)),
    Place("agent.proxy", "send", 0, ((PROXY, CLIENT),)),
    Place("agent.orphans", "send", 0, ((PROXY, CLIENT),)),
    Place("controller.connections", "encode_frame", 0, ((CONTROLLER, AGENT), (CLIENT, PROXY))),
    Place("controller.", "send_message", 1, ((CONTROLLER, AGENT),)),
    Place("controller.", "broadcast", 0, ((CONTROLLER, AGENT),)),
    Place("controller.started_agents", "encode_frame", 0, ((CONTROLLER, AGENT),)),
    Place("controller.env_shipping", "encode_frame", 0, ((CONTROLLER, AGENT),)),
    Place("agent.env_transfer", "encode_frame", 0, ((CONTROLLER, AGENT),)),
    Place("controller.foreground", "encode_frame", 0, ((CONTROLLER, AGENT),)),
    Place("controller.sessions", "encode_frame", 0, ((CONTROLLER, CLIENT),)),
    Place("controller.sessions", "_ask", 1, ((CONTROLLER, AGENT),)),
    Place("client.", "_tell", 0, ((CLIENT, CONTROLLER), (CLIENT, PROXY))),
    Place("client.", "_exchange", 0, ((CLIENT, CONTROLLER),)),
    Place("client.connection", "tell", 0, ((CLIENT, CONTROLLER),)),
    Place("client.client", "_ask_agent", 2, ((CLIENT, AGENT),)),
    Place("", "ask", 1, ((CLIENT, CONTROLLER), (CLIENT, AGENT))),
)

STAMPED = {"emit": ("t",), "_ask": ("number",)}
"""Fields that such a function adds."""

PASS_ON = {
    "emit",
    "send_message",
    "broadcast",
    "tell",
    "tell_all",
    "_tell",
    "send",
    "ask",
    "_exchange",
    "_ask_agent",
    "_ask",
    "visit",
}
"""Functions that are called with a kind, and send it."""


class Sent(NamedTuple):
    """One call that sends a message."""

    where: str
    ends: tuple[Ends, ...]
    kind: str
    fields: frozenset[str]
    more: bool
    """True if it has fields that are not named there (`**fields`)."""


def calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Return the calls of a tree, each with its enclosing function."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        if isinstance(node, ast.Call):
            yield function, node
        yield from calls(node, inner)


def sent() -> list[Sent]:
    """Return all calls that send. Fails if a kind is sent from a place that is not in the table."""
    found = []
    for path in sorted(SRC.rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts)
        if module.startswith("lab") or module == "protocol.frames":
            continue
        for inside, call in calls(ast.parse(path.read_text())):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            places = [place for place in PLACES if module.startswith(place.module) and place.function == name]
            if not places:
                of_struct = isinstance(call.func, ast.Attribute) and name == "encode_frame"
                assert name != "encode_frame" or of_struct or inside in PASS_ON, (
                    f"{module}:{call.lineno} sends, and is not in the table"
                )
                continue
            (place,) = places
            kind = call.args[place.at] if len(call.args) > place.at else None
            if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                fields = frozenset(keyword.arg for keyword in call.keywords if keyword.arg)
                more = any(keyword.arg is None for keyword in call.keywords)
                stamped = frozenset(STAMPED.get(name, ()))
                found.append(Sent(f"{module}:{call.lineno}", place.ends, kind.value, fields | stamped, more))
            elif name == "encode_frame" and not isinstance(call.func, ast.Attribute):
                assert inside in PASS_ON, f"{module}:{call.lineno} sends nobody knows what"
    return found


SENT = sent()


def known(ends: Ends, kind: str) -> list[Message]:
    return [message for message in MESSAGES if (message.sender, message.receiver, message.kind) == (*ends, kind)]


def test_a_kind_is_one_message_between_two_ends() -> None:
    """On each leg and in each direction; between other ends a kind may have another meaning."""
    keys = [(message.leg, message.sender, message.kind) for message in MESSAGES]
    assert len(set(keys)) == len(keys)
    assert {message.leg for message in MESSAGES} == set(LEGS)
    assert all(message.says[-1] == "." and message.says.count(". ") == 0 for message in MESSAGES), "one sentence each"


SAME = {
    *("call", "clock", "ack", "resize", "stdin", "stdin_taken", "output", "credit", "forward_signal"),
    *(
        "relay",
        "relay_taken",
        "relay_end",
        "exec_request",
        "exec_result",
        "state",
        "kill",
        "stacks",
        "inspect",
        "collectives",
        "usage",
        "answer",
        "unknown",
    ),
}
"""Kinds with the same meaning wherever they are sent, for example if an agent forwards a client's message."""


def test_a_kind_means_one_thing() -> None:
    kinds = [message.kind for message in MESSAGES]
    assert SAME == {kind for kind in kinds if kinds.count(kind) > 1}


def test_each_kind_tells_the_first_version_that_has_it() -> None:
    kinds = {message.kind for message in MESSAGES}
    assert kinds >= SINCE.keys()
    assert all(frames.OLDEST < since <= frames.VERSION for since in SINCE.values())
    for kind, former in FORMER.items():
        assert SINCE[kind] == RENAMED_IN and former not in kinds
        assert kind in FROM_CLIENT or kind in TO_CLIENT
    for kind in ("state", "answer", "unknown"):
        assert kind not in FORMER, "by these, versions learn of each other"


def test_what_is_sent_stands_in_the_catalogue() -> None:
    unknown = [call for call in SENT if not any(known(ends, call.kind) for ends in call.ends)]
    assert not unknown
    assert len(SENT) > 100


def test_every_kind_in_the_catalogue_is_sent() -> None:
    """From sender to receiver; the site hook has its own format."""
    hook = [ast.parse(path.read_text()) for path in (SRC / "agent" / "hook").glob("*.py")]
    ops = {
        keyword.value.value
        for tree in hook
        for _, call in calls(tree)
        for keyword in call.keywords
        if keyword.arg == "op" and isinstance(keyword.value, ast.Constant)
    }
    ops |= {  # packed as a dict
        value.value
        for tree in hook
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values)
        if isinstance(key, ast.Constant) and key.value == "op" and isinstance(value, ast.Constant)
    }
    assert ops == {message.kind for message in MESSAGES if message.sender == FORK_SERVER}
    there = {(ends, call.kind) for call in SENT for ends in call.ends}
    missing = [
        message
        for message in MESSAGES
        if FORK_SERVER not in (message.sender, message.receiver)
        and ((message.sender, message.receiver), message.kind) not in there
    ]
    assert not missing


def test_fields_that_are_packed_are_those_of_the_catalogue() -> None:
    """All that are required, and no others."""
    wrong = []
    for call in SENT:
        candidates = [message for ends in call.ends for message in known(ends, call.kind)]
        if not any(_fits(call, message) for message in candidates):
            wrong.append((call.where, call.kind, sorted(call.fields)))
    assert not wrong


def _fits(call: Sent, message: Message) -> bool:
    needed = {name for name, type_ in message.fields.items() if type_.required}
    return call.fields <= set(message.fields) and (call.more or needed <= call.fields)


RECEIVERS: tuple[tuple[type, str, tuple[Ends, ...], tuple[str, ...]], ...] = (
    (Agent, "on_", ((CONTROLLER, AGENT),), ("payload",)),
    (Survey, "on_", ((CONTROLLER, AGENT),), ("payload",)),
    (LocalRequests, "visit_", ((CLIENT, AGENT), (SHIM, AGENT)), ("visitor", "payload")),
    (RankProcesses, "forker_", ((FORK_SERVER, AGENT),), ("payload",)),
    (ForegroundController, "_on_", ((AGENT, CONTROLLER),), ("link", "t", "payload")),
    (DetachedController, "_on_", ((AGENT, CONTROLLER),), ("link", "t", "payload")),
    (StartedAgents, "_on_", ((AGENT, CONTROLLER),), ("link", "payload")),
    (JoiningAgents, "_on_", ((AGENT, CONTROLLER),), ("link", "payload")),
    (Sessions, "_on_", ((CLIENT, CONTROLLER),), ("viewer", "payload")),
    (AttachedClient, "_on_", ((CONTROLLER, CLIENT), (PROXY, CLIENT)), ("payload",)),
)
"""The methods that handle messages, and their arguments before the fields."""


def handled(owner: type, prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: getattr(owner, name) for name in dir(owner) if name.startswith(prefix)}


@pytest.mark.parametrize("owner, prefix, ends, before", RECEIVERS, ids=lambda value: getattr(value, "__name__", None))
def test_handlers_take_the_fields_of_the_catalogue(
    owner: type, prefix: str, ends: tuple[Ends, ...], before: tuple[str, ...]
) -> None:
    """By name, and optional fields have a default."""
    for kind, method in handled(owner, prefix).items():
        (message,) = [message for one in ends for message in known(one, kind) if message.leg != HANDSHAKE_LEG]
        parameters = list(inspect.signature(method).parameters.values())[1:]
        assert tuple(item.name for item in parameters[: len(before)]) == before, kind
        given = parameters[len(before) :]
        more = any(item.kind == item.VAR_KEYWORD for item in given)
        names = {item.name: item.default is item.empty for item in given if item.kind != item.VAR_KEYWORD}
        fields = {name: type_.required for name, type_ in message.fields.items() if name not in before}
        assert names.keys() <= fields.keys(), (owner, kind)
        assert more or names.keys() == fields.keys(), (owner, kind)
        assert not [name for name, required in names.items() if required and not fields[name]], (owner, kind)


def awaited(module: Any) -> set[str]:
    """Return the kinds in comparisons of a module, or that its `_answer` waits for."""
    tree = ast.parse(Path(inspect.getsourcefile(module) or "").read_text())
    found = {
        str(node.comparators[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and ("['kind']" in ast.unparse(node.left) or "get('kind')" in ast.unparse(node.left))
        and isinstance(node.comparators[0], ast.Constant)
    }
    found |= {
        str(call.args[1].value)
        for _, call in calls(tree)
        if getattr(call.func, "id", "") in ("_answer", "_expect") and isinstance(call.args[1], ast.Constant)
    }
    return found


def test_every_kind_in_the_catalogue_is_handled() -> None:
    """By a method of one of the receivers, or where an answer is awaited."""
    there = {
        (ends, kind) for owner, prefix, several, _ in RECEIVERS for kind in handled(owner, prefix) for ends in several
    }
    there |= {((AGENT, CONTROLLER), kind) for kind in ANSWERS}
    there |= {((AGENT, SHIM), kind) for kind in awaited(rank_shim)}
    there |= {(ends, kind) for kind in awaited(frames) for ends in ((CONTROLLER, AGENT), (CLIENT, PROXY))}
    from muster.agent import proxy, ranks
    from muster.cli import clean
    from muster.protocol import channel

    asked = awaited(client) | awaited(remote) | awaited(clean)
    there |= {((sender, CLIENT), kind) for sender in (CONTROLLER, AGENT, PROXY) for kind in asked | {"answer"}}
    there |= {((CLIENT, PROXY), kind) for kind in awaited(proxy)}
    both = ((AGENT, CONTROLLER), (CONTROLLER, AGENT))
    there |= {(ends, kind) for ends in both for kind in awaited(handshake) | awaited(channel)}
    assert "proof" in inspect.getsource(ranks.RankProcesses.on_python_probed)
    there.add(((FORK_SERVER, AGENT), "python_probed"))
    there.add(((AGENT, FORK_SERVER), "fork"))  # of which there is one kind only
    missing = [message for message in MESSAGES if ((message.sender, message.receiver), message.kind) not in there]
    assert not missing


# ---- invalid messages ------------------------------------------------------------------------------------------------


class Listener:
    """A handler of `start`, which has an optional field."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.notes: list[str] = []
        known = {"start": self.on_start}
        self.dispatch = Dispatcher(known, named(known), self.notes.append)

    def on_start(self, payload: bytes, attempt: int, late: int = 0) -> None:
        self.heard.append((payload, attempt, late))


def test_an_unknown_kind_is_noted_once_and_skipped() -> None:
    there = Listener()
    for kind in ("nonsense", "start", "nonsense", "__init__", "\ud800" * 100):
        there.dispatch({"kind": kind, "attempt": 1} if kind == "start" else {"kind": kind}, b"x")
    assert [(b"x", 1, 0)] == there.heard
    assert 3 == len(there.notes) and "'nonsense'" in there.notes[0]
    for number in range(100):
        there.dispatch({"kind": f"kind {number}"}, b"")
    assert 10 == len(there.notes), "whoever sends them may make up any number"


@pytest.mark.parametrize("fields", [{}, {"attempt": 1, "more": 2}, {"late": 1}, {"attempt": 1, "payload": 2}])
def test_a_message_with_invalid_fields_is_rejected_without_effect(fields: dict[str, Any]) -> None:
    there = Listener()
    with pytest.raises(Refused, match="invalid fields of `start`"):
        there.dispatch({"kind": "start", **fields}, b"")
    assert not there.heard


def test_each_type_refuses_what_it_is_not() -> None:
    """Every field of every message: no other type is accepted, and only `Refused` is raised."""
    values: list[Any] = [None, True, -5, 1 << 70, 1.5, float("nan"), "x", "\0", "\ud800"]
    values += [[], [[]], ["x"], {}, {"": {}}, {"a": 1}]
    for message in MESSAGES:
        for name, type_ in message.fields.items():
            taken = [value for value in values if type_.right(value)]
            assert len(taken) < len(values) - 4, (message.kind, name)
            assert all(isinstance(type_.shown(value), str) for value in taken)


def test_fields_of_a_newer_muster_are_left_out() -> None:
    kill = FROM_CLIENT["kill"]
    assert {"by": "ada"} == kill.fitting({"kind": "kill", "by": "ada", "why": "she wants to"})
    with pytest.raises(Refused, match="`by` of `kill`"):
        kill.fitting({"by": 5})
    with pytest.raises(Refused, match="`resize` lacks `columns`"):
        FROM_CLIENT["resize"].fitting({"rows": 5})
