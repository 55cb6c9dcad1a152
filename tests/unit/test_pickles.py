"""Files with pickled values, and the path to what cannot be pickled."""

from __future__ import annotations

import functools
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.errors import InvalidRequest
from muster.payloads import pickles
from muster.python.pickling import packed


def again(path: Path, value: Any) -> Any:
    pickles.write(str(path), value, {"kind": "value"})
    stored = pickles.read(str(path))
    assert stored.says == {"kind": "value"}
    return stored.value()


def test_values_return_unchanged(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "text": "é" * 10_000, "bytes": b"\0" * 100_000, "none": ()}
    assert again(tmp_path / "result", value) == value


def test_arrays_lie_beside_the_pickle_and_large_ones_are_mapped(tmp_path: Path) -> None:
    large, small = np.arange(500_000.0), np.arange(10)
    found = again(tmp_path / "result", [large, small, large])
    assert (found[0] == large).all()
    assert (found[1] == small).all()
    assert found[0] is found[2]
    base: Any = found[0]
    while not isinstance(base, (memoryview, mmap.mmap)):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    found[0][0] = 7.0  # the reader's own copy
    assert pickles.read(str(tmp_path / "result")).value()[0][0] == 0.0


def test_what_is_not_complete_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "result"
    pickles.write(str(path), list(range(1000)), {})
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(pickles.Incomplete):
            pickles.read(str(path))
    with pytest.raises(OSError):
        pickles.read(str(tmp_path / "missing"))


def test_what_a_file_says_is_read_without_unpickling(tmp_path: Path) -> None:
    pickles.write_words(str(tmp_path / "result"), {"kind": "error", "line": "ValueError: boom"})
    assert pickles.read(str(tmp_path / "result")).says["line"] == "ValueError: boom"


LOCK = threading.Lock()


def make(lock: Any) -> Any:
    def train() -> Any:
        return lock

    return train


class Diverged(Exception):
    """Takes something else than its message, like many exceptions of programs."""

    def __init__(self, step: int, *, rate: float) -> None:
        super().__init__(f"diverged at step {step}")
        self.step, self.rate = step, rate


@pytest.mark.parametrize(
    "error", [Diverged(3, rate=0.1), ValueError("a", 1), FileNotFoundError(2, "no file", "x"), KeyError("k")]
)
def test_exceptions_return_as_they_were_whatever_their_parameters(tmp_path: Path, error: Any) -> None:
    found = again(tmp_path / "result", error)
    assert (type(found), str(found), found.args, vars(found)) == (type(error), str(error), error.args, vars(error))
    assert getattr(found, "filename", None) == getattr(error, "filename", None)


class Holder:
    """An object with a lock deep inside."""

    def __init__(self) -> None:
        self.name, self.inner = "holder", {"locks": [1, threading.Lock()]}


@pytest.mark.parametrize(
    ("function", "args", "path"),
    [
        (make(threading.Lock()), [], "train.<closure>.lock"),
        (lambda lock=LOCK: lock, [], "<lambda>.<default>[0]"),
        (make(make(LOCK)), [], "train.<closure>.lock.<closure>.lock"),
        (functools.partial(print, LOCK), [], "print.args[0]"),
        (print, [1, Holder()], "argument 1 of print.inner['locks'][1]"),
        (print, [{"a": LOCK}], "argument 0 of print['a']"),
    ],
)
def test_what_cannot_be_pickled_is_named_with_the_path_to_it(function: Any, args: list[Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        packed(function, args, {})
    assert refused.value.message == f"{path}: cannot pickle '_thread.lock' object"


def test_keywords_are_named_too() -> None:
    with pytest.raises(InvalidRequest, match=r"^argument sep of print: cannot pickle '_thread.lock' object"):
        packed(print, [], {"sep": LOCK})


def test_a_global_of_the_main_script_is_named() -> None:
    text = "def train():\n    return LOCK\n"
    names: dict[str, Any] = {"__name__": "__main__", "LOCK": LOCK}
    exec(text, names)
    with pytest.raises(InvalidRequest, match=r"^train.<global>.LOCK: cannot pickle '_thread.lock' object"):
        packed(names["train"], [], {})
