"""Start of an agent: the command line, and the program text that is sent to it.

The command reads a length and then that many bytes of Python from its stdin, and executes them. So nothing needs to be
installed on a node, and the command line is a short constant. The text is a constant, too: the request follows it as
data, in the message `call`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import os
import re
import sys
import zlib
from collections.abc import Sequence

from muster.linux.shell import quote

_READ_AND_RUN = 'f=open(0,"rb",closefd=False);exec(f.read(int(f.readline())))'
_AGENT = ("-I", "-S", "-c", _READ_AND_RUN)

_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
_IMPORT = re.compile(r"^\s*from (muster[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
_WORD = re.compile(r"\w+")


_UNPACK = """
import marshal
import sys
from _frozen_importlib import ModuleSpec


class Sent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in SOURCES or name in CODES:
            return ModuleSpec(name, Sent, is_package=name not in CODES and not SOURCES[name])
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def get_source(name):
        return SOURCES[name]
    @staticmethod
    def exec_module(module):
        name = module.__name__
        code = marshal.loads(CODES[name]) if name in CODES else compile(SOURCES[name], "<sent>/" + name, "exec")
        exec(code, module.__dict__)

sys.meta_path.insert(0, Sent)
"""

HOOK_ENTRY = "sitecustomize.py"
"""The module of the site hook that Python imports, or runs."""
HOOK_PARTS = (
    *("any_script", "fitness", "footprint", "fork_server", "messages", "nursery", "probe", "quick_exit", "rank"),
    *("store", "torch_server", "uncaught", "withheld"),
)
"""Its other modules, in a package of their own, whose name no module of a user has."""

SETUP_FAILED, NO_PYTHON = 97, 96
"""Exit statuses of a command that starts an agent."""

_LINE = "trap {ended} EXIT; {{ eval {line}; }} </dev/null >&2 || {{ trap - EXIT; echo {failed} >&2; exit 97; }}"
_BEFORE = "before=$(command -v python3)"
_AFTER = 'after=$(command -v python3); [ "$after" = "$before" ] || [ -z "$after" ] || python=$after'
_START = """command -v "$python" >/dev/null || {{ echo {label}"python not found: $python" >&2; exit 96; }}
exec "$python" {args}
"""
_START_INSIDE = """{enter}
exec "$@" "$python" {args}
"""


def shell_script(argv: Sequence[str], setup: Sequence[str], keep_python: bool, label: str = "", enter: str = "") -> str:
    """Return a shell script that runs the lines of `setup` (`--setup`), then the program `argv`, whose first word is a
    Python.

    If these lines put another `python3` first on PATH (`conda activate`), that one is used instead, unless
    `keep_python`. `label` is the prefix of the error message for a line that fails. `enter` are shell lines
    that set the positional parameters to what runs a command in a container, where that Python is then.
    """
    python, *args = argv
    # with eval, so that a syntax error fails only its line, and aliases hold for the next
    lines = []
    for line in setup:
        failed = quote(f"{label}--setup failed: {line}")
        # a line may end the shell: `exit 3`, `set -e; …`, `${NAME:?}`
        ended = quote(f"echo {failed} >&2; exit {SETUP_FAILED}")
        lines.append(_LINE.format(line=quote(line), failed=failed, ended=ended))
    if setup:
        lines = [*([] if keep_python else [_BEFORE]), *lines, "trap - EXIT", *([] if keep_python else [_AFTER])]
    start = _START_INSIDE if enter else _START
    start = start.format(label=quote(label) if label else "", args=" ".join(map(quote, args)), enter=enter)
    return "\n".join([f"python={quote(python)}", *lines, start])


def agent_argv(python: str, script: bytes = b"") -> tuple[str, ...]:
    """Return the command that starts an agent on this machine, with the Python `python` or by `agent_script`.

    A script is read from stdin, before the agent's own text: command lines are visible to other users, and lines of
    --setup may hold secrets (`export TOKEN=…`).
    """
    return ("bash", "-c", _obey(script)) if script else (python, *_AGENT)


def is_no_python(said: str, code: int | None) -> bool:
    """Return whether what was started as Python, and ended without a word of the agent, is another program.

    `said` is the end of its stderr: a Python does not print the command that it runs, and ends with an error.
    """
    return code == 0 or _READ_AND_RUN in said


def agent_script(python: str, setup: Sequence[str], keep_python: bool, enter: str = "") -> bytes:
    """Return a shell script, to be read from stdin, that runs the lines of `setup` and then the agent; see
    `shell_script`."""
    return os.fsencode(shell_script((python, *_AGENT), setup, keep_python, enter=enter))


def ssh_command_for(shell: str, script: bytes) -> str:
    """Return the remote command for ssh that reads and runs such a script.

    It works in any login shell, because nothing in it is special to sh, csh or fish; and nothing of the user's is on a
    command line that others can read.
    """
    return f"exec {shell} -c '{_obey(script)}'"


def _obey(script: bytes) -> str:
    return f'eval "$(head -c {len(script)})"'


def text_of(module: str) -> str:
    """Return the source of a module of muster, such as `muster.agent.agent`, from a directory or an archive.

    Raises OSError if there is no such module.
    """
    data: bytes = globals()["__loader__"].get_data(_path_of(module))
    return data.decode()


def _path_of(module: str) -> str:
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), *module.split(".")[1:]) + ".py"


def sources(program: str) -> dict[str, str]:
    """Return the sources by name of all modules of muster that this program imports, directly or not.

    Imports in functions count, those for a type checker alone do not. Packages are empty.
    """
    found: dict[str, str] = {}
    _add_imports(program, found)
    packages = {name[:at] for name in found for at, letter in enumerate(name) if letter == "."}
    return {**dict.fromkeys(sorted(packages), ""), **found}


def _add_imports(text: str, found: dict[str, str]) -> None:
    for package, names in _IMPORT.findall(_FOR_TYPES.sub("", text)):
        # `from package import module` or `from module import name`
        for module in [package, *(f"{package}.{name}" for name in _WORD.findall(names.partition("#")[0]))]:
            if module not in found and module != "muster":
                try:
                    found[module] = text_of(module)
                except OSError:
                    continue
                _add_imports(found[module], found)


def hook_sources() -> dict[str, str]:
    """Return the sources of the site hook, by their paths in its directory on a host."""
    names = {name: f"_muster_hook/{name}.py" for name in HOOK_PARTS}
    return {path: text_of(f"muster.agent.hook.{name}") for name, path in {"sitecustomize": HOOK_ENTRY, **names}.items()}


_AGENT_ENTRY = "from muster.agent.main import main\nmain(f, HOOK)"


def agent_source(same_python: bool = False) -> bytes:
    """Return the program of an agent, with its length in front. It has the bytecode that this interpreter keeps of the
    modules: compiling them takes 65 ms of CPU time, as much as all the rest of the agent's start.

    `same_python`: it is run by the interpreter of this process. Another one may have another version, and gets the
    texts as well; it uses the bytecode only if it has the same magic number, by which Python itself decides whether it
    can run a .pyc file, and is the same implementation.
    """
    texts, codes = sources(_AGENT_ENTRY), {}
    for module, text in texts.items():
        code = bytecode_of(module) if text and "get_source" not in text else None
        if code is not None:
            codes[module] = code[PYC_HEADER:]
    rest = {module: text for module, text in texts.items() if module not in codes}
    if same_python:
        data = marshal.dumps((rest, codes, {**hook_sources(), **_hook_bytecode()}))
        head = f"import marshal\nSOURCES,CODES,HOOK=marshal.loads(f.read({len(data)}))"
    else:
        own = {module: text for module, text in texts.items() if module in codes}
        # about as many bytes as the texts alone; that needs zlib there, as does the archive of the controller
        parts = [zlib.compress(marshal.dumps(part, _FORMAT), 1) for part in ((rest, hook_sources()), own, codes)]
        parts.append(zlib.compress(marshal.dumps(_hook_bytecode(), _FORMAT), 1))
        data = b"".join(parts)
        magic, tag = importlib.util.MAGIC_NUMBER, sys.implementation.cache_tag
        head = _CHOOSE.format(sizes=[len(part) for part in parts], magic=magic, tag=tag)
    program = f"{head}\n{_UNPACK}\n{_AGENT_ENTRY}\n".encode()
    return b"%d\n" % len(program) + program + data


_FORMAT = 4
"""The format of marshal in Python 3.4 to 3.13, which later ones can read."""

_CHOOSE = """import marshal, sys, zlib
from _frozen_importlib_external import MAGIC_NUMBER
PARTS = [f.read(size) for size in {sizes}]
REST, TEXTS, CODES, HOOK_CODES = (lambda part=part: marshal.loads(zlib.decompress(part)) for part in PARTS)
SOURCES, HOOK = REST()
if MAGIC_NUMBER == {magic!r} and sys.implementation.cache_tag == {tag!r}:
    CODES = CODES()
    HOOK.update(HOOK_CODES())
else:
    SOURCES.update(TEXTS())
    CODES = {{}}
"""
"""Reads the parts of the program, and unpacks those that this Python uses."""


def _hook_bytecode() -> dict[str, bytes]:
    """Return the bytecode of the site hook, by the paths at which Python looks for it; see `write_hook`."""
    found = {}
    for path in hook_sources():
        code = bytecode_of(f"muster.agent.hook.{os.path.basename(path)[:-3]}")
        if code is not None:
            folder, name = os.path.split(path)
            found[os.path.join(folder, "__pycache__", f"{name[:-3]}.{sys.implementation.cache_tag}.pyc")] = code
    return found


PYC_HEADER = 16
"""Bytes before the code in a .pyc file: the version of Python, flags, time and size of the source."""


def bytecode_of(module: str) -> bytes | None:
    """Return the .pyc file of a module of muster that this interpreter keeps; None without one.

    A missing one is made if it can be kept. See importlib/_bootstrap_external.py for the format.
    """
    path = _path_of(module)
    cached = importlib.util.cache_from_source(path, optimization="")
    for attempt in range(2):
        try:
            found = os.stat(path)
            with open(cached, "rb") as file:
                data = file.read()
            stamp = (int(found.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + found.st_size.to_bytes(4, "little")
            if data[:PYC_HEADER] == importlib.util.MAGIC_NUMBER + bytes(4) + stamp:
                return data
        except (OSError, OverflowError):
            pass
        folder = os.path.dirname(cached)
        while folder != os.path.dirname(folder) and not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        kept = not sys.dont_write_bytecode and not sys.flags.optimize and os.access(folder, os.W_OK)
        if attempt or not kept or not os.path.isfile(path):
            break
        importlib.machinery.SourceFileLoader(module, path).get_code(module)
    return None


def calls_source() -> bytes:
    """Return the program text for one call on a host, with its length in front; see `calls.py`."""
    return _source("from muster.agent.calls import main\nmain(f)")


def _source(entry: str) -> bytes:
    """Return a program text, with its length in front: these lines and all modules that they import.

    `f` is the file it was read from, whose buffer may hold what follows. Each module is compiled on its first import,
    because most runs need only some.
    """
    text = f"SOURCES={sources(entry)!r}\nCODES={{}}\n{_UNPACK}\n{entry}\n".encode()
    return b"%d\n" % len(text) + text
