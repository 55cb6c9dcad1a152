"""Note about the exception that ends a rank, as proof that the script did not handle it."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_LONGEST_TEXT, _MOST_FRAMES, _MOST_LINKS = 4000, 64, 10
"""Limits of a note: characters of a message, frames of an exception, exceptions of a chain or group."""


def note_uncaught(path: str) -> None:
    """Write a note to this file when an exception ends the main thread, before anything is printed about it.

    A traceback in a log is no proof: programs log exceptions that they handle, and the script may replace
    sys.excepthook. Python raises an audit event before it calls that, whatever it is (sys.excepthook, PEP 578).
    """
    loaded = "time" in sys.modules
    import time

    if not loaded:
        del sys.modules["time"]
    # the script may replace these functions
    open_, write, close, getpid, monotonic = os.open, os.write, os.close, os.getpid, time.monotonic
    flags, pid = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, os.getpid()

    def plain(char: str) -> bool:
        return char >= " " and char not in '"\\' and not "\ud800" <= char <= "\udfff"

    def quoted(text: str) -> str:
        return '"' + "".join(char if plain(char) else f"\\u{ord(char):04x}" for char in text) + '"'

    def told(error: BaseException) -> str:
        kind = type(error)
        module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
        try:
            text = str(error.msg if isinstance(error, SyntaxError) else error)
            text = "\n".join([text, *map(str, getattr(error, "__notes__", ()))])
        except BaseException:
            text = "<exception str() failed>"
        return f"{module}{kind.__qualname__}{': ' if text else ''}{text}"[:_LONGEST_TEXT]

    def leaves(error: Any) -> list[str]:
        found: list[str] = []
        for item in getattr(error, "exceptions", ()) if hasattr(error, "derive") else ():
            found += leaves(item) or [told(item)]
        return found[:_MOST_LINKS]

    def described(error: BaseException, how: str) -> str:
        frames, trace = [], error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"[{quoted(code.co_filename)},{trace.tb_lineno or 0},{quoted(code.co_name)}]")
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and isinstance(error.filename, str) and isinstance(error.lineno, int):
            frames.append(f'[{quoted(error.filename)},{error.lineno},""]')
        parts = ",".join(frames[-_MOST_FRAMES:]), ",".join(map(quoted, leaves(error)))
        return f'{{"how":"{how}","text":{quoted(told(error))},"frames":[{parts[0]}],"leaves":[{parts[1]}]}}'

    def heard(event: str, args: Any) -> None:
        if event != "sys.excepthook" or getpid() != pid:
            return
        try:
            error, trace = args[2], args[3]
            if trace is not None and trace.tb_frame.f_back is not None:
                return  # an extension has printed an exception in a callback
            chain: list[str] = []
            how = ""
            while isinstance(error, BaseException) and len(chain) < _MOST_LINKS:
                chain.append(described(error, how))
                how = "caused by" if error.__cause__ is not None else "while handling"
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            fd = open_(path, flags, 0o600)
            write(fd, f'{{"at":{monotonic()},"chain":[{",".join(chain)}]}}\n'.encode())
            close(fd)
        except BaseException:
            pass  # the exit of a rank does not depend on it

    sys.addaudithook(heard)
