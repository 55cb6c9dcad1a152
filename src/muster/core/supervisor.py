"""The state machine of a run: events in, actions out, no side effects. Time is a field of events, not a clock.

A run goes through the phases of `Phase` in order, and from the cleanup back to the start if a failure may be retried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.core.events import (
    JOB_ENDS,
    Action,
    AgentReady,
    CleanedUp,
    CleanUp,
    Configured,
    Escalating,
    Event,
    Finish,
    HangDetected,
    Hanging,
    Hurrying,
    JobEnding,
    LogIncomplete,
    NodeLost,
    OpenStore,
    PreemptionWarned,
    RankExited,
    RanksMissed,
    RanksStarted,
    Replace,
    Restarting,
    SignalRanks,
    SpareLost,
    StartFailed,
    StartRanks,
    StopRequested,
    StoreDied,
    StoreOpened,
    Tick,
)
from muster.core.model import RESTART_DELAY
from muster.core.restarts import Attempt, delay, repeated
from muster.core.results import (
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGQUIT,
    SIGTERM,
    FailureKind,
    Leftover,
    LostNode,
    OnHang,
    RankExit,
    Repeated,
    Replaced,
    RoleRanks,
    RunResult,
    RunState,
    StopKind,
    StopReason,
    TextEnum,
    Unlogged,
)
from muster.core.root_cause import CASCADE, Missed, explains, is_own_failure, root_cause, status_of

ROOT_CAUSE_WAIT = 10.0
"""Seconds to wait for the root cause after a rank failed because it lost a peer: the peer may still be cleaning up."""

OTHERS_WAIT = 1.0
"""Seconds to wait for further failures if it is known which peer was missed."""

JOB_END_WAIT = 4.0
"""Seconds to wait for the news that the scheduler ends the job, after its own launcher has terminated all ranks."""

SERVERS_DRAIN = 0.3
"""Seconds for processes to exit that terminated ranks of other roles than the main one have left behind."""

UNKILLABLE_AFTER = 15.0
"""Seconds after SIGKILL within which a rank must exit; after that it is reported, and no longer waited for."""

CLOCK_SKEW = 0.05
"""Seconds by which the clocks of two nodes may differ: a late report counts by the time of the exit."""

_ASKS = frozenset((SIGHUP, SIGINT, SIGTERM, SIGKILL))
"""The signals that launchers send to terminate ranks."""

_DONE_WHEN_WARNED = (
    "exited with status 0 after the warning that the job ends; ranks that are to be requeued exit with another status"
)
"""What is remarkable about the success of a rank that may have saved its state to continue later."""

_RAISED = CASCADE | {FailureKind.EXCEPTION}
"""The kinds of failures by a Python exception."""

INTERRUPT_TO_KILL = 5.0
"""Maximum seconds between SIGTERM and SIGKILL if SIGINT was sent before."""


class Phase(TextEnum):
    """The phase of a run. The values appear in the messages `run` and `answer`, and earlier clients know them."""

    STARTING = "preparing"
    """Agents start, fork servers import torch, the store's port is opened."""
    RUNNING = "running"
    """All ranks were started."""
    ATTRIBUTING = "settling"
    """A rank failed, perhaps because it lost a peer: wait a moment for the one that failed first."""
    TERMINATING = "stopping"
    """The ranks were signalled to exit, with escalating signals."""
    CLEANUP = "sweeping"
    """All ranks have exited; leftover processes are killed."""
    FINISHED = "over"
    """There is a result."""


@dataclass(frozen=True)
class SupervisorConfig:
    """The configuration of the supervisor, from the job."""

    ranks: tuple[int, ...]
    nodes: int
    node_of: tuple[int, ...]
    """The node of each rank, in the order of `ranks`."""
    grace: float
    timeout: float | None = None
    max_restarts: int = 0
    always_restart: bool = False
    """True to restart also after the same failure came twice early."""
    restart_delay: float = RESTART_DELAY
    hosts: tuple[str, ...] = ()
    """The names of the nodes, by number, and after them those of the spare hosts."""
    replaced: tuple[Replaced, ...] = ()
    """Hosts that were replaced before the run started."""
    foreign: frozenset[int] = frozenset()
    """The ranks that an external launcher starts, which terminates the others when one has failed."""
    in_job: bool = False
    """True if the ranks run in a job of a scheduler, which may end all processes of the job at once."""
    on_hang: OnHang = OnHang.WARN
    first_attempt: int = 0
    """The number of the first attempt; earlier ones belong to a controller that ended with its job."""
    stores: tuple[int, ...] = (0,)
    """The nodes that hold a store."""
    roles: tuple[RoleRanks, ...] = ()
    """The roles of a run with several programs."""
    main: frozenset[int] = frozenset()
    """The ranks whose success ends the run, although others are still running; empty for none."""


@dataclass
class _Termination:
    """Why the run, or the attempt, is being terminated, and how far that is."""

    state: RunState
    code: int
    reason: StopReason | None = None
    escalation: list[tuple[int, float]] = field(default_factory=list)
    """Signals still to be sent, and the seconds to wait after each."""
    drain: float = 0.0


class Supervisor:
    """The state machine of one run, from its first event to its result."""

    def __init__(self, settings: SupervisorConfig):
        self.settings = settings
        self.phase = Phase.STARTING
        self.attempt = settings.first_attempt
        self.deadline: float | None = settings.timeout
        """When the next `Tick` is due."""
        self.configured = False
        """True if the first attempt's port was requested."""
        self._ready: set[int] = set()
        self._clean_nodes: set[int] = set()
        self._stores: dict[int, StoreOpened] = {}
        """The stores of this attempt that are open, by node."""
        self._node_of = dict(zip(settings.ranks, settings.node_of))
        self._ranks_of: dict[int, set[int]] = {}
        """The ranks of each node."""
        for rank, node in self._node_of.items():
            self._ranks_of.setdefault(node, set()).add(rank)
        self._living: set[int] = set(settings.ranks)
        """The ranks of this attempt that have not exited, on nodes that are not lost."""
        self._exits: dict[int, RankExit] = {}
        self._missed: RanksMissed | None = None
        """The ranks of this attempt that others waited for when the first one failed."""
        self._one_failed = False
        """True if a rank of this attempt has failed by itself."""
        self._asked_at: dict[int, float] = {}
        """When each rank was first signalled to exit."""
        self._signals_sent: dict[int, set[int]] = {}
        """The signals sent to each rank to terminate it."""
        self._lost_nodes: dict[int, str] = {}
        """Lost nodes, with the reason."""
        self._spares = list(range(settings.nodes, len(settings.hosts)))
        """The spare hosts that can take the place of a node."""
        self._replaced = list(settings.replaced)
        self._replacements = 0
        """Number of attempts that began because hosts were replaced."""
        self._termination: _Termination | None = None
        self._leftovers: list[Leftover] = []
        self._unlogged: dict[tuple[int, int, str], Unlogged] = {}
        self._next_step: float | None = None
        self._stop_requested = False
        """True if a user, or the program that started muster, has requested to stop."""
        self._job_end = ""
        """Why a scheduler is about to end the job, once ranks were warned."""
        self._warned: set[int] = set()
        """The ranks that were warned."""
        self._warned_living: set[int] = set()
        """The warned ranks that have not exited."""
        self._left_when_warned = False
        """True if one of them has exited because of the warning: it saved and exited."""
        self._began = 0.0
        """When the ranks of this attempt were started."""
        self._before: Attempt | None = None
        """How the attempt before this one failed."""
        self._quick = 0
        """Number of attempts in a row that failed early."""
        self._repeated: Repeated | None = None

    def handle(self, event: Event) -> list[Action]:
        """Handle an event; return the resulting actions, in order."""
        if self.over:
            if isinstance(event, LogIncomplete):  # the rest of the logs arrives after the end
                self._on_log_incomplete(event, [])
            return []
        actions: list[Action] = []
        _HANDLERS[type(event)](self, event, actions)
        if not self.over:
            self._pass_time(event.t, actions)
            times = [when for when in (self._next_step, self._timeout()) if when is not None]
            self.deadline = min(times) if times else None
        return actions

    def alive(self) -> tuple[int, ...]:
        """Return the ranks of this attempt that have not exited."""
        if self.phase in (Phase.STARTING, Phase.FINISHED):
            return ()
        return tuple(rank for rank in self.settings.ranks if rank in self._living)

    def lives(self, rank: int) -> bool:
        """Return whether this rank has not exited."""
        return rank in self._living and self.phase not in (Phase.STARTING, Phase.FINISHED)

    @property
    def over(self) -> bool:
        """Whether there is a result."""
        return self.phase is Phase.FINISHED

    @property
    def port(self) -> int | None:
        """The port of this attempt's first store, once all are open."""
        known = all(node in self._stores for node in self.settings.stores)
        return self._stores[self.settings.stores[0]].port if known else None

    @property
    def stores(self) -> Mapping[int, StoreOpened]:
        """The stores of this attempt that are open, by node."""
        return self._stores

    @property
    def patience(self) -> float:
        """Seconds that leftover processes get to exit by themselves."""
        return self._termination.drain if self._termination is not None else 0.0

    @property
    def ends_well(self) -> bool:
        """True if no rank has failed, and nobody has requested to stop."""
        return self._termination is not None and self._termination.state is RunState.SUCCEEDED

    @property
    def ends_by_failure(self) -> bool:
        """True if the attempt is being terminated because a rank, or what it needs, has failed."""
        return self._termination is not None and self._termination.state is RunState.FAILED

    @property
    def all_ready(self) -> bool:
        """Whether all nodes have reported that ranks can start."""
        return len(self._ready) == self.settings.nodes

    def waits_for(self, node: int) -> bool:
        """Return whether the cleanup of this node is still awaited."""
        return self.phase is Phase.CLEANUP and node not in self._clean_nodes

    # ---- starting ---------------------------------------------------------------------------------------------------

    def _on_configured(self, event: Configured, actions: list[Action]) -> None:
        if self.phase is Phase.STARTING and not self.configured:
            self.configured = True
            actions.append(OpenStore(self.attempt))

    def _on_agent_ready(self, event: AgentReady, actions: list[Action]) -> None:
        self._ready.add(event.node)
        self._start(event.t, actions)

    def _on_store_opened(self, event: StoreOpened, actions: list[Action]) -> None:
        self.configured = True  # earlier versions recorded no event for it
        if event.attempt == self.attempt:
            self._stores[event.node] = event
            self._start(event.t, actions)

    def _start(self, t: float, actions: list[Action]) -> None:
        port = self.port
        if self.phase is Phase.STARTING and port is not None and len(self._ready) == self.settings.nodes:
            self.phase, self._began = Phase.RUNNING, t
            actions.append(StartRanks(self.attempt, port))

    def _on_ranks_started(self, event: RanksStarted, actions: list[Action]) -> None:
        """Do nothing: only the controller and views use this event."""

    # ---- exits ------------------------------------------------------------------------------------------------------

    def _on_rank_exited(self, event: RankExited, actions: list[Action]) -> None:
        if event.attempt != self.attempt or event.rank in self._exits:
            return  # reported twice, by an agent that reconnected to a new controller
        end = self._attribute(event)
        self._exits[event.rank] = end
        self._depart({event.rank})
        self._one_failed = self._one_failed or (not end.ok and is_own_failure(end))
        if self._job_end and self.phase in (Phase.RUNNING, Phase.ATTRIBUTING) and self._left_when_warned:
            self._wait_for_warned(event.t, actions)
        elif self.phase is Phase.RUNNING and not end.ok:
            if is_own_failure(end):
                self._fail(event.t, actions)
            else:
                known = explains(self._exits.values(), end)
                self.phase, self._next_step = Phase.ATTRIBUTING, event.t + (OTHERS_WAIT if known else ROOT_CAUSE_WAIT)
        elif self.phase is Phase.ATTRIBUTING and not end.ok and is_own_failure(end):
            self._fail(event.t, actions)
        elif self.phase is Phase.RUNNING and self._main_succeeded and self._living:
            names = (role.name for role in self.settings.roles if role.first in self.settings.main)
            reason = StopReason(StopKind.MAIN_ROLE, message=", ".join(names))
            success = _Termination(RunState.SUCCEEDED, 0, reason, self._term_then_kill(), drain=SERVERS_DRAIN)
            self._terminate(event.t, success, actions)
        self._clean_up_after_last(event.t, actions)

    @property
    def _main_succeeded(self) -> bool:
        """Whether all ranks have succeeded whose success ends the run."""
        main = self.settings.main
        return bool(main) and all(rank in self._exits and self._exits[rank].ok for rank in main)

    def _on_ranks_missed(self, event: RanksMissed, actions: list[Action]) -> None:
        if event.attempt == self.attempt and self._missed is None:
            self._missed = event

    @property
    def exits(self) -> tuple[RankExit, ...]:
        """The exits of this attempt so far, by rank."""
        return tuple(self._exits[rank] for rank in sorted(self._exits))

    def _root_cause(self) -> RankExit | None:
        """Return the rank of this attempt that failed first, or that the others missed."""
        missed = self._missed
        found = Missed(missed.ranks, missed.words, missed.place) if missed is not None else None
        return root_cause(self._exits.values(), found)

    def _depart(self, ranks: set[int]) -> None:
        """Remove ranks that have exited, or whose node is lost."""
        self._living -= ranks
        self._warned_living -= ranks

    def _attribute(self, event: RankExited) -> RankExit:
        """Distinguish an exit caused by a signal of muster or a launcher from one that was already in progress."""
        end = RankExit(event.rank, self._node_of[event.rank], event.t, event.code, event.signal, failure=event.failure)
        end = end._replace(usage=event.usage, facts=event.facts, notes=event.notes)
        ours, theirs = self._asked_at.get(event.rank), event.asked_by_launcher
        by_muster = ours is not None and (theirs is None or ours - CLOCK_SKEW < theirs)
        asked = ours if by_muster else theirs
        if end.ok and event.rank in self._warned:
            end = end._replace(notes=(*end.notes, _DONE_WHEN_WARNED))
        if not end.ok and self._warned and asked is None:
            kind = event.failure.kind if event.failure is not None else None
            of_its_own = kind is not FailureKind.EXCEPTION and kind not in CASCADE
            if event.rank in self._warned and event.code is not None and of_its_own:
                self._left_when_warned = True
                return end._replace(by_muster=True)
            # its peers saved and exited, and it lost them
            return end._replace(by_muster=True) if self._left_when_warned and kind in CASCADE else end
        if end.ok or asked is None or event.t < asked - CLOCK_SKEW:
            return end
        raised = event.failure is not None and event.failure.proven and event.failure.kind in _RAISED
        if event.failure is not None and raised and event.failure.when < asked:
            # it had raised and was exiting; the signal only cut its exit short
            return end if event.signal is None else end._replace(code=1, signal=None)
        explained = self._signals_sent.get(event.rank, set()) | (
            _ASKS if event.rank in self.settings.foreign else set()
        )
        if event.signal is not None and event.signal not in explained:
            return end._replace(late=True)
        return end._replace(by_muster=by_muster, by_launcher=not by_muster)

    def _wait_for_warned(self, t: float, actions: list[Action]) -> None:
        """Give warned ranks all the promised time to exit one after another, then terminate the others."""
        self.phase, self._next_step = Phase.RUNNING, None
        if self._one_failed:
            self._fail(t, actions)
        elif not self._warned_living:
            state, code = JOB_ENDS[self._job_end]
            reason = StopReason(StopKind.SCHEDULER, cause=self._job_end, early=True)
            self._terminate(t, _Termination(state, code, reason, self._term_then_kill()), actions)

    def _clean_up_after_last(self, t: float, actions: list[Action]) -> None:
        if self.phase in (Phase.STARTING, Phase.CLEANUP, Phase.FINISHED) or self._living:
            return
        if self._termination is None:
            bad = [end for end in self._exits.values() if not end.ok]
            if self.settings.in_job and bad and all(end.by_launcher for end in bad):
                # nobody failed: srun passes on that the job ends, perhaps before its cause is known here
                self.phase, self._next_step = Phase.ATTRIBUTING, t + JOB_END_WAIT
                return
            failed = bool(bad)
            state = RunState.FAILED if failed else RunState.SUCCEEDED
            self._termination = _Termination(state, 0, drain=0.0 if failed else self.settings.grace)
        self._clean_up(t, actions)

    def _clean_up(self, t: float, actions: list[Action]) -> None:
        assert self._termination is not None
        for rank in self.alive():
            self._signals_sent.setdefault(rank, set()).add(SIGKILL)
        self.phase, self._next_step = Phase.CLEANUP, None
        self._clean_nodes = set(self._lost_nodes)
        actions.append(CleanUp(self._termination.drain))
        self._finish_or_restart(t, actions)

    def _fail(self, t: float, actions: list[Action]) -> None:
        self._terminate(t, _Termination(RunState.FAILED, 0, None, self._term_then_kill()), actions)

    def _on_store_died(self, event: StoreDied, actions: list[Action]) -> None:
        if self.phase in (Phase.RUNNING, Phase.ATTRIBUTING):
            reason = StopReason(StopKind.STORE, code=event.code, signal=event.signal, log=event.log)
            self._terminate(event.t, _Termination(RunState.FAILED, 125, reason, self._term_then_kill()), actions)

    def _on_start_failed(self, event: StartFailed, actions: list[Action]) -> None:
        self._break_off(event.t, StopReason(StopKind.PROBLEM, problems=event.problems), actions)
        if self.phase is Phase.TERMINATING and self._termination is not None:
            # a rank that was never started never exits: the agent itself knows which ones exist
            self._termination.drain = self.settings.grace
            self._clean_up(event.t, actions)

    def _on_node_lost(self, event: NodeLost, actions: list[Action]) -> None:
        self._lost_nodes[event.node] = event.why
        self._depart(self._ranks_of.get(event.node, set()))
        self._clean_nodes.add(event.node)
        self._break_off(event.t, StopReason(StopKind.NODE_LOST, node=event.node, message=event.why), actions)
        self._clean_up_after_last(event.t, actions)
        self._finish_or_restart(event.t, actions)

    def _on_spare_lost(self, event: SpareLost, actions: list[Action]) -> None:
        if event.spare in self._spares:
            self._spares.remove(event.spare)

    def _break_off(self, t: float, reason: StopReason, actions: list[Action]) -> None:
        if self._termination is None or self._termination.state in (RunState.FAILED, RunState.SUCCEEDED):
            self._terminate(t, _Termination(RunState.ERROR, 125, reason, self._term_then_kill()), actions)

    # ---- stopping ---------------------------------------------------------------------------------------------------

    def _on_stop_requested(self, event: StopRequested, actions: list[Action]) -> None:
        if self.ends_well:
            actions.append(Hurrying())
            self._hurry(event.t, actions)
            return
        grace = self.settings.grace
        hard = [(SIGTERM, min(grace, INTERRUPT_TO_KILL)), (SIGKILL, 0.0)]
        asked_before, self._stop_requested = self._stop_requested, True
        if asked_before and event.signal != SIGINT:
            return  # already in progress
        reason = StopReason(StopKind.SIGNAL, signal=event.signal)
        if event.released:
            reason = StopReason(StopKind.RELEASED, by=event.by, seconds=event.gone_for or 0.0)
            self._terminate(event.t, _Termination(RunState.SUCCEEDED, 0, reason), actions)
            return
        if asked_before:
            before = self._termination.reason if self._termination is not None else None
            reason = before._replace(again=True) if before is not None else reason
            end = _Termination(RunState.INTERRUPTED, 130, reason, [(SIGKILL, 0.0)])
        elif event.signal == SIGINT:
            end = _Termination(RunState.INTERRUPTED, 130, reason, [(SIGINT, grace), *hard])
        elif event.signal == SIGHUP:
            if event.gone_for is not None:
                reason = StopReason(StopKind.OWNER_GONE, seconds=event.gone_for)
            end = _Termination(RunState.INTERRUPTED, 129, reason, self._term_then_kill())
        elif event.signal == SIGQUIT:
            end = _Termination(RunState.INTERRUPTED, 131, reason, [(SIGQUIT, grace), *hard])
        elif event.signal == SIGTERM:
            end = _Termination(RunState.INTERRUPTED, 143, reason, self._term_then_kill())
        else:
            end = _Termination(RunState.KILLED, 137, StopReason(StopKind.KILL, by=event.by), self._term_then_kill())
        self._terminate(event.t, end, actions)

    def _hurry(self, t: float, actions: list[Action]) -> None:
        """End what is left of a run that has succeeded."""
        assert self._termination is not None
        if self.phase is Phase.TERMINATING:  # ranks of other roles than the main one
            self._termination.escalation = [(SIGKILL, 0.0)]
            self._escalate(t, actions)
        else:
            actions.append(CleanUp(0.0))

    def _on_preemption_warned(self, event: PreemptionWarned, actions: list[Action]) -> None:
        self._job_end = event.cause
        self._warned |= set(event.ranks)
        self._warned_living |= self._living & set(event.ranks)

    def _on_job_ending(self, event: JobEnding, actions: list[Action]) -> None:
        if self.ends_well:
            self._hurry(event.t, actions)
            return
        self._stop_requested = True
        if self._termination is not None and self.phase is Phase.TERMINATING:
            # the ranks were already signalled for another reason, and now have less time
            self._termination.escalation = [(SIGKILL, 0.0)] if self._termination.escalation else []
            self._next_step = min(self._next_step or event.t, event.t + event.within)
            return
        state, code = JOB_ENDS[event.cause]
        reason = StopReason(StopKind.SCHEDULER, cause=event.cause)
        ladder = [(SIGTERM, min(self.settings.grace, event.within)), (SIGKILL, 0.0)]
        self._terminate(event.t, _Termination(state, code, reason, ladder), actions)

    def _on_hang_detected(self, event: HangDetected, actions: list[Action]) -> None:
        if event.attempt != self.attempt or self.phase is not Phase.RUNNING:
            return
        how = self.settings.on_hang
        actions.append(Hanging(event.seconds, event.verdict, how))
        if how is OnHang.WARN:
            return
        state = RunState.TIMED_OUT if how is OnHang.KILL else RunState.FAILED
        reason = StopReason(StopKind.HANG, seconds=event.seconds, message=event.verdict[0] if event.verdict else "")
        self._terminate(event.t, _Termination(state, 124, reason, self._term_then_kill()), actions)

    def _term_then_kill(self) -> list[tuple[int, float]]:
        return [(SIGTERM, self.settings.grace), (SIGKILL, 0.0)]

    def _terminate(self, t: float, end: _Termination, actions: list[Action]) -> None:
        self._termination = end
        if self.phase is Phase.CLEANUP:
            end.escalation.clear()
            actions.append(CleanUp(0.0))
            return
        if self.phase is Phase.STARTING:
            self._clean_up(t, actions)
            return
        self.phase = Phase.TERMINATING
        self._next_step = None
        self._escalate(t, actions)
        self._clean_up_after_last(t, actions)

    def _escalate(self, t: float, actions: list[Action]) -> None:
        """Send the next signal of the escalation."""
        assert self._termination is not None
        ranks = self.alive()
        if not self._termination.escalation or not ranks:
            self._next_step = None
            return
        number, wait = self._termination.escalation.pop(0)
        for rank in ranks:
            self._asked_at.setdefault(rank, t)
            self._signals_sent.setdefault(rank, set()).update((number, SIGTERM) if number == SIGQUIT else (number,))
        if self._termination.state is not RunState.FAILED or number == SIGKILL:
            actions.append(Escalating(number, ranks, wait, self._termination.reason))
        actions.append(SignalRanks(number, ranks))
        self._next_step = t + (wait if self._termination.escalation else UNKILLABLE_AFTER)

    def _on_tick(self, event: Tick, actions: list[Action]) -> None:
        """Do nothing: every event passes time, see `_pass_time`."""

    def _timeout(self) -> float | None:
        ending = self._termination is not None or self.phase in (Phase.TERMINATING, Phase.CLEANUP)
        return None if ending else self.settings.timeout

    def _pass_time(self, t: float, actions: list[Action]) -> None:
        timeout = self._timeout()
        if timeout is not None and t >= timeout:
            reason = StopReason(StopKind.TIMEOUT, seconds=timeout)
            self._terminate(t, _Termination(RunState.TIMED_OUT, 124, reason, self._term_then_kill()), actions)
        elif self._next_step is not None and t >= self._next_step:
            if self.phase is Phase.STARTING:
                self._next_step = None
                actions.append(OpenStore(self.attempt))
            elif self.phase is Phase.ATTRIBUTING:
                self._fail(t, actions)
            elif self.phase is Phase.TERMINATING and self._termination is not None and self._termination.escalation:
                self._escalate(t, actions)
            elif self.phase is Phase.TERMINATING:
                self._clean_up(t, actions)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _on_cleaned_up(self, event: CleanedUp, actions: list[Action]) -> None:
        self._clean_nodes.add(event.node)
        self._leftovers += [found._replace(killed=True) for found in event.ended if self.ends_well]
        self._leftovers += event.left
        self._finish_or_restart(event.t, actions)

    def _on_log_incomplete(self, event: LogIncomplete, actions: list[Action]) -> None:
        lacks = Unlogged(event.attempt, event.rank, event.stream, event.missing, event.why)
        self._unlogged[lacks[:3]] = lacks

    def _finish_or_restart(self, t: float, actions: list[Action]) -> None:
        if self.phase is not Phase.CLEANUP or len(self._clean_nodes) < self.settings.nodes:
            return
        assert self._termination is not None
        wedged = any(not found.killed for found in self._leftovers)
        if not wedged and self._can_replace():
            self._replace(t, actions)
            return
        restarts = self.attempt - self.settings.first_attempt - self._replacements
        again = self._termination.state is RunState.FAILED and restarts < self.settings.max_restarts
        if again and not self._lost_nodes and not wedged and self._is_worth_it(t):
            first, wait = self._root_cause(), delay(self._quick, self.settings.restart_delay)
            reason = self._termination.reason
            actions.append(Restarting(first, reason, restarts + 1, self.settings.max_restarts, wait))
            self._begin_attempt(t, wait, actions)
            return
        self.phase = Phase.FINISHED
        actions.append(Finish(self._result(t)))

    def _can_replace(self) -> bool:
        """Return whether the attempt ended because of lost nodes, and there are spares for all of them."""
        assert self._termination is not None
        reason = self._termination.reason
        by_loss = reason is not None and reason.kind is StopKind.NODE_LOST
        succeeded = len(self._exits) == len(self.settings.ranks) and all(end.ok for end in self._exits.values())
        # the controller is on node 0
        return by_loss and not succeeded and 0 not in self._lost_nodes and len(self._lost_nodes) <= len(self._spares)

    def _replace(self, t: float, actions: list[Action]) -> None:
        """Begin an attempt in which spares have the places of the lost nodes."""
        hosts = list(self.settings.hosts)
        for found in self._replaced:
            if found.attempt is not None:
                hosts[found.node] = found.by
        for node, why in sorted(self._lost_nodes.items()):
            spare = self._spares.pop(0)
            self._replaced.append(Replaced(node, hosts[node], hosts[spare], why, self.attempt + 1))
            actions.append(Replace(node, spare, why))
            self._ready.discard(node)
        self._lost_nodes.clear()
        self._replacements += 1
        self._before, self._quick = None, 0
        self._begin_attempt(t, 0.0, actions)

    def _is_worth_it(self, t: float) -> bool:
        """Return whether to restart after this attempt: not if it failed early in the same way as the one before."""
        assert self._termination is not None
        first = self._root_cause() if self._termination.reason is None else None
        now = Attempt(first, self._began, t)
        if not self.settings.always_restart:
            self._repeated = repeated(now, self._before)
        self._before, self._quick = now, self._quick + 1 if now.early else 0
        return self._repeated is None

    @property
    def pauses(self) -> bool:
        """Whether the next attempt is still delayed."""
        return self.phase is Phase.STARTING and self._next_step is not None

    def _begin_attempt(self, t: float, wait: float, actions: list[Action]) -> None:
        """Begin the next attempt after `wait` seconds."""
        self.phase, self.attempt, self._stores, self._termination = Phase.STARTING, self.attempt + 1, {}, None
        self._living, self._warned_living = set(self.settings.ranks), set(self._warned)
        self._exits, self._asked_at, self._signals_sent, self._leftovers = {}, {}, {}, []
        self._one_failed = self._left_when_warned = False
        self._missed = None
        if wait:
            self._next_step = t + wait
        elif self.configured:
            actions.append(OpenStore(self.attempt))

    def _result(self, t: float) -> RunResult:
        assert self._termination is not None
        end = self._termination
        ends = tuple(self._exits[rank] for rank in sorted(self._exits))
        first = self._root_cause()
        if first is not None and (first.late or first.by_launcher) and end.state is not RunState.FAILED:
            first = None  # what happened to it during termination is not the reason for that
        by_a_rank = end.state is RunState.FAILED and end.reason is None
        code = status_of(first, ends) if by_a_rank and first is not None else end.code
        known = end.reason.node if end.reason is not None else None
        lost = tuple(LostNode(node, why) for node, why in self._lost_nodes.items() if node != known)
        left = tuple(self._leftovers)
        return RunResult(
            *(end.state, code, t, self.attempt, end.reason, first, ends, left, lost, self.unlogged, self._repeated),
            replaced=tuple(self._replaced),
            roles=self.settings.roles,
        )

    @property
    def unlogged(self) -> tuple[Unlogged, ...]:
        """The output missing in logs, as far as it is known."""
        return tuple(self._unlogged[key] for key in sorted(self._unlogged))


_HANDLERS: Mapping[type[Any], Callable[[Supervisor, Any, list[Action]], None]] = {
    Configured: Supervisor._on_configured,
    AgentReady: Supervisor._on_agent_ready,
    StoreOpened: Supervisor._on_store_opened,
    RanksStarted: Supervisor._on_ranks_started,
    RankExited: Supervisor._on_rank_exited,
    RanksMissed: Supervisor._on_ranks_missed,
    StoreDied: Supervisor._on_store_died,
    StartFailed: Supervisor._on_start_failed,
    NodeLost: Supervisor._on_node_lost,
    SpareLost: Supervisor._on_spare_lost,
    CleanedUp: Supervisor._on_cleaned_up,
    LogIncomplete: Supervisor._on_log_incomplete,
    StopRequested: Supervisor._on_stop_requested,
    PreemptionWarned: Supervisor._on_preemption_warned,
    JobEnding: Supervisor._on_job_ending,
    HangDetected: Supervisor._on_hang_detected,
    Tick: Supervisor._on_tick,
}
"""The handler of each event."""
