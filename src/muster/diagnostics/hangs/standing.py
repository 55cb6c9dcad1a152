"""Where one rank stands: which calls it waits in, and which collectives it has entered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from muster.core.inspection import CollectiveRecord, GroupState, Inspection, Snapshot
from muster.core.results import RankExit
from muster.core.root_cause import CASCADE
from muster.core.verdict import Activity, Collective, Frame, Situation
from muster.diagnostics.hangs import connecting
from muster.diagnostics.hangs.activity import activity_of
from muster.diagnostics.stack_text import Origin, Thread, origin, threads_of

INIT = "init_process_group"
NEW_GROUP = "new_group"
STORE = "TCPStore"
BACKWARD, DDP = "backward", "DistributedDataParallel"
"""Calls that wait for other ranks and are no collective with a number."""

P2P = frozenset(("send", "recv", "recvAnySource", "batch_isend_irecv", "send_object_list", "recv_object_list"))
"""Calls of two ranks. Which the other one is, is not known."""

_NO_OPERATIONS = frozenset(
    (
        *("destroy_process_group", "get_rank", "get_world_size", "is_initialized", "wrapper", "isend", "irecv"),
        *("_object_to_tensor", "_tensor_to_object", "get_process_group_ranks"),
    )
)
"""Functions of torch.distributed.distributed_c10d that wait for nobody."""

_JOINS = ("new_group", "_new_group_with_tag", "split_group", "new_subgroups", "new_subgroups_by_enumeration")

_OF_DDP = ("_verify_param_shape_across_processes", "_sync_module_states", "_sync_params_and_buffers")
"""Functions of torch.distributed.utils that call collectives in C++."""

_DTYPES: Mapping[str, str] = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


class Wait(NamedTuple):
    """A call that a rank waits in."""

    collective: Collective
    since: float = 0.0
    """When the rank called it, in seconds since 1970 by the clock of node 0; 0 if unknown."""


class Standing(NamedTuple):
    """What is known about one rank."""

    rank: int
    situation: Situation
    waits: tuple[Wait, ...] = ()
    """The first call of each process group that has not ended."""
    entered: Mapping[str, int] = {}
    """The number of the last collective that it has called, by group."""
    members: Mapping[str, tuple[int, ...]] = {}
    """The ranks of each group, where they are known."""
    calls: Mapping[tuple[str, int], Collective] = {}
    """Its last collectives, by group and number."""
    path: tuple[Frame, ...] = ()
    """The frames of the user's code down to where it waits, outermost first."""
    exit: RankExit | None = None
    joined: bool = False
    """True if it has a process group."""
    known: bool = True
    """False if it did not answer, so that it may be anywhere."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for other ranks."""
        return bool(self.waits)

    def has_entered(self, wanted: Collective) -> bool:
        """Return whether it has called this collective, as far as is known."""
        if wanted.seq and self.joined:
            return self.entered.get(wanted.group, 0) >= wanted.seq
        ops = [wait.collective.op for wait in self.waits]
        if wanted.op == INIT and (self.joined or any(op != INIT and not op.startswith(STORE) for op in ops)):
            return True  # it is past that
        return wanted.op in ops or (wanted.op in P2P and any(op in P2P for op in ops))


def standings_of(snapshot: Snapshot, exits: Sequence[RankExit], world_size: int) -> dict[int, Standing]:
    """Return where each rank stands. A rank that has exited has no inspection; others may have none."""
    inspections = {found.rank: found for found in snapshot.inspections}
    ends = {end.rank: end for end in exits}
    found = {}
    for rank in range(world_size):
        end = ends.get(rank)
        if rank in inspections:
            inspection = inspections[rank]
            offsets = snapshot.clock_offsets
            offset = offsets[inspection.node] if inspection.node < len(offsets) else 0.0
            found[rank] = _standing(inspection, offset)
            exiting = not found[rank].known or found[rank].situation.activity is Activity.EXITING
            if exiting and end is not None and has_complained(end):
                calls, entered = found[rank].calls, found[rank].entered
                found[rank] = _exited(end, snapshot.when)._replace(calls=calls, entered=entered)
        elif end is not None and end.when <= snapshot.when + _LATE:
            found[rank] = _exited(end, snapshot.when)
        else:
            found[rank] = Standing(rank, Situation((rank,), Activity.NO_ANSWER), known=False)
    return found


_LATE = 0.5
"""Seconds after the time of a snapshot in which a rank that it lacks may have exited: agents take time to answer."""

_COMPLAINTS = ("timed out", "timeout", "connection closed by peer", "connection reset by peer", "broken pipe")


def has_complained(end: RankExit | None) -> bool:
    """Return whether a rank failed because it waited for others in vain."""
    if end is None or end.failure is None or end.ok:
        return False
    words = end.failure.summary.lower()
    return end.failure.kind in CASCADE or any(known in words for known in _COMPLAINTS)


def _exited(end: RankExit, when: float) -> Standing:
    ago = max(0.0, when - end.when)
    situation = Situation((end.rank,), Activity.EXITED, seconds=ago, code=end.code, signal=end.signal)
    return Standing(end.rank, situation, exit=end)


def _standing(inspection: Inspection, offset: float) -> Standing:
    situation = activity_of(inspection)
    threads = threads_of(inspection.stacks)
    op, thread = _called(threads)
    recorded = _recorded(inspection, offset)
    if recorded and op in (INIT, NEW_GROUP):
        recorded = ()
    waits = recorded or _from_stack(inspection, op, situation)
    calls = [collective_of(record, inspection.groups) for record in inspection.collectives if not record.p2p]
    # the numbers of other groups are not used: with gloo they may be filed under the name of another group
    entered = {_name(state.group, (state,)): state.enqueued for state in inspection.groups if _is_default(state)}
    for call in calls:
        entered[call.group] = max(call.seq, entered.get(call.group, 0))
    standing = Standing(
        inspection.rank,
        situation,
        waits,
        entered,
        {_name(state.group, inspection.groups): state.ranks for state in inspection.groups if state.ranks},
        {(call.group, call.seq): call for call in calls},
        tuple(frame for frame in reversed((thread or threads[0]).frames) if is_of_user(frame)) if threads else (),
        joined=bool(inspection.groups) and op != INIT,
        known=bool(threads or inspection.recorder or inspection.exiting)
        or situation.activity in (Activity.STOPPED, Activity.KERNEL),
    )
    if not standing.known:
        details = (*situation.details, "its Python stack could not be read")
        return standing._replace(situation=situation._replace(details=details))
    if not waits or (op == "" and situation.activity not in _VAGUE):
        return standing
    return standing._replace(situation=_in_call(inspection, situation, waits[0].collective, thread))


_VAGUE = frozenset(
    (Activity.UNKNOWN, Activity.SYSTEM_CALL, Activity.LOCK, Activity.COMPUTING, Activity.THREAD, Activity.COLLECTIVE)
)
"""What code in C++ looks like that waits for other ranks."""


def _in_call(inspection: Inspection, situation: Situation, call: Collective, thread: Thread | None) -> Situation:
    activity = {INIT: Activity.JOINING, NEW_GROUP: Activity.JOINING}.get(call.op, Activity.COLLECTIVE)
    if call.op.startswith(STORE):
        activity = Activity.STORE
    # the lock or socket that torch waits on tells nothing, except where it connects to
    details = (connecting.phase_in_words(inspection),) if call.op == INIT else ()
    found = situation._replace(activity=activity, collective=call, holder=0, held_by=None, details=details)
    found = found._replace(call="", target="")
    if thread is not None:
        found = found._replace(user=thread.user)
    return found._replace(inner=None)


def dtype_name(name: str) -> str:
    """Return the name of a type in Python: `float32` for `Float`."""
    return _DTYPES.get(name, name)


def collective_of(record: CollectiveRecord, groups: Sequence[GroupState]) -> Collective:
    """Return the call that a record is about."""
    dtypes = tuple(map(dtype_name, record.dtypes))
    return Collective(record.op, _name(record.group, groups), 0 if record.p2p else record.seq, record.sizes, dtypes)


def _name(group: str, groups: Sequence[GroupState]) -> str:
    """Return the name of a group, which is empty for the default one."""
    return "" if any(state.group == group and _is_default(state) for state in groups) or group == "0" else group


def _is_default(state: GroupState) -> bool:
    return state.description == "default_pg" or state.group == "0"


def _recorded(inspection: Inspection, offset: float) -> tuple[Wait, ...]:
    """Return the first collective of each group that has not ended, the one that was called last at the front."""
    first: dict[tuple[str, bool], CollectiveRecord] = {}
    for record in inspection.collectives:
        if record.done:
            continue
        first.setdefault((record.group, record.p2p), record)
    ordered = sorted(first.values(), key=lambda record: -record.created)
    groups = inspection.groups
    return tuple(
        Wait(collective_of(record, groups), record.created - offset if record.created else 0.0) for record in ordered
    )


def _called(threads: Sequence[Thread]) -> tuple[str, Thread | None]:
    """Return the call of torch.distributed that a thread is in, by its stack, and that thread."""
    for thread in threads:
        op = ""
        for frame in thread.frames:  # the outermost one, which the script has called
            op = _operation(frame) or op
        if op:
            return op, thread
    return "", None


def _operation(frame: Frame) -> str:
    if frame.file.endswith("torch/distributed/rendezvous.py"):
        return INIT
    if frame.file.endswith("torch/distributed/utils.py") and frame.function in _OF_DDP:
        return DDP
    if not frame.file.endswith("torch/distributed/distributed_c10d.py"):
        return ""
    if frame.function in ("_new_process_group_helper", "_store_based_barrier"):
        return INIT
    if frame.function in _JOINS:
        return NEW_GROUP
    return "" if frame.function.startswith("_") or frame.function in _NO_OPERATIONS else frame.function


def _from_stack(inspection: Inspection, op: str, situation: Situation) -> tuple[Wait, ...]:
    """Return what a rank waits in, where its flight recorder has nothing or there is none."""
    if op:
        return (Wait(Collective(op)),)
    names = [name.rpartition(".")[2] for name in inspection.waits]  # after `pytorch.wait_counter.`
    stored = [name for name in names if name.startswith(f"{STORE}__")]
    if stored and situation.activity in _VAGUE and situation.activity is not Activity.COMPUTING:
        return (Wait(Collective(stored[0].replace("__", "."))),)
    inner = situation.inner
    in_backward = inner is not None and inner.file.endswith("torch/autograd/graph.py")
    if in_backward and not inspection.recorder and not situation.uses_cpu:
        return (Wait(Collective(BACKWARD)),)
    return ()


def is_of_user(frame: Frame | None) -> bool:
    """Return whether a frame is of the user's own code."""
    return frame is not None and origin(frame.file) is Origin.USER
