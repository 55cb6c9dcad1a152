"""Turn an interpreter that was started for nothing in particular into one that was started with any command line.

It runs while Python still starts: `site` has imported `sitecustomize`, and CPython has not looked at its program yet.
`Py_InitializeFromConfig` on an initialized interpreter replaces its configuration (that is how `Py_Main` after
`Py_Initialize` works, in all versions from 3.8 on), and CPython reads the program from there when it has returned from
here. So it runs the script itself, as if it had been started with it: no frame of muster is below, and `__main__`,
`sys.argv`, `sys.orig_argv` and `sys.path[0]` are its own.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


_SIZE = 1 << 14
"""Bytes for a PyConfig, which has about 500."""

_CHANGED = ("argv", "orig_argv")
"""What a new command line changes in `sys`. Everything else there is what `site` and the imports have made of it."""


def become_program(argv: Sequence[str]) -> None:
    """Have CPython run these words, of which the first is the interpreter, after this process left `sitecustomize`.

    The interpreter may have no options of its own. Raises RuntimeError.
    """
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("func", ctypes.c_char_p),
            ("message", ctypes.c_char_p),
            ("code", ctypes.c_int),
        )

    python: Any = ctypes.pythonapi
    python.PyConfig_InitPythonConfig.restype = None
    python.PyConfig_Clear.restype = None
    for name in ("PyConfig_SetBytesArgv", "Py_InitializeFromConfig"):
        getattr(python, name).restype = Status
    config = ctypes.create_string_buffer(_SIZE)
    # Python turns this on by itself in the C locale, which it has left since it was started
    options = ("-X", "utf8") if sys.flags.utf8_mode else ()
    words = [os.fsencode(word) for word in (argv[0], *options, *argv[1:])]
    before = dict(vars(sys))
    python.PyConfig_InitPythonConfig(config)
    for made in (
        python.PyConfig_SetBytesArgv(config, ctypes.c_ssize_t(len(words)), (ctypes.c_char_p * len(words))(*words)),
        python.Py_InitializeFromConfig(config),
    ):
        if made.type != 0:
            raise RuntimeError((made.message or b"Python has rejected the command line").decode())
    python.PyConfig_Clear(config)
    if options:
        original: list[str] = getattr(sys, "orig_argv", [])  # since Python 3.10
        original[1 : 1 + len(options)] = []
    for name, value in before.items():
        if name not in _CHANGED and getattr(sys, name, None) is not value:
            setattr(sys, name, value)


def become_environment(env: Mapping[str, str]) -> None:
    """Make the environment exactly this one, for Python, for C code and for child processes."""
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def show_as(argv: Sequence[str]) -> None:
    """Make `ps` and /proc/PID/cmdline show these words, as far as there is room.

    Without the privilege to say where they end (prctl(2), PR_SET_MM), they are shown with spaces between them: the
    kernel then takes what stands there for one text (proc(5)).
    """
    import ctypes

    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    words = [os.fsencode(word) for word in argv]
    data = b"".join(word + b"\0" for word in words)[: end - start]
    ctypes.memmove(start, data + bytes(end - start - len(data)), end - start)
    libc = ctypes.CDLL(None)
    arguments = [ctypes.c_ulong(value) for value in (9, start + len(data), 0, 0)]  # PR_SET_MM_ARG_END
    if libc.prctl(35, *arguments) != 0:  # PR_SET_MM
        text = b" ".join(words)[: end - start - 2]
        ctypes.memmove(start, text + bytes(end - start - len(text) - 1) + b".", end - start)
