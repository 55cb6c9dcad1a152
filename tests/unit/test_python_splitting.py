"""Keywords of `muster.run`: which are options, which are arguments of the function, and what is an error."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.errors import InvalidRequest
from muster.python.executor import Executor
from muster.python.splitting import OPTIONS, Split, split


def train(lr: float, name: str = "", timeout: float = 1.0) -> float:
    return lr


def anything(**keywords: Any) -> dict[str, Any]:
    return keywords


def test_keywords_that_are_options_are_options_and_others_are_arguments() -> None:
    found = split(train, [0.1], {"nproc_per_node": 4, "hosts": "n[1-2]", "show_output": False})
    assert found == Split((0.1,), {}, {"nproc_per_node": 4, "hosts": "n[1-2]"}, False)
    assert split(train, [], {"lr": 0.1, "grace": "5s"}).kwargs == {"lr": 0.1}


def test_an_option_that_is_none_counts_as_not_given() -> None:
    assert split(train, [1], {"hosts": None}).options == {}


def test_a_keyword_that_is_both_is_refused_with_three_ways_out() -> None:
    with pytest.raises(InvalidRequest, match="name= is ambiguous") as refused:
        split(train, [0.1], {"name": "resnet"})
    assert "functools.partial(train, name=…)" in str(refused.value)
    assert "kwargs={'name': …}" in str(refused.value)


def test_the_ways_out_work() -> None:
    assert split(functools.partial(train, name="resnet"), [0.1], {"name": "run-1"}).options == {"name": "run-1"}
    found = split(train, [], {"args": [0.1], "kwargs": {"name": "resnet"}, "name": "run-1"})
    assert found == Split((0.1,), {"name": "resnet"}, {"name": "run-1"}, None)
    assert split(train, [], {"kwargs": {"lr": 1, "timeout": 3.0}}).kwargs == {"lr": 1, "timeout": 3.0}


def test_any_keyword_reaches_a_function_with_any_keywords_unless_it_is_an_option() -> None:
    found = split(anything, [], {"width": 3, "name": "x"})
    assert (found.kwargs, found.options) == ({"width": 3}, {"name": "x"})


def test_a_mistyped_option_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"unexpected keyword argument 'nproc_per_nod'") as refused:
        split(train, [0.1], {"nproc_per_nod": 4})
    assert refused.value.hint == "did you mean `nproc_per_node`?"
    with pytest.raises(InvalidRequest, match="unknown option: host_s") as refused:
        split(train, [], {"args": [1], "host_s": "n1"})
    assert refused.value.hint == "did you mean `hosts`?"


def test_a_call_that_would_fail_on_each_rank_fails_here() -> None:
    with pytest.raises(InvalidRequest, match=r"cannot call train.*missing a required argument: 'lr'"):
        split(train, [], {})


def generates() -> Iterator[int]:
    yield 1


async def waits() -> None:
    pass


@pytest.mark.parametrize(("function", "words"), [(generates, "generator"), (waits, "coroutine function")])
def test_functions_whose_results_cannot_be_sent_are_refused(function: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        split(function, [], {})
    with pytest.raises(InvalidRequest, match=words):
        split(functools.partial(function), [], {})


def test_arguments_of_a_script_are_strings_and_its_keywords_options() -> None:
    assert split("train.py", ["--lr", 0.1], {"np": 2}) == Split(("--lr", "0.1"), {}, {"np": 2}, None)
    assert split(Path("train.py"), [], {}).args == ()
    with pytest.raises(InvalidRequest, match="unknown option: lr") as refused:
        split("train.py", [], {"lr": 0.1})
    assert refused.value.hint == 'pass arguments of a script as strings: muster.run("train.py", "--lr", "0.1")'
    with pytest.raises(InvalidRequest, match="for functions, not for scripts"):
        split("train.py", [], {"args": ["--lr"]})
    with pytest.raises(InvalidRequest, match="not a function or the path of a script: int"):
        split(3, [], {})


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("env", {"A": "1", "B": "x y"}, ["A=1", "B=x y"]),
        ("hosts", ["n1", "n2"], "n1,n2"),
        ("ranks", range(3), "0,1,2"),
        ("python", Path("/opt/python"), "/opt/python"),
        ("setup", ["module load a", "module load b"], ["module load a", "module load b"]),
        ("grace", 2.5, 2.5),
        ("sync", True, True),
    ],
)
def test_values_may_have_pythons_own_types(key: str, value: object, found: object) -> None:
    assert split(anything, [], {key: value}).options == {key: found}


def test_the_signature_at_run_time_names_every_option() -> None:
    import muster

    for call in (muster.run, muster.submit):
        names = list(inspect.signature(call).parameters)
        assert names[:5] == ["program", "arguments", "args", "kwargs", "show_output"]
        assert {*OPTIONS} <= {*names}
        assert {"nproc_per_node", "slurm", "time", "hosts", "detach"} <= {*names}
        assert not {"json", "tty", "help", "rdzv_id"} & {*names}


def test_values_of_a_sweep_and_runs_to_wait_for_are_written_as_on_the_command_line() -> None:
    for value, text in (
        ({"lr": [0.1, 1], "opt": ["a,b"]}, ['lr=["0.1", "1"]', 'opt=["a,b"]']),
        ({"seed": range(2)}, ['seed=["0", "1"]']),
        ({"f": [train, None]}, ['f=["train", "None"]']),
        ("lr=0.1,0.01", "lr=0.1,0.01"),
    ):
        assert split("train.py", [], {"sweep": value}).options == {"sweep": text}
    assert split("train.py", [], {"array": range(3)}).options == {"array": "0,1,2"}
    assert split("train.py", [], {"after": "a:any"}).options == {"after": ["a:any"]}
    several: tuple[object, ...] = ("ab", 3, [])
    for wrong in several:
        with pytest.raises(InvalidRequest, match="not a list of values"):
            split("train.py", [], {"sweep": {"lr": wrong}})


def test_points_cannot_be_started_again_from_python() -> None:
    with pytest.raises(InvalidRequest, match=r"^unknown option: resubmit"):
        split("train.py", [], {"resubmit": "failed"})


def test_an_executor_takes_options_only() -> None:
    for name, hint in (("foo", "executor.submit(train, foo=…)"), ("host", "did you mean `hosts`?")):
        with pytest.raises(InvalidRequest, match=rf"^unknown option: {name}") as refused:
            Executor(**{name: 1})
        assert hint in str(refused.value.hint)
    with pytest.raises(InvalidRequest, match=r"^sweep= is no option of an Executor"):
        Executor(sweep="x=1")  # type: ignore[call-arg]
