"""Short tracebacks for users: an exception that leaves a public function shows their lines, not those of muster."""

from __future__ import annotations

import functools
import os
from types import TracebackType
from typing import Any, Callable, TypeVar, cast

from muster.errors import MusterError

_Call = TypeVar("_Call", bound=Callable[..., Any])

_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def entry(call: _Call) -> _Call:
    """Make a function, or a method, one that users call: their tracebacks have a single frame of muster.

    With MUSTER_TRACE=1 they keep all.
    """

    @functools.wraps(call)
    def entered(*args: Any, **keywords: Any) -> Any:
        try:
            return call(*args, **keywords)
        except BaseException as error:
            from muster.protocol.trace import VARIABLE

            if os.environ.get(VARIABLE):
                raise
            # other frames of these are of the standard library, where muster was waiting
            all_ours = isinstance(error, (MusterError, KeyboardInterrupt, TimeoutError))
            shorter = None if all_ours else without_ours(error.__traceback__)
            raise error.with_traceback(shorter)  # noqa: B904  # MUSTER_TRACE=1 shows the frames of muster

    return cast(_Call, entered)


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback without frames of muster."""
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_OURS):
            frames.append(trace)
        trace = trace.tb_next
    rest = None
    for frame in reversed(frames):
        rest = TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest
