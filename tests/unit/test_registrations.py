"""Ranks of external launchers are counted once, by node, and given up together."""

from __future__ import annotations

from muster.core.registrations import Registrations


def test_ranks_are_counted_once_and_by_node() -> None:
    """Where a launcher puts which rank is its affair; how many a node has is in the plan."""
    found = Registrations((0, 1, 2), {0: 2, 1: 1}, launchers=2)
    assert [True, True, True] == [found.awaits(), found.awaits(0), found.awaits(1)]
    for rank, node in ((2, 0), (2, 0), (0, 1)):
        found.register(rank, node)
    assert ({0, 2}, True, True, False) == (found.registered, found.awaits(), found.awaits(0), found.awaits(1))
    found.register(1, 0)
    assert not found.awaits() and not found.awaits(0)


def test_the_missing_are_given_up_once() -> None:
    found = Registrations((0, 1, 2), {0: 3}, launchers=1)
    found.register(1, 0)
    assert ([0, 2], [], False) == (found.give_up(), found.give_up(), found.awaits())
    found.register(0, 0)
    assert {1} == found.registered, "it was reported as failed"
    found.begin()
    assert found.awaits() and not found.registered


def test_how_launchers_exited_is_said_once_for_all() -> None:
    found = Registrations((0, 1), {0: 1, 1: 1}, launchers=2)
    found.launcher_exited(1, "exit status 1", ["no such option"])
    assert not found.all_launchers_exited
    found.launcher_exited(0, "exit status 1", ["killed"])
    assert found.all_launchers_exited
    assert ("exit status 1", ["no such option"]) == found.how_launchers_exited()
