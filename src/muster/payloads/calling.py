"""What calls a function in a rank, and writes its result or its exception to the run directory.

Ranks get this module with the function (`call.py`): it is standard library only.

A callable object with a method `checkpoint` is saved by it when the job is preempted or near its time limit; the next
attempt continues with what was saved.
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.abc import InspectLoader, MetaPathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def _attempts(run_dir: str) -> list[str]:
    """Return the directories of the attempts, the current one, which is the newest, first."""
    numbers = [int(name[8:]) for name in os.listdir(run_dir) if re.fullmatch("attempt_[0-9]+", name)]
    return [os.path.join(run_dir, f"attempt_{number}") for number in sorted(numbers, reverse=True)]


class _Brought(MetaPathFinder, InspectLoader):
    """Finds the modules of a package whose sources came with the function."""

    def __init__(self, package: str, sources: Mapping[str, str]) -> None:
        self.package, self.sources = package, sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        from importlib.util import spec_from_loader

        return spec_from_loader(name, self, is_package=name == self.package) if name in self.sources else None

    def get_source(self, name: str) -> str:
        return self.sources[name]

    def is_package(self, name: str) -> bool:
        return name == self.package


def _bring_cloudpickle(version: str, sources: Mapping[str, str]) -> None:
    """Make cloudpickle importable in the version of the caller: pickles of one version need not suit another."""
    try:
        import cloudpickle

        if cloudpickle.__version__ == version:
            return
    except Exception:
        pass
    for name in [name for name in sys.modules if name.partition(".")[0] == "cloudpickle"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Brought("cloudpickle", sources))


def _mismatch(caller: Mapping[str, Any]) -> str:
    """Return how this Python differs from the caller's, in words; empty if it does not matter."""
    here = list(sys.version_info[:2])
    if caller["python"] != here:
        own, other = (".".join(map(str, version)) for version in (here, caller["python"]))
        return f"Python {own} in this rank, {other} in the caller: choose another interpreter with python="
    if caller["torch"] and not _is_same_torch(caller["torch"], caller["torch_at"]):
        try:
            from importlib.metadata import version

            found = version("torch").partition("+")[0]
        except Exception:
            return ""  # torch may be there without metadata; if it is not, its import says so
        if found != caller["torch"]:
            own, other = found, caller["torch"]
            return f"torch {own} in this rank, {other} in the caller: choose another interpreter with python="
    return ""


def _is_same_torch(version: str, at: str) -> bool:
    """Return whether the torch of this Python surely has this version, as its metadata is in the directory `at`.

    It is a short cut: to read the metadata takes longer.
    """
    there, name = os.path.split(at)  # torch-2.13.0+cpu.dist-info
    if name.removesuffix(".dist-info").partition("-")[2].partition("+")[0] != version:
        return False
    for entry in sys.path:
        if os.path.isdir(os.path.join(entry, "torch")):
            return entry == there and os.path.isdir(at)
    return False


def call(
    script: str,
    run_dir: str,
    header: Mapping[str, Any],
    data: list[bytes],
    pickles: Any,
    refuse_of_others: Callable[[str], object],
) -> None:
    """Call the function. `data` is its pickle, which is removed from that list; `script` is the file of `call.py`."""
    rank = _rank_in_run()
    # the name for rank 0, so that the pattern of these names stays in one place
    attempts = _attempts(run_dir)
    target = os.path.join(attempts[0], header["result"].replace("00000", f"{rank:05d}"))
    sys.path[:0] = [entry for entry in header["path"] if entry not in sys.path]
    _know_lines(header["lines"])
    error: Exception | None = None
    try:
        why = _mismatch(header)
        if why:
            raise RuntimeError(why)
        _bring_cloudpickle(header["cloudpickle"], header["sources"])
        import pickle

        saved = [path for folder in attempts if os.path.exists(path := os.path.join(folder, header["checkpoint"]))]
        if saved:
            refuse_of_others(saved[0])
            function, args, kwargs = pickles.read(saved[0]).value()
        else:
            function, args, kwargs = pickle.loads(data.pop())
        if rank == 0 and header["signal"]:
            place = os.path.join(attempts[0], header["checkpoint"])
            _save_when_preempted(pickles, place, header["signal"], function, args, kwargs)
        result = function(*args, **kwargs)
        _refuse(result, rank)
        try:
            pickles.write(target, result, {"kind": "value"})
        except OSError as failed:
            raise OSError(failed.errno, f"cannot write the result of rank {rank}: {failed.strerror}") from None
        except Exception as failed:
            why = pickles.why_not(result, "result", failed)
            raise TypeError(f"cannot pickle the result of rank {rank}: {why}") from None
    except Exception as raised:
        error = raised
    if error is not None:
        _fail(pickles, target, error, script)


def _rank_in_run() -> int:
    """Return the number of this rank in its run; RANK is that in its role, if the run has several programs."""
    rank, own = int(os.environ["RANK"]), os.environ.get("ROLE_NAME")
    for name, role in json.loads(os.environ.get("MUSTER_ROLES", "{}")).items():
        if name == own:
            break
        rank += role["ranks"]
    return rank


def _save_when_preempted(
    pickles: Any, path: str, signal_name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """At the signal that warns of the end of the job, save what `checkpoint` of the function returns, and exit.

    That is a callable to call with the same arguments, or an object with `function`, `args` and `kwargs`, such as a
    DelayedSubmission of submitit; None saves nothing, and the function continues.
    """
    import signal

    checkpoint = getattr(function, "__submitit_checkpoint__", None) or getattr(function, "checkpoint", None)
    if not callable(checkpoint):
        return
    warned: list[int] = []

    def save(number: int, frame: object) -> None:
        if warned:
            return
        warned.append(number)
        found = checkpoint(*args, **kwargs)
        if found is None:
            return
        if all(hasattr(found, name) for name in ("function", "args", "kwargs")):
            call = (found.function, tuple(found.args), dict(found.kwargs))
        elif callable(found):
            call = (found, args, kwargs)
        else:
            raise TypeError(f"checkpoint() returned {type(found).__name__}: neither a callable, nor None")
        try:
            pickles.write(path + ".part", call, {"kind": "call"})
        except OSError:
            raise
        except Exception as failed:
            why = pickles.why_not(found, "checkpoint", failed)
            raise TypeError(f"cannot pickle what checkpoint() returned: {why}") from None
        os.replace(path + ".part", path)
        sys.stdout.flush()
        sys.stderr.write("muster: checkpoint saved: the next attempt continues with it\n")
        sys.stderr.flush()
        os._exit(_SAVED)  # other ranks may wait for this one in a collective, so nothing of the function can clean up

    signal.signal(getattr(signal, "SIG" + signal_name), save)


_SAVED = 75
"""Exit status of a rank that has saved a checkpoint: EX_TEMPFAIL of sysexits.h."""


def _know_lines(files: Mapping[str, list[str]]) -> None:
    """Make tracebacks show lines of files that may not exist here, such as cells of a notebook."""
    import linecache

    for name, lines in files.items():
        if lines:
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)


def _refuse(result: object, rank: int) -> None:
    """Raise TypeError for a result that stands for values to come."""
    import inspect

    if inspect.isgenerator(result) or inspect.isasyncgen(result) or inspect.iscoroutine(result):
        what = type(result).__name__.replace("_", " ")
        raise TypeError(f"the result of rank {rank} is a {what}, which cannot be sent: return a list")


def _fail(pickles: Any, target: str, error: Exception, script: str) -> None:
    """Write the exception for the caller, print its traceback as Python does, and exit."""
    import traceback

    own, trace = (call.__code__.co_filename, script), error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    error.__traceback__ = trace
    text = "".join(traceback.format_exception(type(error), error, trace))
    line = traceback.format_exception_only(type(error), error)[-1].strip()
    says = {"kind": "error", "type": type(error).__name__, "line": line, "traceback": text}
    try:
        pickles.write(target, error, dict(says, pickled=True))
    except Exception:
        try:
            pickles.write_words(target, says)
        except OSError:
            pass
    if sys.excepthook is sys.__excepthook__:
        sys.stderr.write(text)  # with lines of files that do not exist here, unlike Python's own hook
    else:
        sys.excepthook(type(error), error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(1)
