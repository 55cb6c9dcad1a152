"""How an agent comes to life: the command that starts one, and the text that it is sent.

The command reads a length and then that many bytes of Python from its stdin, and runs them. So nothing needs to be
installed on a node, and nothing but a short constant stands on a command line. The text is a constant, too: what it is
to do comes after it as data, in the message `call`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from shlex import quote

_READ_AND_RUN = 'f=open(0,"rb",closefd=False);exec(f.read(int(f.readline())))'
_AGENT = ("-I", "-S", "-c", _READ_AND_RUN)

_MODULES = (
    *(
        "protocol",
        "descriptors",
        "procfs",
        "paths",
        "local",
        "system",
        "temporary",
        "eventloop",
        "signals",
        "wire",
        "machine",
        "follow",
        "timeline",
        "screen",
        "overflow",
        "autopsy",
        "logs",
        "links",
        "environment",
        "node",
        "warm",
        "guests",
        "ahead",
        "members",
        "agent",
        "main",
    ),
    *(
        "listener",
        "meet",
        "tree",
        "handshake",
        "dial",
        "keep",
        "relay",
        "move",
        "guard",
        "probe",
        "usage",
        "messages",
        "trace",
    ),
)
"""What an agent is made of. Each is compiled when it is imported first, for most runs need only some."""

_OF_CALLS = ("protocol", "procfs", "paths", "local", "relay", "system", "temporary", "clean", "calls")
"""What `calls.py` is made of, the program that does one thing on a host."""

_UNPACK = """
import sys
from _frozen_importlib import ModuleSpec

class Sent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in SOURCES:
            return ModuleSpec(name, Sent, is_package=not SOURCES[name])
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        exec(compile(SOURCES[module.__name__], "<sent>/" + module.__name__, "exec"), module.__dict__)

sys.meta_path.insert(0, Sent)
"""

SETUP_FAILED, NO_PYTHON = 97, 96
"""Exit statuses of what starts an agent."""

_LINE = "{{ eval {line}; }} </dev/null >&2 || {{ echo {failed} >&2; exit 97; }}"
_BEFORE = "before=$(command -v python3)"
_AFTER = 'after=$(command -v python3); [ "$after" = "$before" ] || [ -z "$after" ] || python=$after'
_START = """command -v "$python" >/dev/null || {{ echo {label}"there is no $python here" >&2; exit 96; }}
exec "$python" {args}
"""


def shell_script(argv: Sequence[str], setup: Sequence[str], keep_python: bool, label: str = "") -> str:
    """Text for a shell: the lines of `setup` (`--setup`), and then the program `argv`, the first word of which is a
    Python.

    When these lines put another `python3` first on PATH (`conda activate`), that one is taken instead, unless
    `keep_python`. `label` stands before what is said of a line that fails.
    """
    python, *args = argv
    # by eval, so that one that is no shell fails alone, and defines aliases for the next
    lines = [
        _LINE.format(line=quote(line), failed=quote(f"{label}this line of --setup failed: {line}")) for line in setup
    ]
    if setup and not keep_python:
        lines = [_BEFORE, *lines, _AFTER]
    start = _START.format(label=quote(label) if label else "", args=" ".join(map(quote, args)))
    return "\n".join([f"python={quote(python)}", *lines, start])


def agent_argv(python: str, script: bytes = b"") -> tuple[str, ...]:
    """The command that starts an agent on this machine by the interpreter `python`, or by what `agent_script` gave.

    A script is read from stdin, before the agent's own text: other users see command lines, and lines of --setup may
    hold secrets (`export TOKEN=…`).
    """
    return ("bash", "-c", _obey(script)) if script else (python, *_AGENT)


def agent_script(python: str, setup: Sequence[str], keep_python: bool) -> bytes:
    """Text for a shell that reads it from its stdin: the lines of `setup`, and then the agent; see `shell_script`."""
    return shell_script((python, *_AGENT), setup, keep_python).encode()


def read_script(shell: str, script: bytes) -> str:
    """The words for ssh that read such a text and obey it. Any login shell takes them: nothing in them is special to
    sh, csh or fish; and nothing of the person's stands on a command line that others can read."""
    return f"exec {shell} -c '{_obey(script)}'"


def _obey(script: bytes) -> str:
    return f'eval "$(head -c {len(script)})"'


def text_of(name: str) -> str:
    """The source of a module of the agent, from a folder or from an archive."""
    data: bytes = globals()["__loader__"].get_data(os.path.join(os.path.dirname(__file__), f"{name}.py"))
    return data.decode()


def agent_source() -> bytes:
    """The text of an agent, with its length."""
    return _source(_MODULES, f"HOOK={text_of('hook')!r}\nfrom muster.agent.main import main\nmain(f, HOOK)")


def calls_source() -> bytes:
    """The text of the program that does one thing on a host, with its length; see `calls.py`."""
    return _source(_OF_CALLS, "from muster.agent.calls import main\nmain(f)")


def _source(modules: Sequence[str], entry: str) -> bytes:
    """The text, with its length, of a program that has these modules and begins with these lines. `f` is the file from
    which it was read: what follows it may be in the buffer of that."""
    sources = {"muster": "", "muster.agent": ""}
    sources.update({f"muster.agent.{name}": text_of(name) for name in modules})
    text = f"SOURCES={sources!r}\n{_UNPACK}\n{entry}\n".encode()
    return b"%d\n" % len(text) + text
