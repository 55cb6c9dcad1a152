"""Verdicts on hangs: from what the ranks do to who keeps the others waiting."""

from __future__ import annotations

import json

from muster.core.inspection import CollectiveRecord, GroupState, Inspection, Snapshot, SnapshotReason, ThreadState
from muster.core.results import Failure, FailureKind, RankExit
from muster.core.verdict import Activity, Verdict, VerdictKind, verdict_as_json
from muster.diagnostics.hangs import verdict
from muster.ui.hang_text import evidence_in_words, verdict_in_words
from muster.ui.stacks_text import stacks_in_words

BEGAN = 1_000_000.0
WHEN = 100.0
LIBRARY = "/venv/lib/python3.11/site-packages"
C10D = f"{LIBRARY}/torch/distributed/distributed_c10d.py"

IN_ALL_REDUCE = (
    (f"{LIBRARY}/torch/distributed/c10d_logger.py", 83, "wrapper"),
    (C10D, 3000, "all_reduce"),
    ("/home/ann/train.py", 88, "main"),
    ("/home/ann/train.py", 99, "<module>"),
)
AT_LOADER = (
    ("/home/ann/data.py", 41, "load"),
    ("/home/ann/train.py", 80, "main"),
    ("/home/ann/train.py", 99, "<module>"),
)

Frames = tuple[tuple[str, int, str], ...]


def stack(*threads: Frames) -> str:
    """Return stacks as faulthandler writes them: the main thread is the first here, and written last."""
    blocks = []
    for number, frames in enumerate(threads):
        head = "Current thread" if number == 0 else "Thread"
        lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
        blocks.append("\n".join([f"{head} 0x00007f00000{number}0 (most recent call first):", *lines]))
    return "\n\n".join(reversed(blocks)) + "\n"


def call(
    seq: int, op: str = "all_reduce", sizes: tuple[tuple[int, ...], ...] = ((8,),), **more: object
) -> CollectiveRecord:
    fields: dict[str, object] = {
        "dtypes": ("Float",),
        "created": BEGAN + WHEN - 64 - 10 + seq / 10,
        "done": True,
        **more,
    }
    return CollectiveRecord("0", seq, op, sizes, **fields)  # type: ignore[arg-type]


def rank(
    number: int,
    last: CollectiveRecord | None,
    frames: Frames = IN_ALL_REDUCE,
    *others: Frames,
    main: ThreadState = ThreadState(1, state="S", call="futex"),
    node: int = 0,
    before: int = 3,
    **more: object,
) -> Inspection:
    """Return a rank after `before` collectives; it waits in `last` if there is one."""
    calls = tuple(call(seq) for seq in range(1, before + 1)) + ((last._replace(done=False),) if last else ())
    state = GroupState("0", "default_pg", last.seq if last else before, before)
    fields: dict[str, object] = {
        "recorder": True,
        "collectives": calls,
        "groups": (state,),
        "threads": (main,),
        "stacks": stack(frames, *others),
        "pid": 100 + number,
        **more,
    }
    return Inspection(number, node, **fields)  # type: ignore[arg-type]


def bare(number: int, frames: Frames, main: ThreadState = ThreadState(1, state="S", call="futex")) -> Inspection:
    """Return a rank without a flight recorder."""
    return Inspection(number, 0, pid=100 + number, stacks=stack(frames), threads=(main,))


def waiting(number: int, **more: object) -> Inspection:
    return rank(number, call(4, created=BEGAN + WHEN - 64), **more)  # type: ignore[arg-type]


def judged(
    *inspections: Inspection,
    exits: tuple[RankExit, ...] = (),
    size: int = 0,
    silent: tuple[int, ...] = (),
    reason: SnapshotReason = SnapshotReason.REQUEST,
) -> Verdict:
    return verdict(Snapshot(WHEN, reason, 0, inspections, silent), exits, size, BEGAN)


def test_a_rank_that_has_not_come() -> None:
    reads = ThreadState(1, state="S", call="read", target="pipe")
    found = judged(*(waiting(number) for number in range(3)), rank(3, None, AT_LOADER, main=reads))
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISSING, (3,), (0, 1, 2))
    assert verdict_in_words(found) == (
        "rank 3 has not entered all_reduce #4 (float32 [8], train.py:88); ranks 0-2 have waited there for 1m 4s. "
        "Rank 3 is in load (data.py:41), blocked in read() of a pipe."
    )
    assert evidence_in_words(found) == [
        "  rank 3     in load (data.py:41), blocked in read() of a pipe",
        "  ranks 0-2  waiting in all_reduce #4 (float32 [8]) for 1m 4s, in main (train.py:88)",
    ]


def test_the_last_steps_that_ranks_report_are_told() -> None:
    late = rank(2, None, AT_LOADER, step=790, steps=1000)
    told = verdict_in_words(judged(waiting(0, step=812, steps=1000), waiting(1, step=812, steps=1000), late))
    assert told.endswith("Last reported steps: rank 2 790, ranks 0-1 812."), told
    told = verdict_in_words(judged(waiting(0, step=812, steps=1000), waiting(1, step=811), rank(2, None, AT_LOADER)))
    assert told.endswith("The last reported step is 812/1000."), told
    many = [rank(number, None, AT_LOADER, step=10 * number) for number in range(1, 6)]
    assert "The last reported steps are 10 to 50." in verdict_in_words(judged(*many))


def test_ranks_whose_steps_advance_make_progress() -> None:
    """Also without a recorder of collectives."""
    before = [bare(number, AT_LOADER)._replace(step=10) for number in range(2)]
    after = [one._replace(step=11) for one in before]
    moments = [Snapshot(WHEN + at, SnapshotReason.REQUEST, 0, tuple(found)) for at, found in enumerate((before, after))]
    assert VerdictKind.PROGRESS is verdict(moments[1], earlier=moments[0]).kind
    half = moments[1]._replace(inspections=(after[0], before[1]))
    assert VerdictKind.PROGRESS is not verdict(half, earlier=moments[0]).kind


def test_hosts_are_named_if_there_are_several() -> None:
    hosts = {0: "n1", 1: "n1", 2: "n2", 3: "n2"}
    words = verdict_in_words(judged(*(waiting(number) for number in (0, 1, 2)), rank(3, None, AT_LOADER)), hosts)
    assert words.startswith("rank 3 on n2 has not entered all_reduce #4")
    assert "ranks 0-2 on n[1-2] have waited" in words


def test_a_wait_that_is_no_longer_than_usual_is_no_hang() -> None:
    short = [rank(number, call(4, created=BEGAN + WHEN - 0.4)) for number in range(3)]
    found = judged(*short, rank(3, None, AT_LOADER, main=ThreadState(1, state="S", call="clock_nanosleep")))
    assert (found.kind, found.odd) == (VerdictKind.PROGRESS, ())
    assert "Rank 3 is behind: in load (data.py:41), sleeping." in verdict_in_words(found)


def test_usual_is_what_the_collectives_before_have_shown() -> None:
    def slow(number: int, last: CollectiveRecord | None) -> Inspection:
        calls = tuple(call(seq, created=BEGAN + 5.0 * seq) for seq in range(1, 19))
        more = (last._replace(done=False),) if last else ()
        state = (GroupState("0", "default_pg", 19 if last else 18, 18),)
        return rank(number, last, AT_LOADER)._replace(collectives=calls + more, groups=state)

    last = call(19, created=BEGAN + 91)
    assert judged(slow(0, last), slow(1, None)).kind is VerdictKind.PROGRESS
    assert judged(slow(0, last._replace(created=BEGAN + 80)), slow(1, None)).odd == (1,)


def test_a_rank_that_has_exited_with_status_0() -> None:
    found = judged(*(waiting(number) for number in (0, 1, 3)), exits=(RankExit(2, 0, 40.0, 0),), size=4)
    assert (found.kind, found.odd) == (VerdictKind.EXITED, (2,))
    assert verdict_in_words(found) == (
        "rank 2 exited with status 0 1m ago; ranks 0-1,3 wait for it in all_reduce #4 (float32 [8], train.py:88)."
    )


def test_most_ranks_have_succeeded_and_one_calls_again() -> None:
    ends = tuple(RankExit(number, 0, 40.0, 0) for number in (0, 1, 3))
    found = judged(waiting(2), exits=ends, size=4)
    assert (found.kind, found.odd) == (VerdictKind.EXTRA_CALL, (2,))
    assert "rank 2 is in all_reduce #4 (float32 [8], train.py:88 in main), one call too many" in verdict_in_words(found)


def test_of_two_ranks_the_one_that_has_exited_is_named() -> None:
    found = judged(waiting(0), exits=(RankExit(1, 0, 40.0, 0),), size=2)
    assert (found.kind, found.odd) == (VerdictKind.EXITED, (1,))


def test_a_rank_on_a_host_that_does_not_answer() -> None:
    found = judged(*(waiting(number) for number in range(3)), size=4, silent=(1,))
    assert (found.kind, found.odd, found.silent) == (VerdictKind.SILENT, (3,), (1,))


def test_a_rank_that_did_not_answer_is_not_blamed() -> None:
    mute = Inspection(3, 0, pid=103, threads=(ThreadState(103, "rank 3", "S", "futex"),))
    found = judged(*(waiting(number) for number in range(3)), mute)
    assert (found.kind, found.odd) == (VerdictKind.UNKNOWN, ())


def test_a_rank_that_is_elsewhere_comes_before_one_that_does_not_answer() -> None:
    found = judged(waiting(0), waiting(1), rank(2, None, AT_LOADER), size=4, silent=(1,))
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (2,))


def test_different_shapes() -> None:
    other = rank(1, call(4, sizes=((16,),)))
    found = judged(waiting(0), other, waiting(2), waiting(3))
    assert (found.kind, found.odd) == (VerdictKind.MISMATCH, (1,))
    words = verdict_in_words(found)
    assert words == (
        "rank 1 is in all_reduce #4 (float32 [16], train.py:88 in main), but "
        "ranks 0,2-3 are in all_reduce #4 (float32 [8], train.py:88 in main). The tensors differ in shape."
    )


def test_different_types() -> None:
    found = judged(waiting(0), rank(1, call(4, dtypes=("Double",))), waiting(2))
    assert (found.kind, found.odd) == (VerdictKind.MISMATCH, (1,))
    assert "float64 [8]" in verdict_in_words(found)


AT_EXIT = (
    (f"{LIBRARY}/torch/library.py", 665, "_del_library"),
    ("/usr/lib/python3.11/weakref.py", 590, "__call__"),
    ("/usr/lib/python3.11/weakref.py", 666, "_exitfunc"),
)


def test_a_rank_that_exits() -> None:
    running = ThreadState(1, state="R")
    found = judged(waiting(0), rank(1, None, AT_EXIT, main=running), waiting(2))
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (1,))
    assert "Rank 1 is in _del_library (library.py:665), exiting." in verdict_in_words(found)
    no_frame = "Current thread 0x00007f00000000 (most recent call first):\n  <no Python frame>\n"
    late = Inspection(1, 0, pid=101, stacks=no_frame, threads=(running,))
    found = judged(waiting(0), late, waiting(2))
    assert "  rank 1     exiting" in evidence_in_words(found)
    assert "rank 1: no stack: exiting" in stacks_in_words(
        Snapshot(WHEN, SnapshotReason.STOP, 0, (late,)), found, {}, live=False
    )
    late = late._replace(stacks="", exiting=True)
    assert "  rank 1     exiting" in evidence_in_words(judged(waiting(0), late, waiting(2)))
    # it had lost a peer
    lost = RankExit(
        1, 0, WHEN + 0.2, 1, failure=Failure(FailureKind.PEER_LOST, WHEN, "RuntimeError: Connection closed")
    )
    found = judged(waiting(0), rank(1, None, AT_EXIT, main=running), waiting(2), exits=(lost,))
    assert Activity.EXITED in [one.activity for one in found.situations]


def test_a_function_of_the_users_that_runs_at_exit() -> None:
    saves = (("/home/ann/train.py", 30, "save"),)
    asleep = ThreadState(1, state="S", call="clock_nanosleep")
    assert "Rank 1 is in save (train.py:30), sleeping." in verdict_in_words(
        judged(waiting(0), rank(1, None, saves, main=asleep))
    )


TOO_MUCH = "what():  [enforce fail at pair.cc:456] op.preamble.length <= op.nbytes. 1000 vs 500."
ABORTED = Failure(FailureKind.MISMATCH, WHEN, TOO_MUCH)
LOST = Failure(FailureKind.PEER_LOST, WHEN, "RuntimeError: Read error: Connection reset by peer")


def out_of(number: int, last: CollectiveRecord) -> Inspection:
    """Return a rank whose collective has failed, and that runs its functions at exit."""
    seen = rank(number, last, (("/usr/lib/python3.11/weakref.py", 666, "_exitfunc"),))
    return seen._replace(collectives=(*seen.collectives[:-1], last))


def test_different_types_of_ranks_that_have_failed_by_it() -> None:
    """gloo aborts a rank that has received more than it expected; the others lose it."""
    ends = (RankExit(1, 0, WHEN, None, 6, failure=ABORTED), RankExit(2, 0, WHEN + 1, 1, failure=LOST))
    for third in (waiting(3), out_of(3, call(4))):
        found = judged(out_of(0, call(4)), out_of(2, call(4, dtypes=("Double",))), third, exits=ends, size=4)
        assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISMATCH, (2,), (0, 1, 3))
        words = verdict_in_words(found)
        assert words.startswith("rank 2 called all_reduce #4 (float64 [8]), but rank"), words
        assert "float32 [8]" in words
    # the one that was aborted is the only one that called with less
    found = judged(out_of(0, call(4)), out_of(2, call(4)), waiting(3), exits=ends[:1], size=4)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISMATCH, (1,), (0, 2, 3))
    assert verdict_in_words(found).startswith("rank 1 called another collective, but ranks 0,2")


def test_different_types_while_a_slow_rank_is_two_calls_behind() -> None:
    """The aborted rank is not taken for one that differs where the slow one is: all know that call to be alike."""
    ends = (RankExit(1, 0, WHEN, None, 6, failure=ABORTED),)
    double = out_of(2, call(4, dtypes=("Double",)))
    found = judged(out_of(0, call(4)), double, rank(3, call(2)), exits=ends, size=4)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISMATCH, (2,), (0, 1))
    # with two on each side nobody can say which of them is wrong
    found = judged(out_of(0, call(4)), double, out_of(3, call(4, dtypes=("Double",))), exits=ends, size=4)
    assert (found.kind, found.odd) == (VerdictKind.MISMATCH, ())
    # three that are not there yet may be of either side
    found = judged(out_of(0, call(4)), double, *(rank(number, call(2)) for number in (3, 4, 5)), exits=ends, size=6)
    assert (found.kind, found.odd) == (VerdictKind.MISMATCH, ())


def test_of_two_ranks_that_differ_none_is_blamed() -> None:
    found = judged(waiting(0), rank(1, call(4, "barrier", (), dtypes=())))
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISMATCH, (), (0, 1))
    words = verdict_in_words(found)
    assert "rank 0 is in all_reduce #4" in words
    assert "rank 1 is in barrier #4" in words


def test_gathered_sizes_may_differ() -> None:
    several = [rank(number, call(4, "gather", ((number,),))) for number in range(3)]
    assert judged(*several).kind is VerdictKind.COMPLETE


def test_a_rank_that_has_left_its_loop() -> None:
    in_save = (
        (C10D, 5300, "barrier"),
        ("/home/ann/train.py", 20, "save"),
        ("/home/ann/train.py", 93, "main"),
        ("/home/ann/train.py", 99, "<module>"),
    )
    found = judged(*(waiting(number) for number in range(3)), rank(3, call(4, "barrier", (), dtypes=()), in_save))
    assert (found.kind, found.odd) == (VerdictKind.UNEVEN, (3,))
    assert "barrier #4 (train.py:20 in save)" in verdict_in_words(found)


def test_one_call_too_many() -> None:
    at = ((C10D, 5300, "barrier"), ("/home/ann/train.py", 93, "main"))
    others = [rank(number, call(4, "barrier", (), dtypes=()), at) for number in (0, 1, 3)]
    found = judged(*others, waiting(2))
    assert (found.kind, found.odd) == (VerdictKind.EXTRA_CALL, (2,))


def test_ranks_wait_for_each_other_in_two_groups() -> None:
    def of_group(number: int, name: str) -> Inspection:
        groups = tuple(GroupState(group, "", int(group == name), 0, (0, 1, 2, 3)) for group in ("1", "2"))
        last = call(1, created=BEGAN + WHEN - 64)._replace(group=name, done=False)
        return rank(number, None)._replace(collectives=(last,), groups=(*rank(number, None).groups, *groups))

    found = judged(*(of_group(number, "1") for number in range(3)), of_group(3, "2"))
    assert (found.kind, found.odd) == (VerdictKind.CYCLE, (3,))
    even = judged(of_group(0, "1"), of_group(1, "1"), of_group(2, "2"), of_group(3, "2"))
    assert (even.kind, even.odd) == (VerdictKind.CYCLE, ())
    assert "process group 1" in verdict_in_words(even)


def test_only_the_members_of_a_group_are_waited_for() -> None:
    groups = (GroupState("0", "default_pg", 3, 3), GroupState("1", "", 1, 0, (0, 1)))
    last = call(1, created=BEGAN + WHEN - 64)._replace(group="1", done=False)
    one = rank(0, None)._replace(collectives=(last,), groups=groups)
    other = rank(1, None, AT_LOADER)._replace(groups=(groups[0], GroupState("1", "", 0, 0, (0, 1))))
    found = judged(one, other, rank(2, None, AT_LOADER), rank(3, None, AT_LOADER))
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (1,))


def test_who_waits_for_a_rank_that_waits_is_not_blamed() -> None:
    """Ranks 2 and 3 wait in the default group for 0 and 1; rank 0 waits in a group for 1, which reads."""
    groups = (GroupState("0", "default_pg", 3, 3), GroupState("1", "", 1, 0, (0, 1)))
    last = call(1, created=BEGAN + WHEN - 64)._replace(group="1", done=False)
    one = rank(0, None)._replace(collectives=(last,), groups=groups)
    other = rank(1, None, AT_LOADER)._replace(groups=(groups[0], GroupState("1", "", 0, 0, (0, 1))))
    found = judged(one, other, waiting(2), waiting(3))
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (1,))


def test_all_are_in_the_same_collective() -> None:
    found = judged(*(waiting(number) for number in range(4)))
    assert (found.kind, found.odd) == (VerdictKind.COMPLETE, ())


def test_a_stopped_rank() -> None:
    stopped = Inspection(3, 0, pid=103, threads=(ThreadState(103, "rank 3", "T"),))
    found = judged(*(waiting(number) for number in range(3)), stopped)
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (3,))
    assert "Rank 3 is stopped by a signal (SIGSTOP)." in verdict_in_words(found)


def test_without_a_recorder() -> None:
    found = judged(*(bare(number, IN_ALL_REDUCE) for number in range(3)), bare(3, AT_LOADER))
    assert (found.kind, found.odd) == (VerdictKind.MISSING, (3,))
    assert verdict_in_words(found).startswith("rank 3 has not entered all_reduce (train.py:88); ranks 0-2 wait there.")


def test_without_a_recorder_ranks_in_different_calls() -> None:
    in_save = ((C10D, 5300, "barrier"), ("/home/ann/train.py", 20, "save"))
    found = judged(*(bare(number, IN_ALL_REDUCE) for number in range(3)), bare(3, in_save))
    assert (found.kind, found.odd) == (VerdictKind.MISMATCH, (3,))
    even = judged(bare(0, IN_ALL_REDUCE), bare(1, in_save))
    assert (even.kind, even.odd) == (VerdictKind.MISMATCH, ())


def test_ranks_without_torch() -> None:
    asleep = ThreadState(1, state="S", call="clock_nanosleep")
    found = judged(*(Inspection(number, 0, pid=1, threads=(asleep,)) for number in range(2)))
    assert (found.kind, found.odd) == (VerdictKind.NO_WAIT, ())


def test_ranks_that_failed_because_they_waited_in_vain() -> None:
    late = Failure(FailureKind.PEER_LOST, 90.0, "DistStoreError: Timed out after 6 seconds waiting for clients.")
    ends = tuple(RankExit(number, 0, 90.0, 1, failure=late) for number in (0, 2, 3))
    sleeping = bare(1, AT_LOADER, ThreadState(1, state="S", call="clock_nanosleep"))
    found = judged(sleeping, exits=ends, size=4, reason=SnapshotReason.FAILURE)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISSING, (1,), (0, 2, 3))
    assert "Rank 1 is in load (data.py:41), sleeping." in verdict_in_words(found)


def test_a_complaint_is_told_by_its_kind_not_by_its_words() -> None:
    kind, words = FailureKind.TIMED_OUT, "RuntimeError: [Rank 0]: Rank 2 failed to pass monitoredBarrier in 5000 ms"
    ends = tuple(RankExit(number, 0, 90.0, 1, failure=Failure(kind, 90.0, words)) for number in (0, 1, 3))
    sleeping = bare(2, AT_LOADER, ThreadState(1, state="S", call="clock_nanosleep"))
    found = judged(sleeping, exits=ends, size=4, reason=SnapshotReason.FAILURE)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISSING, (2,), (0, 1, 3))


def test_a_rank_that_is_about_to_fail_is_not_blamed() -> None:
    """It writes its traceback, and answers nothing."""
    late = Failure(FailureKind.PEER_LOST, 99.9, "DistStoreError: wait timeout after 5000ms, keys: /default_pg/0//cpu")
    ends = (
        RankExit(0, 0, 99.9, 1, failure=late),
        RankExit(2, 0, 100.9, 1, failure=late),
        RankExit(1, 0, 101.0, None, 15),
    )
    sleeping = bare(1, AT_LOADER, ThreadState(1, state="S", call="clock_nanosleep"))
    dying = Inspection(2, 0, pid=102, threads=(ThreadState(102, "rank 2", "R"),))
    unknown = dying._replace(rank=3)
    found = judged(sleeping, dying, unknown, exits=ends, size=4, reason=SnapshotReason.FAILURE)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.MISSING, (1,), (0, 2))


def test_a_rank_that_left_and_others_that_failed_at_once() -> None:
    lost = Failure(FailureKind.PEER_LOST, 99.9, "RuntimeError: Connection closed by peer")
    ends = (RankExit(0, 0, 99.9, 1, failure=lost), RankExit(2, 0, 99.8, 0))
    young = [rank(number, call(4, created=BEGAN + WHEN - 0.2)) for number in (1, 3)]
    found = judged(*young, exits=ends, size=4, reason=SnapshotReason.FAILURE)
    assert (found.kind, found.odd) == (VerdictKind.EXITED, (2,))


def test_a_lock_that_another_thread_holds() -> None:
    flush = (("/home/ann/train.py", 28, "flush"), ("/home/ann/train.py", 80, "main"))
    writer = (("/home/ann/train.py", 22, "writer"), ("/usr/lib/python3.11/threading.py", 982, "run"))
    found = judged(waiting(0), waiting(1), rank(2, None, flush, writer))
    assert found.situations[0].activity is Activity.LOCK
    assert "waiting for a lock while another of its threads is in writer (train.py:22)" in verdict_in_words(found)


def test_a_file_lock_that_another_process_holds() -> None:
    lock = ThreadState(1, state="S", call="flock", target="/data/index.lock", holder=4711)
    words = verdict_in_words(judged(waiting(0), waiting(1), rank(2, None, AT_LOADER, main=lock)))
    assert "waiting for the lock of /data/index.lock, held by process 4711" in words


def test_a_file_lock_of_a_rank_that_waits() -> None:
    """Rank 0 holds the lock and waits in the collective; the others wait for the lock."""
    lock = ThreadState(1, state="S", call="flock", target="/data/index.lock", holder=100)
    found = judged(waiting(0), *(rank(number, None, AT_LOADER, main=lock) for number in (1, 2, 3)))
    assert (found.kind, found.odd) == (VerdictKind.CYCLE, (0,))


def test_a_data_loader_whose_worker_has_died() -> None:
    frames = (
        ("/usr/lib/python3.11/selectors.py", 415, "select"),
        ("/usr/lib/python3.11/multiprocessing/connection.py", 930, "wait"),
        ("/usr/lib/python3.11/multiprocessing/queues.py", 113, "get"),
        (f"{LIBRARY}/torch/utils/data/dataloader.py", 1251, "_try_get_data"),
        (f"{LIBRARY}/torch/utils/data/dataloader.py", 1400, "_get_data"),
        ("/home/ann/train.py", 80, "main"),
    )
    poll = ThreadState(1, state="S", call="poll")
    died = (ThreadState(555, "pt_data_worker", "Z"),)
    words = verdict_in_words(judged(waiting(0), waiting(1), rank(2, None, frames, main=poll, children=died)))
    assert "Rank 2 is in main (train.py:80), waiting for a batch of its DataLoader" in words
    assert "DataLoader worker 555 has exited" in words


def test_an_import() -> None:
    frames = (
        ("/usr/lib/python3.11/socket.py", 1, "recv"),
        ("/home/ann/telemetry.py", 5, "<module>"),
        ("<frozen importlib._bootstrap>", 241, "_call_with_frames_removed"),
        ("<frozen importlib._bootstrap>", 1027, "_find_and_load"),
        ("/home/ann/train.py", 39, "main"),
    )
    call_ = ThreadState(1, state="S", call="recvfrom", target="socket 10.1.1.1:443")
    words = verdict_in_words(judged(waiting(0), waiting(1), rank(2, None, frames, main=call_)))
    assert "importing telemetry" in words
    assert "blocked in recvfrom() of a socket 10.1.1.1:443" in words


def joining(number: int, inner: tuple[str, int, str], target: str = "", **env: str) -> Inspection:
    frames = (inner, (C10D, 1899, "init_process_group"), ("/home/ann/train.py", 37, "main"))
    main = ThreadState(1, state="S", call="poll" if target else "clock_nanosleep", target=target)
    return bare(number, frames, main)._replace(env=tuple(sorted(env.items())))


CONNECTS = (f"{LIBRARY}/torch/distributed/rendezvous.py", 190, "_create_c10d_store")
MISSES_KEYS = (C10D, 2169, "_new_process_group_helper")


def test_a_rank_with_another_address_of_the_store() -> None:
    others = [
        joining(number, MISSES_KEYS, "socket 10.0.0.1:29500", MASTER_ADDR="10.0.0.1", MASTER_PORT="29500")
        for number in range(3)
    ]
    odd = joining(3, CONNECTS, MASTER_ADDR="10.255.255.1", MASTER_PORT="29500")
    found = judged(*others, odd)
    assert (found.kind, found.odd, found.waiting) == (VerdictKind.NOT_CONNECTED, (3,), (0, 1, 2))
    assert verdict_in_words(found) == (
        "rank 3 cannot complete init_process_group (train.py:37): connecting to the store at 10.255.255.1:29500 "
        "(MASTER_ADDR, MASTER_PORT); ranks 0-2 have got further. "
        "Its MASTER_ADDR is 10.255.255.1; that of the others is 10.0.0.1."
    )


def test_a_rank_that_has_the_number_of_another() -> None:
    names = ["0", "1", "1", "3"]
    found = judged(
        *(joining(number, MISSES_KEYS, "socket 10.0.0.1:29500", RANK=name) for number, name in enumerate(names))
    )
    assert (found.kind, found.odd) == (VerdictKind.NOT_CONNECTED, (2,))
    words = verdict_in_words(found)
    assert words.startswith("rank 2 cannot complete init_process_group (train.py:37): connected to the store")
    assert words.endswith("are missing. RANK of rank 2 is 1.")


def test_no_rank_reaches_the_store() -> None:
    found = judged(*(joining(number, CONNECTS, MASTER_ADDR="n9", MASTER_PORT="1") for number in range(3)))
    assert (found.kind, found.odd) == (VerdictKind.NOT_CONNECTED, ())
    assert "connecting to the store at n9:1 (MASTER_ADDR, MASTER_PORT)" in verdict_in_words(found)


def test_a_rank_with_another_number_of_ranks() -> None:
    ranks = [joining(number, MISSES_KEYS, "socket n1:1", WORLD_SIZE="8" if number == 1 else "4") for number in range(4)]
    found = judged(*ranks)
    assert (found.kind, found.odd) == (VerdictKind.NOT_CONNECTED, (1,))
    assert "Its WORLD_SIZE is 8; that of the others is 4." in verdict_in_words(found)


def test_as_json() -> None:
    told = verdict_as_json(judged(*(waiting(number) for number in range(3)), rank(3, None, AT_LOADER)))
    assert json.loads(json.dumps(told)) == told
    assert (told["kind"], told["odd"], told["waiting"]) == ("missing", [3], [0, 1, 2])
