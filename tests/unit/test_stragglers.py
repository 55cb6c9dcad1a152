"""Slow ranks, found in the times at which ranks called their collectives; from invented and from recorded times."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from muster.core.inspection import CollectiveTimes
from muster.core.pace import Cause, CauseKind, Clock, NothingSaid, Pace, Pressure
from muster.diagnostics.stragglers import FEWEST, FIRST, causes_of, find_slow

Delay = Callable[[int, int], float]
"""By rank and number of the collective: how many seconds later than the others the rank arrives."""


def training(
    ranks: int,
    delay: Delay = lambda rank, seq: 0.0,
    steps: int = 500,
    step: float = 0.1,
    clocks: Mapping[int, float] | None = None,
    per_node: int = 2,
    jitter: float = 0.0003,
    group: str = "0",
) -> list[CollectiveTimes]:
    """Return the times of a training in which all ranks go on together after each collective."""
    noise, now = random.Random(1), 1_800_000_000.0
    created: dict[int, list[float]] = {rank: [] for rank in range(ranks)}
    for seq in range(1, steps + 1):
        arrivals = [now + step + abs(noise.gauss(0, jitter)) + delay(rank, seq) for rank in range(ranks)]
        for rank, when in enumerate(arrivals):
            created[rank].append(when + (clocks or {}).get(rank // per_node, 0.0))
        now = max(arrivals)
    return [CollectiveTimes(rank, group, tuple(range(1, steps + 1)), tuple(created[rank])) for rank in created]


def nodes(ranks: int, per_node: int = 2) -> dict[int, int]:
    return {rank: rank // per_node for rank in range(ranks)}


def only(slow: int, seconds: float) -> Delay:
    return lambda rank, seq: seconds if rank == slow else 0.0


def test_a_rank_that_is_always_late_is_named() -> None:
    pace = find_slow(training(8, only(6, 0.041)), nodes(8))
    assert [(6,)] == [slow.ranks for slow in pace.slow]
    assert 3 == pace.slow[0].node
    assert pace.slow[0].last > 0.99
    assert pace.slow[0].behind == pytest.approx(0.041, abs=0.001)
    assert pace.lost == pytest.approx(0.041 / 0.141, abs=0.02)
    assert 500 - FIRST == pace.collectives


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ranks_of_equal_pace_give_no_alarm(ranks: int) -> None:
    pace = find_slow(training(ranks), nodes(ranks))
    assert (pace.slow, pace.nothing) == ((), None)


def test_noise_gives_no_alarm() -> None:
    """Each rank is late now and then, by much."""
    noise = random.Random(2)
    pace = find_slow(training(4, lambda rank, seq: noise.expovariate(1 / 0.02)), nodes(4))
    assert pace.slow == ()


def test_a_rank_that_saves_now_and_then_is_not_slow() -> None:
    pace = find_slow(training(4, lambda rank, seq: 2.0 if rank == 0 and seq % 50 == 0 else 0.0), nodes(4))
    assert pace.slow == ()


def test_a_rank_that_is_late_by_little_is_not_reported() -> None:
    """By 2 ms in steps of 100 ms, in every step."""
    pace = find_slow(training(4, only(1, 0.002)), nodes(4))
    assert pace.slow == ()
    assert pace.lost < 0.05


def test_the_same_in_short_steps_is() -> None:
    pace = find_slow(training(4, only(1, 0.002), step=0.01, jitter=0.0001), nodes(4))
    assert [(1,)] == [slow.ranks for slow in pace.slow]


def test_of_two_ranks_the_late_one_is_slow() -> None:
    pace = find_slow(training(2, only(0, 0.03)), {0: 0, 1: 0})
    assert [(0,)] == [slow.ranks for slow in pace.slow]
    assert pace.slow[0].behind == pytest.approx(0.03, abs=0.001)


def test_all_ranks_of_a_slow_node_are_named_together() -> None:
    """They arrive last in turn, so none of them alone is often the last."""
    noise = random.Random(3)
    pace = find_slow(training(8, lambda rank, seq: noise.uniform(0.03, 0.05) if rank in (4, 5) else 0.0), nodes(8))
    assert [((4, 5), 2)] == [(slow.ranks, slow.node) for slow in pace.slow]
    assert pace.slow[0].last > 0.99


def test_slow_ranks_of_two_nodes_come_slowest_first() -> None:
    pace = find_slow(training(8, lambda rank, seq: {2: 0.02, 7: 0.06}.get(rank, 0.0)), nodes(8))
    assert [(7,), (2,)] == [slow.ranks for slow in pace.slow]


def test_clocks_are_compared() -> None:
    """Node 1 is ahead by 80 ms, so its ranks only seem to be late."""
    times = training(4, clocks={1: 0.08})
    assert [(2, 3)] == [slow.ranks for slow in find_slow(times, nodes(4)).slow]
    assert find_slow(times, nodes(4), {1: Clock(0.08, 0.001)}).slow == ()


def test_a_difference_within_the_error_of_the_clocks_is_not_reported() -> None:
    times = training(4, clocks={1: 0.08})
    assert find_slow(times, nodes(4), {0: Clock(0, 0.03), 1: Clock(0.02, 0.04)}).slow == ()


def test_that_error_does_not_hide_a_slow_rank_among_those_of_its_own_node() -> None:
    times = training(4, only(3, 0.03), per_node=4)
    assert [(3,)] == [slow.ranks for slow in find_slow(times, nodes(4, 4), {0: Clock(0.0, 5.0)}).slow]


def test_a_slow_rank_behind_a_clock_that_is_wrong() -> None:
    times = training(6, only(4, 0.04), clocks={1: -3.0, 2: 7200.0})
    pace = find_slow(times, nodes(6), {1: Clock(-3.0, 0.0005), 2: Clock(7200.0, 0.0005)})
    assert [(4,)] == [slow.ranks for slow in pace.slow]
    assert pace.slow[0].behind == pytest.approx(0.04, abs=0.002)


def test_the_start_does_not_count() -> None:
    """Ranks load their data for different times, and then go on together."""
    pace = find_slow(training(4, lambda rank, seq: 30.0 if rank == 2 and seq <= FIRST else 0.0), nodes(4))
    assert pace.slow == ()
    assert pace.lost < 0.05


def test_few_collectives_say_nothing() -> None:
    pace = find_slow(training(4, only(1, 1.0), steps=FIRST + FEWEST - 1), nodes(4))
    assert Pace("0", FEWEST - 1, 4, nothing=NothingSaid.FEW) == pace


def test_no_records_say_nothing() -> None:
    assert Pace(nothing=NothingSaid.NO_RECORDS) == find_slow([], {})
    assert Pace(nothing=NothingSaid.NO_RECORDS) == find_slow(training(1), nodes(1))


def test_only_collectives_that_all_ranks_still_know_are_compared() -> None:
    """The ranks are asked one after another, while they go on."""
    times = [
        told._replace(seqs=told.seqs[rank * 7 :], created=told.created[rank * 7 :])
        for rank, told in enumerate(training(4, only(1, 0.03)))
    ]
    pace = find_slow(times, nodes(4))
    assert (500 - 21, [(1,)]) == (pace.collectives, [slow.ranks for slow in pace.slow])


def test_the_group_in_which_time_is_lost_counts() -> None:
    times = training(4) + training(2, only(1, 0.05), group="7")
    pace = find_slow(times, nodes(4))
    assert ("7", [(1,)]) == (pace.group, [slow.ranks for slow in pace.slow])


def test_buckets_of_one_step_do_not_count_twice() -> None:
    """The gradients of a step are reduced in five pieces, one right after another: the others wait once."""
    created: dict[int, list[float]] = {0: [], 1: []}
    for step in range(100):
        for rank in created:
            created[rank] += [step * 0.1 + 0.001 * bucket + 0.03 * rank for bucket in range(5)]
    times = [CollectiveTimes(rank, "0", tuple(range(1, 501)), tuple(found)) for rank, found in created.items()]
    pace = find_slow(times, {0: 0, 1: 0})
    assert [(1,)] == [slow.ranks for slow in pace.slow]
    assert pace.lost == pytest.approx(0.34, abs=0.02)


CALM = Pressure(waited=0.02)


@pytest.mark.parametrize(
    "pressure, found",
    [
        (Pressure(), ()),
        (Pressure(waited=0.48), (Cause(CauseKind.WAITED, 0.48),)),
        (Pressure(throttled=0.3, waited=0.3), (Cause(CauseKind.THROTTLED, 0.3), Cause(CauseKind.WAITED, 0.3))),
        (Pressure(stolen=0.2), (Cause(CauseKind.STOLEN, 0.2),)),
        (Pressure(faults=400.0), (Cause(CauseKind.FAULTS, 400.0),)),
    ],
)
def test_a_pressure_that_only_the_slow_rank_has_is_its_cause(pressure: Pressure, found: tuple[Cause, ...]) -> None:
    assert found == causes_of((1,), {0: CALM, 1: pressure, 2: CALM}, (1,))


def test_what_all_ranks_have_explains_nothing() -> None:
    busy = Pressure(waited=0.4)
    assert () == causes_of((1,), dict.fromkeys(range(4), busy), (1,))


def test_without_an_answer_there_is_no_cause() -> None:
    assert () == causes_of((1,), {0: CALM}, (1,))
