"""Python stacks as `faulthandler` writes them: read, told apart by whose code it is, compared. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from muster.core.verdict import Frame


class Origin(IntEnum):
    """Whose code a file has; the smaller, the closer to the user."""

    USER = 0
    LIBRARY = 1
    """Installed in site-packages."""
    TORCH = 2
    STANDARD = 3
    """The standard library, and what Python makes itself."""


class Thread(NamedTuple):
    """The stack of one thread."""

    frames: tuple[Frame, ...]
    """Innermost first."""
    cut: bool = False
    """True if there are more frames than faulthandler writes."""

    @property
    def user(self) -> Frame | None:
        """The innermost frame of the user's code; without one, of an installed package, then of torch."""
        best: Frame | None = None
        for frame in self.frames:
            if best is None or origin(frame.file) < origin(best.file):
                best = frame
        return best if best is not None and origin(best.file) is not Origin.STANDARD else None

    @property
    def inner(self) -> Frame | None:
        """The innermost frame; None if that is the user's."""
        return self.frames[0] if self.frames and self.frames[0] != self.user else None

    @property
    def is_of_user(self) -> bool:
        """Whether it runs code of the user."""
        return any(origin(frame.file) is Origin.USER for frame in self.frames)

    def has(self, file: str, *functions: str) -> Frame | None:
        """Return the innermost frame in a file whose path ends so, in one of these functions if any are given."""
        for frame in self.frames:
            if frame.file.endswith(file) and (not functions or frame.function in functions):
                return frame
        return None


_HEAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$|^Stack \(most recent")
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')


def threads_of(text: str) -> tuple[Thread, ...]:
    """Return the threads of a process, the main thread first: faulthandler writes it last."""
    found: list[list[Frame]] = []
    cut: list[bool] = []
    for line in text.splitlines():
        if _HEAD.match(line):
            found.append([])
            cut.append(False)
            continue
        match = _FRAME.match(line)
        if match and found:
            number = match.group(2)
            found[-1].append(Frame(match.group(1), int(number) if number.isdigit() else 0, match.group(3)))
        elif line.strip() == "..." and found:
            cut[-1] = True
    threads = [Thread(tuple(frames), was_cut) for frames, was_cut in zip(found, cut)]
    return tuple(reversed(threads))


_STANDARD = re.compile(r"/lib(?:64)?/python3\.\d+t?/|/python3\d+\.zip/|^<frozen ")
_INSTALLED = re.compile(r"/(?:site|dist)-packages/")
_TORCH = re.compile(r"(?:^|/)torch/(?:distributed|autograd|nn|optim|_dynamo|_inductor|utils/data|multiprocessing)/")


def origin(file: str) -> Origin:
    """Return whose code this is, by its path."""
    installed = _INSTALLED.search(file)
    if installed:
        return Origin.TORCH if file[installed.end() :].startswith("torch/") else Origin.LIBRARY
    if _TORCH.search(file):  # built from source
        return Origin.TORCH
    if _STANDARD.search(file):
        return Origin.STANDARD
    if file.startswith("<") and file != "<stdin>" and not file.startswith("<ipython"):
        return Origin.LIBRARY  # generated code, or `python -c`
    return Origin.USER


def visible(threads: Iterable[Thread], every: bool = False) -> tuple[Thread, ...]:
    """Return the main thread and those that run code of the user; `every`: all."""
    return tuple(thread for index, thread in enumerate(threads) if every or index == 0 or thread.is_of_user)
