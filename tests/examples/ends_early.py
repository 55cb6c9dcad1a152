"""Run examples/train_llm.py once more in each attempt, and kill it at another moment each time.

ends_early.py MOMENTS OPTIONS…: attempt 0 is the uninterrupted training; attempt n goes on with an interrupted one, up
to the n-th of the moments. A moment is RANKS:WHERE:COUNT, and `-` lets it come to its end.
"""

import hashlib
import io
import os
import runpy
import signal
import sys
from pathlib import Path

import torch

SCRIPT = str(Path(__file__).parents[2] / "examples" / "train_llm.py")
RANK, LAST = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1


def now(number=signal.SIGKILL):
    """Print a message, and send the signal to this process."""
    print(f"now: {moment}", flush=True)
    os.kill(os.getpid(), number)


def counted(function, before=None, after=None):
    """Return the function with an action before or after call number COUNT."""
    left = iter(range(int(count), 0, -1))

    def call(*arguments, **options):
        this = next(left, 0) == 1
        if this and before:
            before(*arguments)
        result = function(*arguments, **options)
        if this and after:
            after()
        return result

    return call


def half(state, file):
    """Write half of a file, and die."""
    whole = io.BytesIO()
    real_save(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    now()


def kept(name):
    """Return the step of an experiment's last checkpoint, and a digest of it without the length of the log."""
    path = Path("outputs", name, "checkpoint.pt")
    state = torch.load(path) if path.exists() else {"step": 0, "log": 0}
    del state["log"]  # it depends on the number of digits of the speed
    torch.set_printoptions(precision=20, threshold=sys.maxsize)
    return f"{name} after step {state['step']} {hashlib.sha256(repr(state).encode()).hexdigest()}"


attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
moment = ["-", *sys.argv[1].split(",")][attempt]
name = "interrupted" if attempt else "whole"
if moment != "-":
    ranks, where, count = moment.split(":")
    if RANK in {"first": [0], "last": [LAST], "all": range(LAST + 1)}[ranks]:
        real_save = torch.save
        if where == "half-a-file":
            torch.save = counted(torch.save, before=half)
        elif where == "before-replace":
            os.replace = counted(os.replace, before=lambda *_: now())
        elif where == "after-replace":
            os.replace = counted(os.replace, after=now)
        elif where == "backward":
            torch.Tensor.backward = counted(torch.Tensor.backward, before=lambda *_: now())  # type: ignore[method-assign]
        elif where == "step":
            torch.optim.AdamW.step = counted(torch.optim.AdamW.step, before=lambda *_: now())  # type: ignore[method-assign]
        elif where == "preempted":
            torch.optim.AdamW.step = counted(torch.optim.AdamW.step, before=lambda *_: now(signal.SIGUSR1))  # type: ignore[method-assign]

if RANK == 0:
    print(f"begins: {kept(name)}")
sys.argv[:] = [SCRIPT, *sys.argv[2:], "--experiment-name", name]
try:
    runpy.run_path(SCRIPT, run_name="__main__")
except SystemExit as end:
    if attempt == 0:
        sys.exit(end.code or 3)  # so that there is another attempt
    if end.code == 0 and RANK == 0:
        print(f"ends: {kept('whole')} {kept('interrupted')}")
    raise
