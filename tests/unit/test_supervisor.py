"""The supervisor by tables of histories: events in, actions out. Time is a number, so nothing waits."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple, Union

import pytest

from muster.core.events import (
    NOTICES,
    Action,
    AgentReady,
    CleanedUp,
    CleanUp,
    Configured,
    Event,
    Finish,
    JobEnding,
    NodeLost,
    OpenStore,
    PreemptionWarned,
    RankExited,
    RanksMissed,
    RanksStarted,
    Replace,
    SignalRanks,
    SpareLost,
    StartFailed,
    StartRanks,
    StopRequested,
    StoreDied,
    StoreOpened,
    Tick,
)
from muster.core.results import (
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGTERM,
    Failure,
    FailureKind,
    Leftover,
    Problem,
    ProblemKind,
    RankExit,
    Repeated,
    Replaced,
)
from muster.core.root_cause import status_of
from muster.core.supervisor import JOB_END_WAIT, OTHERS_WAIT, ROOT_CAUSE_WAIT, Supervisor, SupervisorConfig
from muster.ui.reason_text import notice_in_words, reason_in_words


class Say(NamedTuple):
    """A message to the user: a notice of the supervisor, in words."""

    text: str


Step = tuple[Event, Sequence[Union[Action, Say]]]
"""An event, and all resulting actions except for `Finish`: its result is beside the table."""


def in_words(action: Action) -> Action | Say:
    """Return notices as words; other actions unchanged."""
    return Say(notice_in_words(action)) if isinstance(action, NOTICES) else action


def dd(pid: int) -> Leftover:
    """A process that waits for a disk."""
    return Leftover("dd", pid, "D")


def sleep(pid: int) -> Leftover:
    return Leftover("sleep 99", pid, "S")


def no_torch(python: str) -> tuple[Problem, ...]:
    return (Problem(ProblemKind.NO_TORCH, ("a",), python=python),)


class History(NamedTuple):
    """One run, from its first event to its last."""

    truth: str
    settings: SupervisorConfig
    steps: Sequence[Step]
    outcome: dict[str, Any]


def ranks(count: int, **more: Any) -> SupervisorConfig:
    """Return so many ranks on one node."""
    return SupervisorConfig(ranks=tuple(range(count)), nodes=1, node_of=(0,) * count, grace=10.0, **more)


def two_nodes(**more: Any) -> SupervisorConfig:
    """Ranks 0 and 1 on node 0, rank 2 on node 1."""
    return SupervisorConfig(ranks=(0, 1, 2), nodes=2, node_of=(0, 0, 1), grace=10.0, **more)


def raised(when: float) -> Failure:
    """A Python exception of the script's own, whose first line was seen at this time."""
    return Failure(FailureKind.EXCEPTION, when, "ValueError: bad batch")


def handled(when: float) -> Failure:
    """An exception of which it is not known that it was uncaught."""
    return raised(when)._replace(proven=False)


def missed(when: float, *blames: int) -> Failure:
    """A wait for other ranks in vain."""
    return Failure(FailureKind.TIMED_OUT, when, "RuntimeError: timed out", blames=blames)


def absent(when: float) -> Failure:
    """What is reported about a rank that others waited for."""
    return Failure(FailureKind.ABSENT, when, "RuntimeError: timed out", proven=False)


def lost_peer(when: float) -> Failure:
    """An exception because another rank is gone."""
    return Failure(FailureKind.PEER_LOST, when, "RuntimeError: Connection closed by peer")


BEGUN: list[Step] = [
    (Configured(0.1), [OpenStore(0)]),
    (AgentReady(0.8, 0), []),
    (StoreOpened(0.9, 0, 29500), [StartRanks(0, 29500)]),
    (RanksStarted(1.0, 0, 0), []),
]
"""One node gets ready and starts its ranks."""

BEGUN_ON_TWO: list[Step] = [
    (Configured(0.1), [OpenStore(0)]),
    (AgentReady(0.8, 0), []),
    (StoreOpened(0.9, 0, 29500), []),
    (AgentReady(1.2, 1), [StartRanks(0, 29500)]),
]

FAILED_ONCE: list[Step] = [
    *BEGUN,
    (RankExited(2.0, 1, 0, signal=9), [SignalRanks(SIGTERM, (0,))]),
    (RankExited(2.1, 0, 0, signal=15), [CleanUp(0.0)]),
    (
        CleanedUp(2.2, 0),
        [Say("rank 1 failed: killed by SIGKILL; restarting all ranks (restart 1 of 1)"), OpenStore(1)],
    ),
]
"""Of two ranks, with one restart: up to the request to node 0 for a new port."""


def failed_once_of(restarts: int) -> list[Step]:
    """The same, with so many restarts."""
    words = f"rank 1 failed: killed by SIGKILL; restarting all ranks (restart 1 of {restarts})"
    return [*FAILED_ONCE[:-1], (CleanedUp(2.2, 0), [Say(words), OpenStore(1)])]


FAILED_ONCE_OF_2, FAILED_ONCE_OF_3 = failed_once_of(2), failed_once_of(3)


def again_at(t: float, rank: int, **how: Any) -> list[Step]:
    """The second attempt of two ranks: it starts at 2.4, one of them fails, and the other is terminated."""
    return [
        (StoreOpened(2.4, 1, 29501), [StartRanks(1, 29501)]),
        (RankExited(t, rank, 1, **how), [SignalRanks(SIGTERM, (1 - rank,))]),
        (RankExited(t + 0.1, 1 - rank, 1, signal=15), [CleanUp(0.0)]),
    ]


TERM_2 = SignalRanks(SIGTERM, (2,))
KILL_3 = "`muster kill`: sending SIGTERM to 3 ranks, grace period 10s"

B_IS_LOST: list[Step] = [
    (
        NodeLost(5.0, 1, "b was unreachable"),
        [Say("b was unreachable: sending SIGTERM to 2 ranks, grace period 10s"), SignalRanks(SIGTERM, (0, 1))],
    ),
    (RankExited(5.1, 0, 0, signal=15), []),
    (RankExited(5.1, 1, 0, signal=15), [CleanUp(0.0)]),
    (CleanedUp(5.2, 0), [Replace(1, 2, "b was unreachable"), OpenStore(1)]),
]
"""Node 1 of two is lost, and there is a spare."""

C_HAS_ITS_PLACE: list[Step] = [
    (StoreOpened(5.3, 1, 29501), []),
    (AgentReady(6.9, 1), [StartRanks(1, 29501)]),
    (RankExited(9.0, 0, 1, 0), []),
    (RankExited(9.0, 1, 1, 0), []),
    (RankExited(9.0, 2, 1, 0), [CleanUp(10.0)]),
    (CleanedUp(9.1, 0), []),
    (CleanedUp(9.1, 1), []),
]

STORE = "the rendezvous store exited: killed by signal 9"
INTERRUPT = "interrupted (Ctrl-C): sending SIGINT to 2 ranks, grace period 10s; press Ctrl-C again to kill them now"

ENDS = [
    History(
        "When all ranks end well, the run has succeeded.",
        ranks(2),
        [*BEGUN, (RankExited(3.0, 0, 0, 0), []), (RankExited(3.5, 1, 0, 0), [CleanUp(10.0)]), (CleanedUp(3.6, 0), [])],
        {
            "state": "succeeded",
            "code": 0,
            "duration": 3.6,
            "attempt": 0,
            "reason": "",
            "root_cause": None,
            "exits": (RankExit(0, 0, 3.0, 0), RankExit(1, 0, 3.5, 0)),
            "leftovers": (),
        },
    ),
    History(
        "After success, what ranks left behind has the grace to end by itself, and what had to be ended is told.",
        ranks(1),
        [*BEGUN, (RankExited(3.0, 0, 0, 0), [CleanUp(10.0)]), (CleanedUp(13.1, 0, (sleep(7),)), [])],
        {"state": "succeeded", "code": 0, "duration": 13.1, "leftovers": (sleep(7)._replace(killed=True),)},
    ),
    History(
        "What outlives even the sweep is told, after a failure too; what the sweep ended then is not.",
        ranks(1),
        [*BEGUN, (RankExited(3.0, 0, 0, 2), [CleanUp(0.0)]), (CleanedUp(8.0, 0, (sleep(7),), (dd(8),)), [])],
        {"state": "failed", "code": 2, "leftovers": (dd(8),)},
    ),
    History(
        "A rank exits with 7: the others are asked to end at once, and killed after the grace. 7 is the exit status.",
        ranks(4),
        [
            *BEGUN,
            (RankExited(5.0, 2, 0, 7), [SignalRanks(SIGTERM, (0, 1, 3))]),
            (RankExited(5.1, 0, 0, signal=15), []),
            (Tick(14.9), []),
            (Tick(15.0), [Say("killing 2 ranks, still running (SIGKILL)"), SignalRanks(SIGKILL, (1, 3))]),
            (RankExited(15.1, 1, 0, signal=9), []),
            (RankExited(15.2, 3, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(15.3, 0), []),
        ],
        {
            "state": "failed",
            "code": 7,
            "root_cause": RankExit(2, 0, 5.0, 7),
            "exits": (
                RankExit(0, 0, 5.1, signal=15, by_muster=True),
                RankExit(1, 0, 15.1, signal=9, by_muster=True),
                RankExit(2, 0, 5.0, 7),
                RankExit(3, 0, 15.2, signal=9, by_muster=True),
            ),
        },
    ),
    History(
        "Of ranks that were asked to end, only those are ended by muster that its signals explain.",
        ranks(4),
        [
            *BEGUN,
            (RankExited(5.0, 2, 0, signal=11), [SignalRanks(SIGTERM, (0, 1, 3))]),
            (RankExited(5.1, 0, 0, signal=6), []),
            (RankExited(5.2, 1, 0, signal=9), []),
            (RankExited(5.3, 3, 0, 143), [CleanUp(0.0)]),
            (CleanedUp(5.4, 0), []),
        ],
        {
            "state": "failed",
            "code": 139,
            "root_cause": RankExit(2, 0, 5.0, signal=11),
            "exits": (
                RankExit(0, 0, 5.1, signal=6, late=True),
                RankExit(1, 0, 5.2, signal=9, late=True),
                RankExit(2, 0, 5.0, signal=11),
                RankExit(3, 0, 5.3, 143, by_muster=True),
            ),
        },
    ),
    History(
        "A crash on the way out is not the cause: not of an end that a person wanted, and not before a lost peer.",
        ranks(2),
        [
            *BEGUN,
            (
                StopRequested(4.0, SIGTERM),
                [Say("received SIGTERM: sending SIGTERM to 2 ranks, grace period 10s"), SignalRanks(15, (0, 1))],
            ),
            (RankExited(4.1, 0, 0, signal=6), []),
            (RankExited(4.2, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(4.3, 0), []),
        ],
        {"state": "interrupted", "code": 143, "root_cause": None},
    ),
    History(
        "A launcher ends the others as soon as one rank has failed, of whatever: that one failed first.",
        ranks(3, foreign=frozenset(range(3))),
        [
            *BEGUN,
            (RankExited(5.0, 1, 0, 1, failure=lost_peer(4.9)), []),
            (RankExited(5.1, 0, 0, signal=15, asked_by_launcher=5.05), []),
            (RankExited(5.2, 2, 0, 5, asked_by_launcher=5.05), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {
            "state": "failed",
            "code": 1,
            "root_cause": RankExit(1, 0, 5.0, 1, failure=lost_peer(4.9)),
            "exits": (
                RankExit(0, 0, 5.1, signal=15, by_launcher=True),
                RankExit(1, 0, 5.0, 1, failure=lost_peer(4.9)),
                RankExit(2, 0, 5.2, 5, by_launcher=True),
            ),
        },
    ),
    History(
        "Where a launcher ends a rank though no other has failed, that is the cause.",
        ranks(2, foreign=frozenset(range(2))),
        [
            *BEGUN,
            (RankExited(5.1, 0, 0, signal=9, asked_by_launcher=5.1), []),
            (Tick(6.1), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(6.2, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.3, 0), []),
        ],
        {"state": "failed", "code": 137, "root_cause": RankExit(0, 0, 5.1, signal=9, by_launcher=True)},
    ),
    History(
        "A signal becomes 128 + n.",
        ranks(1),
        [*BEGUN, (RankExited(5.0, 0, 0, signal=11), [CleanUp(0.0)]), (CleanedUp(5.1, 0), [])],
        {"state": "failed", "code": 139, "root_cause": RankExit(0, 0, 5.0, signal=11)},
    ),
    History(
        "A rank that ends well although it was asked to end has ended well.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 3), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.2, 1, 0, 0), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {"state": "failed", "code": 3, "exits": (RankExit(0, 0, 5.0, 3), RankExit(1, 0, 5.2, 0))},
    ),
    History(
        "Ranks that end because they were asked are no first cause, whatever their status.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 2, 0, 3), [SignalRanks(SIGTERM, (0, 1))]),
            (RankExited(5.1, 0, 0, 1, failure=raised(5.05)), []),
            (RankExited(5.2, 1, 0, 143), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {
            "code": 3,
            "root_cause": RankExit(2, 0, 5.0, 3),
            "exits": (
                RankExit(0, 0, 5.1, 1, by_muster=True, failure=raised(5.05)),
                RankExit(1, 0, 5.2, 143, by_muster=True),
                RankExit(2, 0, 5.0, 3),
            ),
        },
    ),
]

CAUSES = [
    History(
        "A rank that lost a peer is not believed at once: within SETTLE seconds the true cause may come.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=lost_peer(5.0)), []),
            (RankExited(5.0 + ROOT_CAUSE_WAIT - 0.1, 2, 0, 9), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(16.0, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(16.1, 0), []),
        ],
        {"state": "failed", "code": 9, "root_cause": RankExit(2, 0, 5.0 + ROOT_CAUSE_WAIT - 0.1, 9)},
    ),
    History(
        "A lost peer alone ends the run after SETTLE seconds, and its exit status is the run's.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 4, failure=lost_peer(4.9)), []),
            (Tick(5.0 + ROOT_CAUSE_WAIT - 0.1), []),
            (Tick(5.0 + ROOT_CAUSE_WAIT), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(16.5, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(16.6, 0), []),
        ],
        {"state": "failed", "code": 4, "root_cause": RankExit(0, 0, 5.0, 4, failure=lost_peer(4.9))},
    ),
    History(
        "When all ranks have fallen, there is nobody left to wait for.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=lost_peer(4.9)), []),
            (RankExited(5.1, 1, 0, 5, failure=lost_peer(4.8)), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "failed", "code": 5, "root_cause": RankExit(1, 0, 5.1, 5, failure=lost_peer(4.8))},
    ),
    History(
        "An exception of the script outranks ranks that fell for want of it before it was seen; its status counts.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 6, failure=lost_peer(4.0)), []),
            (RankExited(5.1, 1, 0, 6, failure=lost_peer(4.1)), []),
            (RankExited(5.5, 2, 0, 1, failure=raised(5.4)), [CleanUp(0.0)]),
            (CleanedUp(5.6, 0), []),
        ],
        {"code": 1, "root_cause": RankExit(2, 0, 5.5, 1, failure=raised(5.4))},
    ),
    History(
        "Of two exceptions the first to be seen counts, not the first rank to be gone.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=raised(4.9)), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.1, 1, 0, 5, failure=raised(4.7)), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"code": 5, "root_cause": RankExit(1, 0, 5.1, 5, failure=raised(4.7))},
    ),
    History(
        "A rank that had raised before it was asked, and whose exit our SIGTERM cut short, failed by itself with 1.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 3), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.1, 1, 0, signal=15, failure=raised(4.9)), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"code": 1, "root_cause": RankExit(1, 0, 5.1, 1, failure=raised(4.9))},
    ),
    History(
        "So had one that had lost its peer: it is reported with what it raised.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 3), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.1, 1, 0, signal=15, failure=lost_peer(4.99)), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {
            "code": 3,
            "root_cause": RankExit(0, 0, 5.0, 3),
            "exits": (RankExit(0, 0, 5.0, 3), RankExit(1, 0, 5.1, 1, failure=lost_peer(4.99))),
        },
    ),
    History(
        "A signal from outside is a cause of its own, whatever words about peers stand in the log.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, signal=9, failure=lost_peer(4.9)), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"code": 137, "root_cause": RankExit(0, 0, 5.0, signal=9, failure=lost_peer(4.9))},
    ),
    History(
        "SIGABRT with such words is torch's watchdog, which aborts the process: another rank is awaited as the cause.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, signal=6, failure=lost_peer(4.9)), []),
            (RankExited(7.0, 1, 0, 1, failure=raised(6.9)), [CleanUp(0.0)]),
            (CleanedUp(7.2, 0), []),
        ],
        {"code": 1, "root_cause": RankExit(1, 0, 7.0, 1, failure=raised(6.9))},
    ),
    History(
        "An exception that may have been handled is no failure of a rank that was asked to end.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 1, 0, signal=11), [SignalRanks(SIGTERM, (0, 2))]),
            (RankExited(5.1, 2, 0, signal=15, failure=handled(1.2)), []),
            (RankExited(5.2, 0, 0, 1, failure=handled(1.1)), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {
            "code": 139,
            "root_cause": RankExit(1, 0, 5.0, signal=11),
            "exits": (
                RankExit(0, 0, 5.2, 1, failure=handled(1.1), by_muster=True),
                RankExit(1, 0, 5.0, signal=11),
                RankExit(2, 0, 5.1, signal=15, failure=handled(1.2), by_muster=True),
            ),
        },
    ),
    History(
        "Nor is it one after `muster kill`.",
        ranks(1),
        [
            *BEGUN,
            (
                StopRequested(5.0, 0, "ann"),
                [Say("`muster kill` by ann: sending SIGTERM to rank 0, grace period 10s"), SignalRanks(SIGTERM, (0,))],
            ),
            (RankExited(5.1, 0, 0, signal=15, failure=handled(1.2)), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {"state": "killed", "code": 137, "root_cause": None},
    ),
    History(
        "A rank that left with status 0 while others worked is the cause when they then fail; their status counts.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 2, 0, 0), []),
            (RankExited(5.5, 0, 0, 4, failure=lost_peer(4.9)), []),
            (Tick(5.5 + OTHERS_WAIT), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(6.6, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.7, 0), []),
        ],
        {"state": "failed", "code": 4, "root_cause": RankExit(2, 0, 5.0, 0)},
    ),
    History(
        "A message that names the missing rank is believed, whoever complains.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9, 2)), []),
            (RankExited(5.2, 1, 0, 1, failure=lost_peer(5.1)), []),
            (Tick(5.2 + OTHERS_WAIT), [SignalRanks(SIGTERM, (2,))]),
            (RankExited(6.3, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {
            "state": "failed",
            "code": 1,
            "root_cause": RankExit(2, 0, 6.3, signal=15, by_muster=True, failure=absent(4.9)),
        },
    ),
    History(
        "Of ranks that waited in vain the cause is the one that was still alive.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9)), []),
            (RankExited(5.2, 1, 0, 1, failure=missed(5.1)), []),
            (Tick(5.2 + OTHERS_WAIT), [SignalRanks(SIGTERM, (2,))]),
            (RankExited(6.3, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {
            "state": "failed",
            "code": 1,
            "root_cause": RankExit(2, 0, 6.3, signal=15, by_muster=True, failure=absent(4.9)),
        },
    ),
    History(
        "An inspection at the first failure shows for which rank the others waited.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9)), []),
            (RanksMissed(5.1, 0, (1,), "rank 1 has not entered barrier #3", "train.py:9 in read"), []),
            (Tick(5.0 + OTHERS_WAIT), [SignalRanks(SIGTERM, (1, 2))]),
            (RankExited(6.2, 1, 0, signal=15), []),
            (RankExited(6.3, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {
            "state": "failed",
            "code": 1,
            "root_cause": RankExit(
                *(1, 0, 6.2),
                signal=15,
                by_muster=True,
                failure=Failure(
                    *(FailureKind.ABSENT, 4.9, "rank 1 has not entered barrier #3", ("RuntimeError: timed out",)),
                    place="train.py:9 in read",
                ),
            ),
        },
    ),
    History(
        "The exit code is that of a rank that complained, also if a launcher has terminated the one that was missed.",
        ranks(2, foreign=frozenset(range(2))),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9)), []),
            (RanksMissed(5.1, 0, (1,), "rank 1 did not come"), []),
            (RankExited(5.2, 1, 0, signal=15, asked_by_launcher=5.1), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {"code": 1},
    ),
    History(
        "Of several complaints the one that names a rank is shown.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9)), []),
            (RankExited(5.1, 1, 0, 1, failure=missed(5.0)._replace(summary="Rank 2 failed", blames=(2,))), []),
            (RanksMissed(5.1, 0, (2,), "rank 2 did not come"), []),
            (Tick(5.1 + OTHERS_WAIT), [SignalRanks(SIGTERM, (2,))]),
            (RankExited(6.3, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {
            "root_cause": RankExit(
                *(2, 0, 6.3),
                signal=15,
                by_muster=True,
                failure=Failure(FailureKind.ABSENT, 4.9, "rank 2 did not come", ("Rank 2 failed",)),
            ),
        },
    ),
    History(
        "Of the ranks that an inspection shows, those that then complain themselves are not the cause.",
        ranks(3),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=missed(4.9)), []),
            (RanksMissed(5.1, 0, (1, 2), "ranks 1-2 did not come", "train.py:9 in read"), []),
            (RankExited(5.2, 1, 0, 1, failure=missed(5.0)), []),
            (Tick(5.2 + OTHERS_WAIT), [SignalRanks(SIGTERM, (2,))]),
            (RankExited(6.3, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {
            "code": 1,
            "root_cause": RankExit(
                *(2, 0, 6.3),
                signal=15,
                by_muster=True,
                failure=Failure(
                    *(FailureKind.ABSENT, 4.9, "RuntimeError: timed out", ("RuntimeError: timed out",)),
                    place="train.py:9 in read",
                    proven=False,
                ),
            ),
        },
    ),
    History(
        "An exception of its own that was replaced in the clean-up makes a rank the cause, before plain lost peers.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 1, failure=lost_peer(4.9)), []),
            (RankExited(6.0, 1, 0, 1, failure=lost_peer(5.9)._replace(own_before="KeyError: 3")), [CleanUp(0.0)]),
            (CleanedUp(6.4, 0), []),
        ],
        {"root_cause": RankExit(1, 0, 6.0, 1, failure=lost_peer(5.9)._replace(own_before="KeyError: 3"))},
    ),
]

ASKED = [
    History(
        "Ctrl-C once: SIGINT, the grace, SIGTERM, at most 5 s, SIGKILL, with words at each step. Exit status 130.",
        ranks(2),
        [
            *BEGUN,
            (StopRequested(5.0, SIGINT), [Say(INTERRUPT), SignalRanks(SIGINT, (0, 1))]),
            (Tick(14.9), []),
            (
                Tick(15.0),
                [
                    Say("interrupted (Ctrl-C): sending SIGTERM to 2 ranks, grace period 5s"),
                    SignalRanks(SIGTERM, (0, 1)),
                ],
            ),
            (RankExited(16.0, 1, 0, signal=15), []),
            (Tick(20.0), [Say("interrupted (Ctrl-C): killing rank 0 (SIGKILL)"), SignalRanks(SIGKILL, (0,))]),
            (RankExited(20.1, 0, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(20.2, 0), []),
        ],
        {"state": "interrupted", "code": 130, "reason": "interrupted (Ctrl-C)", "root_cause": None},
    ),
    History(
        "Ranks that end in time after Ctrl-C are not asked again.",
        ranks(2),
        [
            *BEGUN,
            (StopRequested(5.0, SIGINT), [Say(INTERRUPT), SignalRanks(SIGINT, (0, 1))]),
            (RankExited(5.1, 0, 0, signal=2), []),
            (RankExited(5.2, 1, 0, 0), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {
            "state": "interrupted",
            "code": 130,
            "exits": (RankExit(0, 0, 5.1, signal=2, by_muster=True), RankExit(1, 0, 5.2, 0)),
        },
    ),
    History(
        "Ctrl-C twice: SIGKILL at once.",
        ranks(2),
        [
            *BEGUN,
            (StopRequested(5.0, SIGINT), [Say(INTERRUPT), SignalRanks(SIGINT, (0, 1))]),
            (
                StopRequested(5.5, SIGINT),
                [
                    Say("interrupted (Ctrl-C, twice): killing 2 ranks (SIGKILL)"),
                    SignalRanks(SIGKILL, (0, 1)),
                ],
            ),
            (RankExited(5.6, 0, 0, signal=9), []),
            (RankExited(5.7, 1, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(5.8, 0), []),
        ],
        {"state": "interrupted", "code": 130, "reason": "interrupted (Ctrl-C, twice)"},
    ),
    History(
        "What is being done is not begun again by a second SIGTERM or `muster kill`; Ctrl-C then kills at once.",
        ranks(1),
        [
            *BEGUN,
            (
                StopRequested(5.0, SIGTERM),
                [
                    Say("received SIGTERM: sending SIGTERM to rank 0, grace period 10s"),
                    SignalRanks(SIGTERM, (0,)),
                ],
            ),
            (StopRequested(6.0, SIGTERM), []),
            (StopRequested(7.0, 0, "ann"), []),
            (
                StopRequested(8.0, SIGINT),
                [Say("received SIGTERM, then Ctrl-C: killing rank 0 (SIGKILL)"), SignalRanks(SIGKILL, (0,))],
            ),
            (RankExited(8.1, 0, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(8.2, 0), []),
        ],
        {"state": "interrupted", "code": 130, "reason": "received SIGTERM, then Ctrl-C"},
    ),
    History(
        "SIGTERM to muster is passed on, then SIGKILL after the grace. Exit status 143.",
        ranks(1),
        [
            *BEGUN,
            (
                StopRequested(5.0, SIGTERM),
                [
                    Say("received SIGTERM: sending SIGTERM to rank 0, grace period 10s"),
                    SignalRanks(SIGTERM, (0,)),
                ],
            ),
            (Tick(15.0), [Say("received SIGTERM: killing rank 0 (SIGKILL)"), SignalRanks(SIGKILL, (0,))]),
            (RankExited(15.1, 0, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(15.2, 0), []),
        ],
        {"state": "interrupted", "code": 143, "reason": "received SIGTERM", "root_cause": None},
    ),
    History(
        "A closed terminal is told apart: exit status 129.",
        ranks(1),
        [
            *BEGUN,
            (
                StopRequested(5.0, SIGHUP),
                [
                    Say("the terminal was closed (SIGHUP): sending SIGTERM to rank 0, grace period 10s"),
                    SignalRanks(SIGTERM, (0,)),
                ],
            ),
            (RankExited(5.1, 0, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "interrupted", "code": 129, "reason": "the terminal was closed (SIGHUP)"},
    ),
    History(
        "`muster kill` says who asked. Exit status 137.",
        ranks(1),
        [
            *BEGUN,
            (
                StopRequested(5.0, 0, by="ann (pid 12)"),
                [
                    Say("`muster kill` by ann (pid 12): sending SIGTERM to rank 0, grace period 10s"),
                    SignalRanks(SIGTERM, (0,)),
                ],
            ),
            (RankExited(5.1, 0, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "killed", "code": 137, "reason": "`muster kill` by ann (pid 12)"},
    ),
    History(
        "Who asks while others are being ended for a failure is obeyed: it is an interrupt, and the failure is kept.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 7), [SignalRanks(SIGTERM, (1,))]),
            (
                StopRequested(5.5, SIGINT),
                [
                    Say(
                        "interrupted (Ctrl-C): sending SIGINT to rank 1, grace period 10s; "
                        "press Ctrl-C again to kill them now"
                    ),
                    SignalRanks(SIGINT, (1,)),
                ],
            ),
            (RankExited(5.6, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.7, 0), []),
        ],
        {"state": "interrupted", "code": 130, "root_cause": RankExit(0, 0, 5.0, 7)},
    ),
    History(
        "Ctrl-C before any rank was started ends the agents at once; ranks that could start now do not.",
        ranks(2),
        [
            (StopRequested(0.5, SIGINT), [CleanUp(0.0)]),
            (AgentReady(0.8, 0), []),
            (StoreOpened(0.9, 0, 29500), []),
            (CleanedUp(1.0, 0), []),
        ],
        {"state": "interrupted", "code": 130, "exits": ()},
    ),
    History(
        "Ctrl-C after success, while muster waits for what a rank left behind, ends the wait at once.",
        ranks(1),
        [
            *BEGUN,
            (RankExited(3.0, 0, 0, 0), [CleanUp(10.0)]),
            (StopRequested(4.0, SIGINT), [Say("not waiting for orphaned processes"), CleanUp(0.0)]),
            (CleanedUp(4.1, 0), []),
        ],
        {"state": "succeeded", "code": 0, "duration": 4.1},
    ),
]

TIMEOUTS = [
    History(
        "After --timeout running ranks are asked to end and then killed. Exit status 124.",
        ranks(2, timeout=60.0),
        [
            *BEGUN,
            (Tick(59.9), []),
            (
                Tick(60.0),
                [
                    Say("reached --timeout of 60s: sending SIGTERM to 2 ranks, grace period 10s"),
                    SignalRanks(SIGTERM, (0, 1)),
                ],
            ),
            (RankExited(60.5, 0, 0, 0), []),
            (Tick(70.0), [Say("reached --timeout of 60s: killing rank 1 (SIGKILL)"), SignalRanks(SIGKILL, (1,))]),
            (RankExited(70.1, 1, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(70.2, 0), []),
        ],
        {"state": "timed out", "code": 124, "reason": "reached --timeout of 60s", "root_cause": None},
    ),
    History(
        "--timeout holds while the interpreter warms up, too.",
        ranks(2, timeout=2.0),
        [
            (AgentReady(1.0, 0), []),
            (Tick(2.0), [CleanUp(0.0)]),
            (StoreOpened(2.1, 0, 29500), []),
            (CleanedUp(2.2, 0), []),
        ],
        {"state": "timed out", "code": 124, "exits": ()},
    ),
    History(
        "A run that is already ending is not timed out.",
        ranks(2, timeout=8.0),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 7), [SignalRanks(SIGTERM, (1,))]),
            (Tick(9.0), []),
            (RankExited(9.5, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(9.6, 0), []),
        ],
        {"state": "failed", "code": 7},
    ),
]

BROKEN = [
    History(
        "An agent that cannot get ready ends the run with 125 and its words.",
        ranks(2),
        [(StartFailed(0.7, 0, no_torch("/usr/bin/python3")), [CleanUp(0.0)]), (CleanedUp(0.8, 0), [])],
        {"state": "error", "code": 125, "reason": "torch is not installed in /usr/bin/python3 (Python ?)", "exits": ()},
    ),
    History(
        "An agent that is lost takes its ranks with it: 125, and nothing is asked of ranks that nobody can reach.",
        ranks(2),
        [*BEGUN, (NodeLost(5.0, 0, "the agent on a ended"), [CleanUp(0.0)])],
        {"state": "error", "code": 125, "reason": "the agent on a ended", "duration": 5.0, "exits": ()},
    ),
    History(
        "An agent that is lost while it gets ready ends the run.",
        ranks(2),
        [(NodeLost(0.5, 0, "the agent on a could not be started"), [CleanUp(0.0)])],
        {"state": "error", "code": 125, "reason": "the agent on a could not be started"},
    ),
    History(
        "When the store of the ranks ends by itself, that is the cause, and not the ranks that fall for want of it.",
        ranks(2),
        [
            *BEGUN,
            (StoreDied(5.0, signal=9), [SignalRanks(SIGTERM, (0, 1))]),
            (RankExited(5.1, 0, 0, 1, failure=lost_peer(5.05)), []),
            (RankExited(5.2, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.3, 0), []),
        ],
        {"state": "failed", "code": 125, "reason": STORE, "root_cause": None},
    ),
    History(
        "The same when a rank had fallen before the end of the store was seen.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(4.9, 0, 0, 1, failure=lost_peer(4.9)), []),
            (StoreDied(5.0, signal=9), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(5.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "failed", "code": 125, "reason": STORE},
    ),
    History(
        "A store that ends when the ranks are ending anyway changes nothing.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 7), [SignalRanks(SIGTERM, (1,))]),
            (StoreDied(5.05, signal=9), []),
            (RankExited(5.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (StoreDied(5.15, signal=9), []),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "failed", "code": 7, "reason": ""},
    ),
]

RESTARTS = [
    History(
        "A failure that may be retried starts all ranks again with a new port, and the second attempt may succeed.",
        ranks(2, max_restarts=1),
        [
            *FAILED_ONCE,
            (StoreOpened(2.3, 1, 29501), [StartRanks(1, 29501)]),
            (RankExited(4.0, 0, 1, 0), []),
            (RankExited(4.1, 1, 1, 0), [CleanUp(10.0)]),
            (CleanedUp(4.2, 0), []),
        ],
        {
            "state": "succeeded",
            "code": 0,
            "attempt": 1,
            "root_cause": None,
            "exits": (RankExit(0, 0, 4.0, 0), RankExit(1, 0, 4.1, 0)),
        },
    ),
    History(
        "News of an attempt that is over are no news.",
        ranks(2, max_restarts=1),
        [
            *FAILED_ONCE,
            (StoreOpened(2.25, 0, 29499), []),
            (RankExited(2.28, 0, 0, 77), []),
            (StoreOpened(2.3, 1, 29501), [StartRanks(1, 29501)]),
            (RankExited(2.4, 0, 0, 77), []),
            (RankExited(4.0, 0, 1, 0), []),
            (RankExited(4.1, 1, 1, 0), [CleanUp(10.0)]),
            (CleanedUp(4.2, 0), []),
        ],
        {"state": "succeeded", "code": 0},
    ),
    History(
        "When the restarts are used up, the last attempt gives the exit status.",
        ranks(2, max_restarts=1),
        [
            *FAILED_ONCE,
            (StoreOpened(2.3, 1, 29501), [StartRanks(1, 29501)]),
            (RankExited(4.0, 0, 1, 5), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(4.1, 1, 1, signal=15), [CleanUp(0.0)]),
            (CleanedUp(4.2, 0), []),
        ],
        {"state": "failed", "code": 5, "attempt": 1, "root_cause": RankExit(0, 0, 4.0, 5)},
    ),
    History(
        "A rank that fails twice in the same way in the first minute is not started a third time.",
        ranks(2, max_restarts=3),
        [*FAILED_ONCE_OF_3, *again_at(3.0, 1, signal=9), (CleanedUp(3.2, 0), [])],
        {"state": "failed", "code": 137, "attempt": 1, "repeated": Repeated(1, 1)},
    ),
    History(
        "With --always-restart it is, after a delay; the exit code of the last attempt counts.",
        ranks(2, max_restarts=2, always_restart=True),
        [
            *FAILED_ONCE_OF_2,
            *again_at(3.0, 1, signal=9),
            (
                CleanedUp(3.2, 0),
                [Say("rank 1 failed: killed by SIGKILL; restarting all ranks in 4s (restart 2 of 2)")],
            ),
            (Tick(7.1), []),
            (Tick(7.2), [OpenStore(2)]),
            (StoreOpened(7.3, 2, 29502), [StartRanks(2, 29502)]),
            (RankExited(8.0, 0, 2, 0), []),
            (RankExited(8.1, 1, 2, 0), [CleanUp(10.0)]),
            (CleanedUp(8.2, 0), []),
        ],
        {"state": "succeeded", "code": 0, "attempt": 2, "repeated": None},
    ),
    History(
        "Ctrl-C during the delay: there is no further attempt.",
        ranks(2, max_restarts=3),
        [
            *FAILED_ONCE_OF_3,
            *again_at(3.0, 1, code=7),
            (
                CleanedUp(3.2, 0),
                [Say("rank 1 failed: exit status 7; restarting all ranks in 4s (restart 2 of 3)")],
            ),
            (StopRequested(5.0, SIGINT), [CleanUp(0.0)]),
            (Tick(7.2), []),
            (CleanedUp(7.3, 0), []),
        ],
        {"state": "interrupted", "code": 130},
    ),
    History(
        "An attempt that lasts longer than a minute is restarted at once, whatever was before it.",
        ranks(2, max_restarts=3),
        [
            *FAILED_ONCE_OF_3,
            *again_at(100.0, 1, signal=9),
            (
                CleanedUp(100.2, 0),
                [Say("rank 1 failed: killed by SIGKILL; restarting all ranks (restart 2 of 3)"), OpenStore(2)],
            ),
            (StopRequested(101.0, SIGINT), [CleanUp(0.0)]),
            (CleanedUp(101.1, 0), []),
        ],
        {"state": "interrupted", "code": 130},
    ),
    History(
        "Ctrl-C between two attempts: there is no second one.",
        ranks(2, max_restarts=1),
        [
            *FAILED_ONCE,
            (StopRequested(2.25, SIGINT), [CleanUp(0.0)]),
            (StoreOpened(2.3, 1, 29501), []),
            (CleanedUp(2.4, 0), []),
        ],
        {"state": "interrupted", "code": 130},
    ),
    History(
        "Ctrl-C while the failed attempt is swept away: there is no second one.",
        ranks(1, max_restarts=3),
        [
            *BEGUN,
            (RankExited(2.0, 0, 0, 1, failure=lost_peer(2.0)), [CleanUp(0.0)]),
            (StopRequested(2.1, SIGINT), [CleanUp(0.0)]),
            (CleanedUp(2.2, 0), []),
        ],
        {"state": "interrupted", "code": 130},
    ),
    History(
        "SIGTERM after the ranks of a failed attempt were killed: there is no second one.",
        ranks(2, max_restarts=3),
        [
            *BEGUN,
            (RankExited(2.0, 0, 0, 7), [SignalRanks(SIGTERM, (1,))]),
            (Tick(12.0), [Say("killing rank 1, still running (SIGKILL)"), SignalRanks(SIGKILL, (1,))]),
            (
                StopRequested(12.1, SIGTERM),
                [
                    Say("received SIGTERM: sending SIGTERM to rank 1, grace period 10s"),
                    SignalRanks(SIGTERM, (1,)),
                ],
            ),
            (RankExited(12.2, 1, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(12.3, 0), []),
        ],
        {"state": "interrupted", "code": 143},
    ),
    History(
        "A time that runs out between two attempts ends the run.",
        ranks(2, max_restarts=1, timeout=2.25),
        [*FAILED_ONCE, (Tick(2.25), [CleanUp(0.0)]), (StoreOpened(2.3, 1, 29501), []), (CleanedUp(2.4, 0), [])],
        {"state": "timed out", "code": 124},
    ),
    History(
        "The end of a store may be retried like the end of a rank.",
        ranks(1, max_restarts=1),
        [
            *BEGUN,
            (StoreDied(5.0, signal=9), [SignalRanks(SIGTERM, (0,))]),
            (RankExited(5.1, 0, 0, signal=15), [CleanUp(0.0)]),
            (
                CleanedUp(5.2, 0),
                [
                    Say("the rendezvous store exited: killed by signal 9; restarting all ranks (restart 1 of 1)"),
                    OpenStore(1),
                ],
            ),
            (StoreOpened(5.3, 1, 29501), [StartRanks(1, 29501)]),
            (RankExited(6.0, 0, 1, 0), [CleanUp(10.0)]),
            (CleanedUp(6.1, 0), []),
        ],
        {"state": "succeeded", "code": 0, "attempt": 1, "reason": ""},
    ),
    History(
        "While something of an attempt still lives, there is no next one: it may hold a GPU.",
        ranks(1, max_restarts=3),
        [*BEGUN, (RankExited(2.0, 0, 0, 7), [CleanUp(0.0)]), (CleanedUp(8.0, 0, (), (dd(8),)), [])],
        {"state": "failed", "code": 7, "attempt": 0, "leftovers": (dd(8),)},
    ),
    History(
        "Without its agent an attempt cannot be repeated.",
        ranks(1, max_restarts=3),
        [
            *BEGUN,
            (RankExited(2.0, 0, 0, 7), [CleanUp(0.0)]),
            (NodeLost(2.1, 0, "the agent on a ended"), [CleanUp(0.0)]),
        ],
        {"state": "error", "code": 125, "attempt": 0, "root_cause": RankExit(0, 0, 2.0, 7)},
    ),
]

SPARE = [
    History(
        "A spare host takes the place of a lost one, and all ranks start again, without --max-restarts.",
        two_nodes(hosts=("a", "b", "c")),
        [*BEGUN_ON_TWO, *B_IS_LOST, *C_HAS_ITS_PLACE],
        {
            "state": "succeeded",
            "code": 0,
            "attempt": 1,
            "lost": (),
            "replaced": (Replaced(1, "b", "c", "b was unreachable", 1),),
        },
    ),
    History(
        "A host that is lost before its ranks start is replaced, too.",
        two_nodes(hosts=("a", "b", "c")),
        [
            (Configured(0.1), [OpenStore(0)]),
            (AgentReady(0.8, 0), []),
            (StoreOpened(0.9, 0, 29500), []),
            (NodeLost(1.0, 1, "b was unreachable"), [CleanUp(0.0)]),
            (CleanedUp(1.1, 0), [Replace(1, 2, "b was unreachable"), OpenStore(1)]),
            (AgentReady(3.0, 1), []),
            (StoreOpened(3.1, 1, 29501), [StartRanks(1, 29501)]),
            (StopRequested(3.2, 0), [Say(KILL_3), SignalRanks(SIGTERM, (0, 1, 2))]),
            *((RankExited(3.3, rank, 1, signal=15), []) for rank in (0, 1)),
            (RankExited(3.3, 2, 1, signal=15), [CleanUp(0.0)]),
            *((CleanedUp(3.4, node), []) for node in (0, 1)),
        ],
        {"state": "killed", "attempt": 1},
    ),
    History(
        "Without a spare that is left, the loss ends the run.",
        two_nodes(hosts=("a", "b", "c"), max_restarts=3),
        [*BEGUN_ON_TWO, (SpareLost(2.0, 2, "c exited"), []), *B_IS_LOST[:-1], (CleanedUp(5.2, 0), [])],
        {"state": "error", "code": 125, "reason": "b was unreachable", "replaced": ()},
    ),
    History(
        "Node 0 has no substitute: the controller is there.",
        two_nodes(hosts=("a", "b", "c")),
        [
            *BEGUN_ON_TWO,
            (NodeLost(5.0, 0, "a exited"), [Say("a exited: sending SIGTERM to rank 2, grace period 10s"), TERM_2]),
            (RankExited(5.1, 2, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 1), []),
        ],
        {"state": "error", "code": 125, "reason": "a exited"},
    ),
    History(
        "Who has asked for the end gets it, whatever is lost meanwhile.",
        two_nodes(hosts=("a", "b", "c")),
        [
            *BEGUN_ON_TWO,
            (StopRequested(4.0, 0), [Say(KILL_3), SignalRanks(SIGTERM, (0, 1, 2))]),
            (NodeLost(5.0, 1, "b was unreachable"), []),
            (RankExited(5.1, 0, 0, signal=15), []),
            (RankExited(5.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(5.2, 0), []),
        ],
        {"state": "killed", "attempt": 0, "replaced": ()},
    ),
    History(
        "A replacement does not count as a restart, and the failures before it are forgotten.",
        two_nodes(hosts=("a", "b", "c"), max_restarts=1),
        [
            *BEGUN_ON_TWO,
            *B_IS_LOST,
            *C_HAS_ITS_PLACE[:2],
            (RankExited(7.0, 0, 1, 7), [SignalRanks(SIGTERM, (1, 2))]),
            *((RankExited(7.1, rank, 1, signal=15), []) for rank in (1,)),
            (RankExited(7.1, 2, 1, signal=15), [CleanUp(0.0)]),
            (CleanedUp(7.2, 0), []),
            (
                CleanedUp(7.2, 1),
                [Say("rank 0 failed: exit status 7; restarting all ranks (restart 1 of 1)"), OpenStore(2)],
            ),
            (StopRequested(7.3, 0), [CleanUp(0.0)]),
            *((CleanedUp(7.4, node), []) for node in (0, 1)),
        ],
        {"state": "killed", "attempt": 2},
    ),
]

NODES = [
    History(
        "Ranks start once all nodes are ready; the run is over once all ranks have ended and all nodes are swept.",
        two_nodes(),
        [
            *BEGUN_ON_TWO,
            (RankExited(3.0, 2, 0, 0), []),
            (RankExited(3.1, 0, 0, 0), []),
            (RankExited(3.2, 1, 0, 0), [CleanUp(10.0)]),
            (CleanedUp(3.3, 1), []),
            (CleanedUp(3.4, 0), []),
        ],
        {
            "state": "succeeded",
            "code": 0,
            "exits": (RankExit(0, 0, 3.0 + 0.1, 0), RankExit(1, 0, 3.2, 0), RankExit(2, 1, 3.0, 0)),
        },
    ),
    History(
        "A failure on one node ends the ranks of the other.",
        two_nodes(),
        [
            *BEGUN_ON_TWO,
            (RankExited(3.0, 2, 0, 7), [SignalRanks(SIGTERM, (0, 1))]),
            (RankExited(3.1, 0, 0, signal=15), []),
            (RankExited(3.2, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(3.3, 0), []),
            (CleanedUp(3.4, 1), []),
        ],
        {"state": "failed", "code": 7, "root_cause": RankExit(2, 1, 3.0, 7)},
    ),
    History(
        "When one node is lost, the ranks of the others are ended, and nobody waits for the lost one.",
        two_nodes(),
        [
            *BEGUN_ON_TWO,
            (
                NodeLost(3.0, 1, "the agent on b ended"),
                [
                    Say("the agent on b ended: sending SIGTERM to 2 ranks, grace period 10s"),
                    SignalRanks(SIGTERM, (0, 1)),
                ],
            ),
            (RankExited(3.1, 0, 0, signal=15), []),
            (RankExited(3.2, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(3.3, 0), []),
        ],
        {"state": "error", "code": 125, "reason": "the agent on b ended"},
    ),
    History(
        "The second node to fail for the same reason changes nothing.",
        two_nodes(),
        [
            (StartFailed(0.7, 0, no_torch("python")), [CleanUp(0.0)]),
            (StartFailed(0.8, 1, no_torch("python3")), []),
            (CleanedUp(0.9, 0), []),
            (CleanedUp(1.0, 1), []),
        ],
        {"state": "error", "code": 125, "reason": "torch is not installed in python (Python ?)"},
    ),
]

SCHEDULED = [
    History(
        "The end of the job ends the ranks, within the time that the scheduler leaves; its cause is that of the run.",
        ranks(2),
        [
            *BEGUN,
            (
                JobEnding(9.0, "time limit", 3.0),
                [
                    Say("the job reached its time limit: sending SIGTERM to 2 ranks, grace period 3s"),
                    SignalRanks(SIGTERM, (0, 1)),
                ],
            ),
            (RankExited(9.1, 0, 0, 75), []),
            (
                Tick(12.0),
                [Say("the job reached its time limit: killing rank 1 (SIGKILL)"), SignalRanks(SIGKILL, (1,))],
            ),
            (RankExited(12.1, 1, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(12.2, 0), []),
        ],
        {"state": "timed out", "code": 124, "root_cause": None},
    ),
    History(
        "A cancelled job never counts as failed, and nothing starts again.",
        ranks(1, max_restarts=3),
        [
            *BEGUN,
            (
                JobEnding(9.0, "cancelled", 27.0),
                [
                    Say("the job was cancelled: sending SIGTERM to rank 0, grace period 10s"),
                    SignalRanks(SIGTERM, (0,)),
                ],
            ),
            (RankExited(9.1, 0, 0, 75), [CleanUp(0.0)]),
            (CleanedUp(9.2, 0), []),
        ],
        {"state": "killed", "code": 137, "root_cause": None},
    ),
    History(
        "A scheduler that ends a job ends ranks of its own launcher at once, before the cause is known here.",
        ranks(2, foreign=frozenset(range(2)), in_job=True),
        [
            *BEGUN,
            (RankExited(9.0, 0, 0, signal=15, asked_by_launcher=8.9), []),
            (RankExited(9.1, 1, 0, signal=15, asked_by_launcher=9.0), []),
            (JobEnding(9.3, "cancelled", 27.0), [CleanUp(0.0)]),
            (CleanedUp(9.4, 0), []),
        ],
        {"state": "killed", "code": 137, "root_cause": None},
    ),
    History(
        "A launcher that terminates all ranks without a reason of the scheduler is a failure after a while.",
        ranks(1, foreign=frozenset(range(1)), in_job=True),
        [
            *BEGUN,
            (RankExited(9.0, 0, 0, signal=15, asked_by_launcher=8.9), []),
            (Tick(9.0 + JOB_END_WAIT), [CleanUp(0.0)]),
            (CleanedUp(13.1, 0), []),
        ],
        {"state": "failed", "code": 143},
    ),
    History(
        "Ranks that were warned leave one after another, each with the time that it needs; then the others are ended.",
        ranks(3),
        [
            *BEGUN,
            (PreemptionWarned(5.0, "time limit", (0, 1)), []),
            (RankExited(6.0, 0, 0, 75), []),
            (RankExited(6.1, 2, 0, 1, failure=lost_peer(6.0)), []),
            (Tick(20.0), []),
            (RankExited(40.0, 1, 0, 0), [CleanUp(0.0)]),
            (CleanedUp(40.1, 0), []),
        ],
        {"state": "timed out", "code": 124, "root_cause": None},
    ),
    History(
        "Those that were not warned end when all that were have left.",
        ranks(2),
        [
            *BEGUN,
            (PreemptionWarned(5.0, "preempted", (0,)), []),
            (
                RankExited(6.0, 0, 0, 9),
                [Say("the job was preempted: sending SIGTERM to rank 1, grace period 10s"), SignalRanks(SIGTERM, (1,))],
            ),
            (RankExited(6.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.2, 0), []),
        ],
        {"state": "killed", "code": 137, "root_cause": None},
    ),
    History(
        "A rank that raises after the warning has failed, as ever.",
        ranks(2),
        [
            *BEGUN,
            (PreemptionWarned(5.0, "time limit", (0, 1)), []),
            (RankExited(6.0, 0, 0, 1, failure=raised(5.9)), [SignalRanks(SIGTERM, (1,))]),
            (RankExited(6.1, 1, 0, signal=15), [CleanUp(0.0)]),
            (CleanedUp(6.2, 0), []),
        ],
        {"state": "failed", "code": 1, "root_cause": RankExit(0, 0, 6.0, 1, failure=raised(5.9))},
    ),
    History(
        "Ranks that are warned and end well have succeeded.",
        ranks(1),
        [
            *BEGUN,
            (PreemptionWarned(5.0, "time limit", (0,)), []),
            (RankExited(6.0, 0, 0, 0), [CleanUp(10.0)]),
            (CleanedUp(6.2, 0), []),
        ],
        {
            "state": "succeeded",
            "code": 0,
            "exits": (
                RankExit(
                    *(0, 0, 6.0, 0),
                    notes=(
                        (
                            "exited with status 0 after the warning that the job ends; "
                            "ranks that are to be requeued exit with another status"
                        ),
                    ),
                ),
            ),
        },
    ),
    History(
        "Ranks that are being ended for a failure have less time when the job ends; the failure stays the cause.",
        ranks(2),
        [
            *BEGUN,
            (RankExited(5.0, 0, 0, 3), [SignalRanks(SIGTERM, (1,))]),
            (JobEnding(6.0, "cancelled", 2.0), []),
            (Tick(8.0), [Say("killing rank 1, still running (SIGKILL)"), SignalRanks(SIGKILL, (1,))]),
            (RankExited(8.1, 1, 0, signal=9), [CleanUp(0.0)]),
            (CleanedUp(8.2, 0), []),
        ],
        {"state": "failed", "code": 3, "root_cause": RankExit(0, 0, 5.0, 3)},
    ),
]

HISTORIES = [*ENDS, *CAUSES, *ASKED, *TIMEOUTS, *BROKEN, *RESTARTS, *SPARE, *NODES, *SCHEDULED]


LATE: list[Event] = [
    Configured(99),
    AgentReady(99, 0),
    StoreOpened(99, 0, 1),
    RankExited(99, 0, 0, 1),
    StopRequested(99, SIGINT),
    StartFailed(99, 0, ()),
    NodeLost(99, 0, ""),
    Tick(999),
]


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.truth)
def test_history(history: History) -> None:
    """The actions after every event, the result at the end, and nothing after it, whatever happens."""
    supervisor = Supervisor(history.settings)
    finished: list[Finish] = []
    for event, expected in history.steps:
        assert finished == [], f"it was over before {event}"
        actions = supervisor.handle(event)
        finished = [action for action in actions if isinstance(action, Finish)]
        assert list(expected) == [in_words(action) for action in actions if action not in finished], f"after {event}"
    assert len(finished) == 1
    outcome = finished[0].outcome
    told = {**outcome._asdict(), "reason": reason_in_words(outcome.stopped)}
    assert history.outcome == {name: told[name] for name in history.outcome}
    assert [action for event in LATE for action in supervisor.handle(event)] == []
    assert supervisor.alive() == ()


# ---- ranks that never exit -------------------------------------------------------------------------------------------


def answered(settings: SupervisorConfig, events: Sequence[Event], swept: CleanedUp) -> list[Action]:
    """Handle these events, then let time pass, and answer every `Sweep` once; return all actions."""
    supervisor, actions = Supervisor(settings), []
    for event in events:
        actions += supervisor.handle(event)
    for _ in range(10):
        if any(isinstance(action, CleanUp) for action in actions):
            break
        if supervisor.deadline is None:
            return actions  # nothing will ever wake it again
        actions += supervisor.handle(Tick(supervisor.deadline))
    return actions + supervisor.handle(swept)


def test_a_rank_that_could_not_be_started_blocks_nothing() -> None:
    """It will never exit. The others are asked to, and what is left is killed."""
    began = [event for event, _ in BEGUN[:3]]
    unable = StartFailed(1.0, 0, (Problem(ProblemKind.RANK, ("a",), rank=1, text="no memory"),))
    actions = answered(ranks(2), [*began, unable, RankExited(1.1, 0, 0, signal=15)], CleanedUp(60.0, 0))
    last = actions[-1]
    assert SignalRanks(SIGTERM, (0, 1)) in actions
    assert isinstance(last, Finish), f"it waits for ever after {actions}"
    assert (last.outcome.state, last.outcome.code) == ("error", 125)
    assert reason_in_words(last.outcome.stopped) == "cannot start rank 1: no memory"
    assert last.outcome.exits == (RankExit(0, 0, 1.1, signal=15, by_muster=True),)


def test_a_rank_that_survives_sigkill_does_not_block_the_end() -> None:
    """It waits in the kernel, for example for a disk: it is reported, and muster exits."""
    began = [event for event, _ in BEGUN]
    actions = answered(ranks(2), [*began, RankExited(5.0, 0, 0, 7)], CleanedUp(60.0, 0, (), (dd(9),)))
    last = actions[-1]
    assert SignalRanks(SIGKILL, (1,)) in actions
    assert isinstance(last, Finish), f"it waits for ever after {actions}"
    assert (last.outcome.state, last.outcome.code) == ("failed", 7)
    assert last.outcome.leftovers == (dd(9),)


# ---- random histories -----------------------------------------------------------------------------------------------


class World:
    """A world that executes a supervisor's actions, at random speeds and with accidents, all from one seed."""

    def __init__(self, seed: int, deaf: bool = False):
        self.random = random = Random(seed)
        self.deaf = deaf
        """Some rank is never started, or does not even exit on SIGKILL."""
        nodes = random.choice((1, 1, 2, 3))
        node_of = tuple(sorted(random.randrange(nodes) for _ in range(random.randint(1, 4))))
        self.settings = SupervisorConfig(
            ranks=tuple(range(len(node_of))),
            nodes=nodes,
            node_of=node_of,
            grace=random.choice((0.0, 1.0, 10.0)),
            timeout=random.choice((None, None, 3.0, 30.0)),
            max_restarts=random.choice((0, 1, 3)),
            always_restart=random.choice((True, False)),
            hosts=tuple(map(str, range(nodes + random.choice((0, 0, 1, 2))))),
        )
        self.queue: list[tuple[float, int, Event]] = []
        self.attempt = 0
        self.living: set[int] = set()
        self.lost: set[int] = set()
        self.history: list[tuple[Event, list[Action]]] = []
        for node in range(nodes):
            self.later(0, 1.0, AgentReady, node)
        self.later(0, 1.0, Configured)
        for _ in range(random.choice((0, 0, 1, 2, 4))):
            self.accident()

    def later(self, t: float, within: float, kind: Any, *fields: Any, **more: Any) -> None:
        """Let something happen at a random time from now."""
        when = t + self.random.uniform(0, within)
        heapq.heappush(
            self.queue, (when, len(self.queue) + self.random.randrange(1 << 30), kind(when, *fields, **more))
        )

    def accident(self) -> None:
        """A user's action, or bad luck."""
        random = self.random
        kind, *fields = random.choice(
            [
                (StopRequested, SIGINT),
                (StopRequested, SIGINT),
                (StopRequested, SIGTERM),
                (StopRequested, SIGHUP),
                (StopRequested, 0, "ann"),
                (NodeLost, random.randrange(self.settings.nodes), "it is gone"),
                (StartFailed, random.randrange(self.settings.nodes), "it cannot"),
                (StoreDied, "exit status 1"),
            ]
        )
        self.later(0, 20.0, kind, *fields)

    def ends(self, t: float, within: float, rank: int, **how: Any) -> None:
        self.later(t, within, RankExited, rank, self.attempt, **how)

    def fate(self, t: float, rank: int) -> None:
        """Return how a rank exits if nothing asks it to."""
        failures = {"code": 1, "failure": raised(t)}, {"code": 1, "failure": lost_peer(t)}
        how = self.random.choice(({"code": 0}, {"code": 0}, {"code": 0}, {"code": 7}, {"signal": 9}, *failures))
        self.ends(t, self.random.choice((0.1, 5.0, 50.0)), rank, **how)

    def do(self, t: float, action: Action) -> None:
        """Execute an action of the supervisor."""
        if isinstance(action, Replace):
            self.lost.discard(action.node)
            self.later(t, 3.0, AgentReady, action.node)
        elif isinstance(action, OpenStore):
            self.later(t, 1.0, StoreOpened, action.attempt, 29500 + action.attempt)
        elif isinstance(action, StartRanks):
            self.attempt = action.attempt
            self.living = {r for r, node in zip(self.settings.ranks, self.settings.node_of) if node not in self.lost}
            for rank in self.living:
                if not (self.deaf and rank == 0):
                    self.fate(t, rank)
        elif isinstance(action, SignalRanks):
            for rank in action.ranks:
                obeys = action.number == SIGKILL or self.random.random() < 0.5
                if obeys and not (self.deaf and rank == 0):
                    how = self.random.choice(({"signal": action.number}, {"code": 0}, {"code": 1}))
                    self.ends(t, 0.5, rank, **({"signal": SIGKILL} if action.number == SIGKILL else how))
        elif isinstance(action, CleanUp):
            for node in set(range(self.settings.nodes)) - self.lost:
                self.later(t, 0.1 + action.patience, CleanedUp, node)

    def happens(self, event: Event) -> bool:
        """Return whether this can happen now: the agent that would report it exists, and nothing dies twice."""
        node = getattr(event, "node", 0 if isinstance(event, (Configured, StoreOpened, StoreDied)) else None)
        if isinstance(event, RankExited):
            if event.attempt != self.attempt or event.rank not in self.living:
                return False
            node = self.settings.node_of[event.rank]
        if node in self.lost:
            return False
        if isinstance(event, RankExited):
            self.living.discard(event.rank)
        if isinstance(event, NodeLost):
            self.lost.add(event.node)
        return True

    def next(self, deadline: float | None) -> Event | None:
        """Return what happens next; None if nothing ever will."""
        while self.queue and (deadline is None or self.queue[0][0] < deadline):
            event = heapq.heappop(self.queue)[2]
            if self.happens(event):
                return event
        return None if deadline is None else Tick(deadline)

    def play(self, steps: int = 1000) -> None:
        """Continue until it is over, or nothing more happens."""
        supervisor = Supervisor(self.settings)
        while supervisor.phase != "over" and len(self.history) < steps:
            event = self.next(supervisor.deadline)
            if event is None:
                break
            actions = supervisor.handle(event)
            self.history.append((event, actions))
            for action in actions:
                self.do(event.t, action)


SEEDS = range(1500)


@functools.cache
def played(seed: int) -> World:
    """Return the world of a seed, with its history up to the end."""
    world = World(seed)
    world.play()
    return world


def every_action(history: list[tuple[Event, list[Action]]]) -> list[Action]:
    return [action for _, actions in history for action in actions]


def told(seed: int, history: list[tuple[Event, list[Action]]]) -> str:
    """Return a history to show why a test failed."""
    return "\n".join([f"seed {seed}", *(f"{event}\n    {actions}" for event, actions in history)])


def test_every_history_ends_in_exactly_one_finish() -> None:
    """Whatever happens, there is one result, after a cleanup, as the last action; and it fits its exit code."""
    for seed in SEEDS:
        world = played(seed)
        history = world.history
        actions = every_action(history)
        words = told(seed, history)
        finishes = [action for action in actions if isinstance(action, Finish)]
        assert len(finishes) == 1, words
        assert finishes[0] is actions[-1], words
        assert any(isinstance(action, CleanUp) for action in actions), words
        outcome = finishes[0].outcome
        assert history[-1][0].t == outcome.duration, words
        assert (outcome.state == "succeeded") == (outcome.code == 0), words
        if outcome.state == "failed" and outcome.stopped is None:
            assert outcome.root_cause is not None, words
            assert status_of(outcome.root_cause, outcome.exits) == outcome.code != 0, words


def test_a_rank_that_never_exits_does_not_block_the_end() -> None:
    """Even if a rank is never started, or not even SIGKILL ends it."""
    for seed in SEEDS:
        world = World(seed, deaf=True)
        world.play()
        history = world.history
        actions = every_action(history)
        starts = [at for at, action in enumerate(actions) if isinstance(action, StartRanks)]
        if not any(isinstance(action, SignalRanks) for action in actions[starts[-1] if starts else 0 :]):
            continue  # nothing requests the end: the rank may keep running
        assert isinstance(actions[-1], Finish), told(seed, history)


def test_nothing_starts_after_a_person_asked_for_the_end() -> None:
    """Neither ranks nor a new port for them."""
    for seed in SEEDS:
        history = played(seed).history
        asked = False
        for event, actions in history:
            asked = asked or isinstance(event, StopRequested)
            assert not (asked and any(isinstance(action, (StartRanks, OpenStore)) for action in actions)), told(
                seed, history
            )


def test_attempts_are_counted() -> None:
    """Attempts start one after another, each once, and at most as many as allowed."""
    for seed in SEEDS:
        world = played(seed)
        history = world.history
        starts = [action.attempt for action in every_action(history) if isinstance(action, StartRanks)]
        replaced = sum(isinstance(action, Replace) for action in every_action(history))
        # an attempt that ended before its ranks started has a number, too
        assert sorted(set(starts)) == starts, told(seed, history)
        assert replaced or list(range(len(starts))) == starts, told(seed, history)
        assert len(starts) <= world.settings.max_restarts + 1 + replaced, told(seed, history)


def test_signals_go_to_the_living() -> None:
    """No signal goes to a rank that has exited or whose node is lost, and none to an empty list."""
    for seed in SEEDS:
        world = played(seed)
        history = world.history
        where = dict(zip(world.settings.ranks, world.settings.node_of))
        gone: set[int] = set()
        for event, actions in history:
            if isinstance(event, RankExited):
                gone.add(event.rank)
            elif isinstance(event, NodeLost):
                gone |= {rank for rank, node in where.items() if node == event.node}
            for action in actions:
                if isinstance(action, StartRanks):
                    gone = set()
                if isinstance(action, SignalRanks):
                    assert action.ranks and not gone & set(action.ranks), told(seed, history)


def test_when_all_agents_are_lost_the_run_ends() -> None:
    """The run ends immediately with the last agent."""
    seen = 0
    for seed in SEEDS:
        world = played(seed)
        history = world.history
        if len(world.lost) == world.settings.nodes:
            seen += 1
            assert isinstance(history[-1][0], NodeLost), told(seed, history)
            assert isinstance(every_action(history)[-1], Finish), told(seed, history)
    assert seen > 10


def test_the_same_history_gives_the_same_actions() -> None:
    """The supervisor is a function of its events: a recorded history can be replayed."""
    for seed in SEEDS[:200]:
        world = played(seed)
        history = world.history
        again = Supervisor(world.settings)
        assert history == [(event, again.handle(event)) for event, _ in history], told(seed, history)
