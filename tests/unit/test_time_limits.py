"""`--time`: the same texts on the command line, in muster.toml and from Python, with every scheduler."""

from __future__ import annotations

import pytest
from scheduler_samples import given

from muster.config.options import RUN, RunOptions
from muster.config.parse import from_table, parse
from muster.config.values import time_limit
from muster.errors import InvalidRequest
from muster.schedulers import SCHEDULERS, get_scheduler
from muster.schedulers.scheduler import Allocation, Wish

WISH = Wish("train", 2, "8", None, None, run_dir="/runs/x")


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        # as Slurm itself reads them
        *((text, text) for text in ("90", "2:30", "4:00:00", "1-12", "1-12:00:00", "0", "UNLIMITED", "infinite", "-1")),
        # durations with units, as in all other options
        *(("4h", "04:00:00"), ("90m", "01:30:00"), ("1h30m", "01:30:00"), ("1d12h", "36:00:00"), ("30s", "00:00:30")),
        *(("1.5h", "01:30:00"), ("0.5s", "00:00:01")),
    ],
)
def test_what_is_accepted(typed: str, passed: str) -> None:
    assert passed == time_limit(typed)
    assert {"time": passed} == parse(["--time", typed], RUN).options
    assert {"time": passed} == from_table(RUN, {"time": typed}, "[run]")


@pytest.mark.parametrize(
    "typed", ["soon", "", "4 h", "1.5", "0h", "1:2:3:4", "1-2-3", "-5", "4:00:00h", "h", "99999d", "٣", "1e3"]
)
def test_what_is_not_gets_one_error(typed: str) -> None:
    words = r"invalid value for --time: '.*' \(expected (a time limit|at most)"
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse(["--time", typed], RUN)
    assert "--time TIME: time limit of the job" == caught.value.hint


@pytest.mark.parametrize(
    ("scheduler", "word"),
    [
        ("slurm", ("time", "04:00:00")),
        ("sge", ("l", "h_rt=04:00:00")),
        ("pbs", ("l", "walltime=04:00:00")),
        ("lsf", ("W", "4:00")),
        ("flux", ("time-limit", "14400s")),
    ],
)
def test_each_scheduler_gets_it_in_its_own_form(scheduler: str, word: tuple[str, str]) -> None:
    options = given(time=time_limit("4h"))
    assert word in get_scheduler(scheduler).request(WISH, options).options
    terms = get_scheduler(scheduler).terms(options)
    assert 120.0 == terms.before


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "slurm"])
def test_other_schedulers_have_no_word_for_no_limit(scheduler: str) -> None:
    with pytest.raises(InvalidRequest, match="--time UNLIMITED: not a length of time"):
        get_scheduler(scheduler).request(WISH, given(time="UNLIMITED"))
    request = get_scheduler(scheduler).request(WISH, given(time="0"))
    assert request == get_scheduler(scheduler).request(WISH, RunOptions())


def test_grid_engine_takes_one_of_two_limits() -> None:
    with pytest.raises(InvalidRequest, match="--time cannot be combined with --resource h_rt=…"):
        get_scheduler("sge").request(WISH, given(time="4:00:00", resource=("gpu=1,h_rt=60",)))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_job_that_exists_has_its_limit(scheduler: str) -> None:
    with pytest.raises(InvalidRequest, match="--time: not available inside job 7") as caught:
        get_scheduler(scheduler).check_inside(Allocation("7", ("n1",), 0), given(time="4:00:00"))
    assert "leave it out; to limit the duration of the run, use `--timeout 1h`" == caught.value.hint
    get_scheduler(scheduler).check_inside(Allocation("7", ("n1",), 0), given(**{scheduler: True}))
