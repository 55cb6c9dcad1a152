"""A controller that is cut at any system call that changes a file: the next one goes on from what is on the disk."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from cutting import POSSIBLE, How, cuts, run_cut
from test_detached_controller import Controller

from muster.rundir.run import Run

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="system calls are counted on x86-64 only")


def run_to_its_end(folder: Path) -> None:
    """A controller from its start to the result in outcome.json."""
    controller = Controller(folder)
    controller.running()
    end(controller)
    controller.close()


def end(controller: Controller) -> None:
    """The agents report that all ranks succeeded, and the controller writes the result."""
    for node, agent in enumerate(controller.agents):
        agent.say("rank_exited", attempt=0, rank=node, code=0, signal=None)
    controller.hears((0, "clean_up", {}), (1, "clean_up", {}))
    for agent in controller.agents:
        agent.say("cleaned_up", ended=[], left=[])
    outcome = controller.loop.until(lambda: controller.served.outcome, "a result")
    written = {"state": str(outcome.state), "code": outcome.code, "duration": outcome.duration}
    controller.served.scribe.do(partial(controller.run.write_outcome, written))


def test_a_controller_goes_on_wherever_the_last_one_was_cut(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    every = cuts(partial(run_to_its_end, folder), str(folder))
    assert len(every) > 20
    if os.environ.get("MUSTER_FUZZ") != "long":
        every = every[::3]
    for at, how in every:
        shutil.rmtree(folder)
        folder.mkdir()
        ended = run_cut(partial(run_to_its_end, folder), str(folder), at, how)
        assert ended.status in ((0, 1) if how is How.FULL else (-9,)), f"{at} {how}: {ended}"
        before = Run(folder).events()
        for restart in (1, 2):
            controller = Controller(folder)
            records = controller.served.records
            controller.close()
            kept = controller.run.events()
            assert kept[: len(before)] == before, f"{at} {how}: {ended}: restart {restart}"
            assert len(kept) == len(records), "each line is complete"
            before = kept
