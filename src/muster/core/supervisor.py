"""Decide; never do. Events in, actions out; time is a field of an event, not a clock.

A run goes through the phases of `Phase` in their order, and from sweeping back to preparing when a failure may be
retried.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from muster.core.events import (
    JOB_ENDS,
    NAMES,
    Action,
    AgentReady,
    CleanedUp,
    CleanUp,
    Configured,
    Escalating,
    Event,
    Finish,
    Hurrying,
    JobEnding,
    LogIncomplete,
    NodeLost,
    OpenStore,
    PreemptionWarned,
    RankExited,
    RanksStarted,
    Restarting,
    SignalRanks,
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
    SIGQUIT,
    SIGTERM,
    FailureKind,
    Leftover,
    LostNode,
    RankExit,
    RunResult,
    RunState,
    StopKind,
    StopReason,
    TextEnum,
    Unlogged,
)
from muster.core.root_cause import is_own_failure, root_cause

ROOT_CAUSE_WAIT = 1.0
"""Seconds to wait for a better cause after a rank fell because it lost a peer."""

UNKILLABLE_AFTER = 5.0
"""Seconds after SIGKILL in which a rank must have ended; then it is told of, and waited for no more."""

CLOCK_SKEW = 0.05
"""Seconds by which the clocks of two nodes may differ after all: an end that was told late counts when it happened."""

_ASKS = frozenset((SIGHUP, SIGINT, SIGTERM, SIGKILL))
"""What launchers send to ranks that are to end."""

INTERRUPT_TO_KILL = 5.0
"""The most seconds between SIGTERM and SIGKILL when SIGINT was tried before."""


class Phase(TextEnum):
    """How far a run has got."""

    PREPARING = "preparing"
    """Agents start, interpreters warm up, the store's port opens."""
    RUNNING = "running"
    """All ranks were started."""
    SETTLING = "settling"
    """A rank failed, perhaps for want of another one: wait a moment for the one that failed first."""
    STOPPING = "stopping"
    """The ranks were asked to end, and are asked harder as time passes."""
    SWEEPING = "sweeping"
    """All ranks have ended; what they left behind ends."""
    OVER = "over"
    """There is an outcome."""


@dataclass(frozen=True)
class SupervisorConfig:
    """What the supervisor must know of a job."""

    ranks: tuple[int, ...]
    nodes: int
    node_of: tuple[int, ...]
    """The node of each rank, by its place in `ranks`."""
    grace: float
    timeout: float | None = None
    max_restarts: int = 0
    foreign: bool = False
    """The ranks are started by a launcher of its own, which ends those that are left when one has failed."""
    first_attempt: int = 0
    """The number of the first attempt; others were made before, by a supervisor that ended with its job."""


@dataclass
class _Termination:
    """Why the run, or the attempt, is being ended, and how far that has got."""

    state: RunState
    code: int
    reason: StopReason | None = None
    escalation: list[tuple[int, float]] = field(default_factory=list)
    """Signals still to be sent, and the seconds to wait after each."""
    drain: float = 0.0


class Supervisor:
    """One run, from its first event to its outcome."""

    def __init__(self, settings: SupervisorConfig):
        self.settings = settings
        self.phase = Phase.PREPARING
        self.attempt = settings.first_attempt
        self.deadline: float | None = settings.timeout
        """The time at which a `Tick` is wanted."""
        self.configured = False
        """The first attempt's port was asked for."""
        self._ready: set[int] = set()
        self._swept: set[int] = set()
        self._port: int | None = None
        self._node_of = dict(zip(settings.ranks, settings.node_of))
        self._ranks_of: dict[int, set[int]] = {}
        """The ranks of each node."""
        for rank, node in self._node_of.items():
            self._ranks_of.setdefault(node, set()).add(rank)
        self._living: set[int] = set(settings.ranks)
        """The ranks of this attempt that have not ended, on nodes that are not lost."""
        self._ends: dict[int, RankExit] = {}
        self._one_failed = False
        """A rank of this attempt has failed by itself."""
        self._asked: dict[int, float] = {}
        """When each rank was first asked to end."""
        self._sent: dict[int, set[int]] = {}
        """The signals that it was sent for that."""
        self._gone: dict[int, str] = {}
        """The nodes whose agent is lost, and why."""
        self._end: _Termination | None = None
        self._left: list[Leftover] = []
        self._unlogged: dict[tuple[int, int, str], Unlogged] = {}
        self._next: float | None = None
        self._asked_to_end = False
        """A person, or whoever started muster, has asked for the end."""
        self._coming = ""
        """Why a scheduler is about to end the job, once ranks were told so."""
        self._told: set[int] = set()
        """The ranks that were told."""
        self._told_living: set[int] = set()
        """Of these, the ones that have not ended."""
        self._obeyed = False
        """One of them has ended because of that: it saved and left."""

    def handle(self, event: Event) -> list[Action]:
        """Take one event; give what is to be done about it, in order."""
        if self.over:
            if isinstance(event, LogIncomplete):  # the rest of the logs comes after the end
                self._on_lacks(event, [])
            return []
        actions: list[Action] = []
        handler = getattr(self, "_on_" + NAMES[type(event)])
        handler(event, actions)
        if not self.over:
            self._pass_time(event.t, actions)
            times = [when for when in (self._next, self._timeout()) if when is not None]
            self.deadline = min(times) if times else None
        return actions

    def alive(self) -> tuple[int, ...]:
        """The ranks of this attempt that have not ended."""
        if self.phase in (Phase.PREPARING, Phase.OVER):
            return ()
        return tuple(rank for rank in self.settings.ranks if rank in self._living)

    def lives(self, rank: int) -> bool:
        """This rank is one of those."""
        return rank in self._living and self.phase not in (Phase.PREPARING, Phase.OVER)

    @property
    def over(self) -> bool:
        """There is an outcome."""
        return self.phase is Phase.OVER

    @property
    def port(self) -> int | None:
        """The port of this attempt's store, once it is known."""
        return self._port

    @property
    def patience(self) -> float:
        """Seconds that what ranks left behind has to end by itself."""
        return self._end.drain if self._end is not None else 0.0

    @property
    def ends_well(self) -> bool:
        """No rank has failed, and nobody has asked for the end."""
        return self._end is not None and self._end.state is RunState.SUCCEEDED

    def waits_for(self, node: int) -> bool:
        """This node has still to tell that nothing is left on it."""
        return self.phase is Phase.SWEEPING and node not in self._swept

    # ---- starting ---------------------------------------------------------------------------------------------------

    def _on_configured(self, event: Configured, actions: list[Action]) -> None:
        if self.phase is Phase.PREPARING and not self.configured:
            self.configured = True
            actions.append(OpenStore(self.attempt))

    def _on_ready(self, event: AgentReady, actions: list[Action]) -> None:
        self._ready.add(event.node)
        self._start(actions)

    def _on_listening(self, event: StoreOpened, actions: list[Action]) -> None:
        self.configured = True  # an earlier version wrote no event of that
        if event.attempt == self.attempt:
            self._port = event.port
            self._start(actions)

    def _start(self, actions: list[Action]) -> None:
        if self.phase is Phase.PREPARING and self._port is not None and len(self._ready) == self.settings.nodes:
            self.phase = Phase.RUNNING
            actions.append(StartRanks(self.attempt, self._port))

    def _on_started(self, event: RanksStarted, actions: list[Action]) -> None:
        """The world and the view care; nothing follows from it."""

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _on_ended(self, event: RankExited, actions: list[Action]) -> None:
        if event.attempt != self.attempt or event.rank in self._ends:
            return  # told twice, by an agent that met a new supervisor
        end = self._attribute(event)
        self._ends[event.rank] = end
        self._depart({event.rank})
        self._one_failed = self._one_failed or (not end.ok and is_own_failure(end))
        if self._coming and self.phase in (Phase.RUNNING, Phase.SETTLING) and self._obeyed:
            self._wait_for_told(event.t, actions)
        elif self.phase is Phase.RUNNING and not end.ok:
            if is_own_failure(end):
                self._fail(event.t, actions)
            else:
                self.phase, self._next = Phase.SETTLING, event.t + ROOT_CAUSE_WAIT
        elif self.phase is Phase.SETTLING and not end.ok and is_own_failure(end):
            self._fail(event.t, actions)
        self._all_ended(event.t, actions)

    def _depart(self, ranks: set[int]) -> None:
        """These have ended, or their node is lost."""
        self._living -= ranks
        self._told_living -= ranks

    def _attribute(self, event: RankExited) -> RankExit:
        """Tell an end that was asked for, by us or by a launcher, from one that was under way already."""
        end = RankExit(event.rank, self._node_of[event.rank], event.t, event.code, event.signal, failure=event.failure)
        ours, theirs = self._asked.get(event.rank), event.asked_by_launcher
        by_us = ours is not None and (theirs is None or ours - CLOCK_SKEW < theirs)
        asked = ours if by_us else theirs
        if not end.ok and self._told and asked is None:
            kind = event.failure.kind if event.failure is not None else None
            of_its_own = kind not in (FailureKind.EXCEPTION, FailureKind.PEER_LOST)
            if event.rank in self._told and event.code is not None and of_its_own:
                self._obeyed = True
                return end._replace(by_us=True)
            # its peers saved and left, and it misses them
            return end._replace(by_us=True) if self._obeyed and kind is FailureKind.PEER_LOST else end
        if end.ok or asked is None or event.t < asked - CLOCK_SKEW:
            return end
        raised = event.failure is not None and event.failure.kind is FailureKind.EXCEPTION
        if event.failure is not None and raised and event.failure.when < asked:
            # it had raised and was on its way out; the signal only cut its exit short
            return end if event.signal is None else end._replace(code=1, signal=None)
        explained = self._sent.get(event.rank, set()) | (_ASKS if self.settings.foreign else set())
        if event.signal is not None and event.signal not in explained:
            return end._replace(late=True)
        return end._replace(by_us=by_us, by_launcher=not by_us)

    def _wait_for_told(self, t: float, actions: list[Action]) -> None:
        """Ranks that were told of the end leave one after another, and have all the time that was promised; once they
        have left, the others end."""
        self.phase, self._next = Phase.RUNNING, None
        if self._one_failed:
            self._fail(t, actions)
        elif not self._told_living:
            state, code = JOB_ENDS[self._coming]
            reason = StopReason(StopKind.SCHEDULER, cause=self._coming, early=True)
            self._stop(t, _Termination(state, code, reason, self._ask_then_kill()), actions)

    def _all_ended(self, t: float, actions: list[Action]) -> None:
        if self.phase in (Phase.PREPARING, Phase.SWEEPING, Phase.OVER) or self._living:
            return
        if self._end is None:
            failed = any(not end.ok for end in self._ends.values())
            state = RunState.FAILED if failed else RunState.SUCCEEDED
            self._end = _Termination(state, 0, drain=0.0 if failed else self.settings.grace)
        self._sweep(t, actions)

    def _sweep(self, t: float, actions: list[Action]) -> None:
        assert self._end is not None
        for rank in self.alive():
            self._sent.setdefault(rank, set()).add(SIGKILL)
        self.phase, self._next = Phase.SWEEPING, None
        self._swept = set(self._gone)
        actions.append(CleanUp(self._end.drain))
        self._all_swept(t, actions)

    def _fail(self, t: float, actions: list[Action]) -> None:
        self._stop(t, _Termination(RunState.FAILED, 0, None, self._ask_then_kill()), actions)

    def _on_storeended(self, event: StoreDied, actions: list[Action]) -> None:
        if self.phase in (Phase.RUNNING, Phase.SETTLING):
            reason = StopReason(StopKind.STORE, code=event.code, signal=event.signal, log=event.log)
            self._stop(event.t, _Termination(RunState.FAILED, 125, reason, self._ask_then_kill()), actions)

    def _on_unable(self, event: StartFailed, actions: list[Action]) -> None:
        self._broken(event.t, StopReason(StopKind.PROBLEM, problems=event.problems), actions)
        if self.phase is Phase.STOPPING and self._end is not None:
            # a rank that was never started never ends: the agent looks itself who is there
            self._end.drain = self.settings.grace
            self._sweep(event.t, actions)

    def _on_lost(self, event: NodeLost, actions: list[Action]) -> None:
        self._gone[event.node] = event.why
        self._depart(self._ranks_of.get(event.node, set()))
        self._swept.add(event.node)
        self._broken(event.t, StopReason(StopKind.NODE_LOST, node=event.node, message=event.why), actions)
        self._all_ended(event.t, actions)
        self._all_swept(event.t, actions)

    def _broken(self, t: float, reason: StopReason, actions: list[Action]) -> None:
        if self._end is None or self._end.state in (RunState.FAILED, RunState.SUCCEEDED):
            self._stop(t, _Termination(RunState.BROKEN, 125, reason, self._ask_then_kill()), actions)

    # ---- stopping ---------------------------------------------------------------------------------------------------

    def _on_asked(self, event: StopRequested, actions: list[Action]) -> None:
        if self.ends_well:
            actions += [Hurrying(), CleanUp(0.0)]
            return
        grace = self.settings.grace
        hard = [(SIGTERM, min(grace, INTERRUPT_TO_KILL)), (SIGKILL, 0.0)]
        asked_before, self._asked_to_end = self._asked_to_end, True
        if asked_before and event.signal != SIGINT:
            return  # it is being done
        reason = StopReason(StopKind.SIGNAL, signal=event.signal)
        if asked_before:
            before = self._end.reason if self._end is not None else None
            reason = before._replace(again=True) if before is not None else reason
            end = _Termination(RunState.INTERRUPTED, 130, reason, [(SIGKILL, 0.0)])
        elif event.signal == SIGINT:
            end = _Termination(RunState.INTERRUPTED, 130, reason, [(SIGINT, grace), *hard])
        elif event.signal == SIGHUP:
            if event.gone_for is not None:
                reason = StopReason(StopKind.OWNER_GONE, seconds=event.gone_for)
            end = _Termination(RunState.INTERRUPTED, 129, reason, self._ask_then_kill())
        elif event.signal == SIGQUIT:
            end = _Termination(RunState.INTERRUPTED, 131, reason, [(SIGQUIT, grace), *hard])
        elif event.signal == SIGTERM:
            end = _Termination(RunState.INTERRUPTED, 143, reason, self._ask_then_kill())
        else:
            end = _Termination(RunState.KILLED, 137, StopReason(StopKind.KILL, by=event.by), self._ask_then_kill())
        self._stop(event.t, end, actions)

    def _on_warned(self, event: PreemptionWarned, actions: list[Action]) -> None:
        self._coming = event.cause
        self._told |= set(event.ranks)
        self._told_living |= self._living & set(event.ranks)

    def _on_jobends(self, event: JobEnding, actions: list[Action]) -> None:
        if self.ends_well:
            actions.append(CleanUp(0.0))
            return
        self._asked_to_end = True
        if self._end is not None and self.phase is Phase.STOPPING:
            # the ranks were asked already, for another reason, and now have less time
            self._end.escalation = [(SIGKILL, 0.0)] if self._end.escalation else []
            self._next = min(self._next or event.t, event.t + event.within)
            return
        state, code = JOB_ENDS[event.cause]
        reason = StopReason(StopKind.SCHEDULER, cause=event.cause)
        ladder = [(SIGTERM, min(self.settings.grace, event.within)), (SIGKILL, 0.0)]
        self._stop(event.t, _Termination(state, code, reason, ladder), actions)

    def _ask_then_kill(self) -> list[tuple[int, float]]:
        return [(SIGTERM, self.settings.grace), (SIGKILL, 0.0)]

    def _stop(self, t: float, end: _Termination, actions: list[Action]) -> None:
        self._end = end
        if self.phase is Phase.SWEEPING:
            end.escalation.clear()
            actions.append(CleanUp(0.0))
            return
        if self.phase is Phase.PREPARING:
            self._sweep(t, actions)
            return
        self.phase = Phase.STOPPING
        self._next = None
        self._escalate(t, actions)
        self._all_ended(t, actions)

    def _escalate(self, t: float, actions: list[Action]) -> None:
        """Send the next signal of the ladder."""
        assert self._end is not None
        ranks = self.alive()
        if not self._end.escalation or not ranks:
            self._next = None
            return
        number, wait = self._end.escalation.pop(0)
        for rank in ranks:
            self._asked.setdefault(rank, t)
            self._sent.setdefault(rank, set()).update((number, SIGTERM) if number == SIGQUIT else (number,))
        if self._end.state is not RunState.FAILED or number == SIGKILL:
            actions.append(Escalating(number, ranks, wait, self._end.reason))
        actions.append(SignalRanks(number, ranks))
        self._next = t + (wait if self._end.escalation else UNKILLABLE_AFTER)

    def _on_tick(self, event: Tick, actions: list[Action]) -> None:
        """Time passes for every event; see `_pass_time`."""

    def _timeout(self) -> float | None:
        ending = self._end is not None or self.phase in (Phase.STOPPING, Phase.SWEEPING)
        return None if ending else self.settings.timeout

    def _pass_time(self, t: float, actions: list[Action]) -> None:
        timeout = self._timeout()
        if timeout is not None and t >= timeout:
            reason = StopReason(StopKind.TIMEOUT, seconds=timeout)
            self._stop(t, _Termination(RunState.TIMED_OUT, 124, reason, self._ask_then_kill()), actions)
        elif self._next is not None and t >= self._next:
            if self.phase is Phase.SETTLING:
                self._fail(t, actions)
            elif self.phase is Phase.STOPPING and self._end is not None and self._end.escalation:
                self._escalate(t, actions)
            elif self.phase is Phase.STOPPING:
                self._sweep(t, actions)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _on_swept(self, event: CleanedUp, actions: list[Action]) -> None:
        self._swept.add(event.node)
        self._left += [found._replace(killed=True) for found in event.ended if self.ends_well]
        self._left += event.left
        self._all_swept(event.t, actions)

    def _on_lacks(self, event: LogIncomplete, actions: list[Action]) -> None:
        lacks = Unlogged(event.attempt, event.rank, event.stream, event.missing, event.why)
        self._unlogged[lacks[:3]] = lacks

    def _all_swept(self, t: float, actions: list[Action]) -> None:
        if self.phase is not Phase.SWEEPING or len(self._swept) < self.settings.nodes:
            return
        assert self._end is not None
        wedged = any(not found.killed for found in self._left)
        restarts = self.attempt - self.settings.first_attempt
        again = self._end.state is RunState.FAILED and restarts < self.settings.max_restarts
        if again and not self._gone and not wedged:
            first = root_cause(self._ends.values())
            self.attempt += 1
            actions.append(Restarting(first, self._end.reason, restarts + 1, self.settings.max_restarts))
            self._ends, self._asked, self._sent, self._end, self._left, self._port = {}, {}, {}, None, [], None
            self._obeyed = False
            self._living, self._told_living = set(self.settings.ranks), set(self._told)
            self._one_failed = False
            self.phase = Phase.PREPARING
            actions.append(OpenStore(self.attempt))
            return
        self.phase = Phase.OVER
        actions.append(Finish(self._outcome(t)))

    def _outcome(self, t: float) -> RunResult:
        assert self._end is not None
        end = self._end
        ends = tuple(self._ends[rank] for rank in sorted(self._ends))
        first = root_cause(ends)
        if first is not None and first.late and end.state is not RunState.FAILED:
            first = None  # what happened to it on the way out is not why it was on the way
        by_a_rank = end.state is RunState.FAILED and end.reason is None
        code = first.status if by_a_rank and first is not None else end.code
        known = end.reason.node if end.reason is not None else None
        lost = tuple(LostNode(node, why) for node, why in self._gone.items() if node != known)
        left = tuple(self._left)
        return RunResult(end.state, code, t, self.attempt, end.reason, first, ends, left, lost, self.unlogged)

    @property
    def unlogged(self) -> tuple[Unlogged, ...]:
        """What logs lack, as far as it is known."""
        return tuple(self._unlogged[key] for key in sorted(self._unlogged))
