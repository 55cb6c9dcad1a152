"""How an agent comes to life: the command that starts one, and the text that it is sent.

The command reads a length and then that many bytes of Python from its stdin, and runs them. So nothing needs to be
installed on a node, and nothing but a short constant stands on a command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_READ_AND_RUN = "f=open(0,'rb',closefd=False);exec(f.read(int(f.readline())))"

_MODULES = ("protocol", "system", "follow", "autopsy", "logs", "warm", "members", "agent")
"""What an agent is made of; each imports only those before it."""

_UNPACK = """
import sys, types
for name, text in SOURCES:
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = "<sent>/" + name
    exec(compile(text, module.__file__, "exec"), module.__dict__)
sys.modules["muster.agent.agent"].main(HOOK)
"""

_SETUP = """
python=$1; keep=$2; code=$3; before=$(command -v python3)
shift 3
for lines in "$@"; do
  { eval "$lines"; } </dev/null >&2 || { echo "muster: this line of --setup failed: $lines" >&2; exit 97; }
done
after=$(command -v python3)
[ "$keep" = no ] && [ "$after" != "$before" ] && [ -n "$after" ] && python=$after
exec "$python" -I -S -c "$code"
"""

SETUP_FAILED = 97


def agent_argv(python: str, setup: Sequence[str], keep_python: bool) -> tuple[str, ...]:
    """The command that starts an agent by the interpreter `python`.

    When the lines of `setup` put another `python3` first on PATH (`conda activate`), that one is taken instead,
    unless `keep_python`.
    """
    if not setup:
        return (python, "-I", "-S", "-c", _READ_AND_RUN)
    keep = "yes" if keep_python else "no"
    return ("bash", "-c", _SETUP, "muster", python, keep, _READ_AND_RUN, *setup)


def agent_source() -> bytes:
    """The text that an agent is sent first, with its length."""
    here = Path(__file__).parent
    sources = [("muster", ""), ("muster.agent", "")]
    sources += [(f"muster.agent.{name}", (here / f"{name}.py").read_text()) for name in _MODULES]
    hook = (here / "hook.py").read_text()
    text = f"SOURCES={sources!r}\nHOOK={hook!r}\n{_UNPACK}".encode()
    return b"%d\n" % len(text) + text
