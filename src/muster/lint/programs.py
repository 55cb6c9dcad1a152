"""From the words of a command to its programs: wrappers such as env, srun and singularity, and what they start."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from muster.lint.model import Expansion, Literal, Option, Program, Word
from muster.lint.options import read_options
from muster.lint.syntaxes import ALIASES, BASH, ENDS, WRAPPERS, Wrapper

_PYTHON = re.compile(r"(python|pypy)[0-9.]*|ipython")
_VERSIONED = re.compile(r"(torchrun|deepspeed|accelerate|bash)(-[0-9.]+)")
_ASSIGN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torch.distributed.launch",
    "accelerate.commands.launch": "accelerate",
    "accelerate.commands.accelerate_cli": "accelerate",
    "accelerate": "accelerate",
    "deepspeed.launcher.runner": "deepspeed",
    "deepspeed": "deepspeed",
}


class Inner(NamedTuple):
    """The text of a script inside a command."""

    kind: str
    """local, step, remote or batch, as in `Shell.kind`."""
    words: tuple[Word, ...]
    """It is these words, joined by spaces."""


class Programs(NamedTuple):
    """The programs of a command, and the script that the last of them gets as an argument."""

    programs: tuple[Program, ...]
    inner: Inner | None
    reads_stdin: str = ""
    """The kind of shell that reads a script from stdin, as `bash -s` and `ssh HOST` do; empty if none does."""


def programs_of(argv: Sequence[Word]) -> Programs:
    """Split the words of a command into the programs that start each other."""
    found: list[Program] = []
    words, kind = list(argv), "local"
    while words:
        while words and found and _ASSIGN.match(words[0].start):
            words.pop(0)
        if not words:
            break
        name = program_name(words[0])
        if name == "bash":
            return _shell(words, found, kind)
        if name == "eval":
            found.append(Program("eval", (), tuple(words[1:]), words[0]))
            return Programs(tuple(found), Inner(kind, tuple(words[1:])) if words[1:] else None)
        if name == "trap" and len(words) > 2:
            found.append(Program("trap", (), tuple(words[1:]), words[0]))
            handler = words[1].text or ""
            return Programs(tuple(found), Inner(kind, (words[1],)) if handler.strip("-") else None)
        typed = _typed(words[1:]) if name in ("tmux", "screen") else None
        if typed is not None:
            found.append(Program(name, (), tuple(words[1:]), words[0]))
            return Programs(tuple(found), Inner(kind, (typed,)))
        program, rest = _program(name, words)
        found.append(program)
        if program.name in ("srun", "mpirun"):
            kind = "step"
            if rest is not None:  # `srun a : b` starts several programs; this is the first
                rest = rest[: next((at for at, word in enumerate(rest) if word.text == ":"), len(rest))]
        if program.name in ("ssh", "pdsh", "clush"):
            return _remote(program, rest, found)
        if program.name == "sbatch":
            wrapped = program.value("--wrap")
            inner = Inner("batch", (wrapped,)) if wrapped else None
            return Programs(tuple(found), inner, "" if program.operands or wrapped else "batch")
        if rest is None and kind == "step" and program.name not in (*_QUIET, *ENDS):
            rest = _behind(words)
        if rest is None or program.name in ENDS or program.has("--multi-prog"):
            break
        words = rest
    return Programs(tuple(found), None)


_QUIET = ("echo", "printf", "cat", "which", "type", "hostname", "test", "grep", "ray")
_LAUNCHERS = ("torchrun", "torch.distributed.launch", "accelerate", "deepspeed")


def _behind(words: Sequence[Word]) -> list[Word] | None:
    """Return the words from a launcher or a shell on that an unknown program starts: `./bind.sh torchrun …`."""
    for at, word in enumerate(words[1:], 1):
        name = program_name(word) if word.parts else ""
        after = words[at + 1].start if at + 1 < len(words) else ""
        if words[at - 1].start.startswith("--") and not words[0].start.endswith(".sh"):
            continue  # `./train --launcher torchrun`
        if name in _LAUNCHERS and not word.start.endswith(".sh") and (name != "accelerate" or after == "launch"):
            return list(words[at:])
        if name == "python" and after == "-m" and at + 2 < len(words) and words[at + 2].text in _MODULES:
            return list(words[at:])
        if name == "bash" and re.fullmatch(r"-[a-z]*c", after):
            return list(words[at:])
    return None


_ENTER = ("\\n", "\\r", "^M")
_TYPED = ("new-session", "new", "new-window", "neww", "split-window", "splitw", "respawn-pane")
"""Commands of tmux whose last argument is for a shell."""


def _typed(words: Sequence[Word]) -> Word | None:
    """The text that tmux or screen gives to a shell: a word with spaces, of `new-session`, `send-keys`, `-X stuff`."""
    named = next((word.start for word in words if not word.start.startswith("-")), "")
    chosen: Sequence[Word] = ()
    if named in ("send-keys", "send"):
        chosen = words
    elif named in _TYPED or any(word.text == "stuff" for word in words):
        chosen = words[-1:]
    spaced = (word for word in chosen for part in word.parts if isinstance(part, Literal) and " " in part.text)
    found = next(spaced, None)
    last = found.parts[-1] if found is not None else None
    if found is not None and isinstance(last, Literal) and last.text.endswith(_ENTER):  # screen's own escapes
        return Word((*found.parts[:-1], last._replace(text=last.text[:-2])), found.span)
    return found


def _program(name: str, words: Sequence[Word]) -> tuple[Program, list[Word] | None]:
    """Return the first program of the words and what it starts; None if it starts nothing that is known."""
    first, rest = words[0], list(words[1:])
    if name == "python":
        return _python(first, rest)
    forms = WRAPPERS.get(name, ())
    wrapper, skipped = _form(forms, rest)
    if wrapper is None:
        return Program(name, (), tuple(rest), first), None
    return _wrapped(name, first, wrapper, rest[skipped:])


def _wrapped(name: str, first: Word, wrapper: Wrapper, rest: list[Word]) -> tuple[Program, list[Word]]:
    options, count = read_options(wrapper.syntax, rest, wrapper.operands)
    operands = rest[count:]
    if wrapper.assigns:
        begin = next((at for at, word in enumerate(operands) if not _ASSIGN.match(word.start)), len(operands))
        return Program(name, options, tuple(operands), first), operands[begin:]
    return Program(name, options, tuple(operands), first), operands[wrapper.operands :]


def _form(forms: Sequence[Wrapper], rest: Sequence[Word]) -> tuple[Wrapper | None, int]:
    """Return the form of a program that the words have, and the number of words up to its subcommand."""
    for wrapper in forms:
        if not wrapper.words:
            return wrapper, 0
        for at, word in enumerate(rest):
            if word.text == wrapper.words[0]:
                return wrapper, at + 1
            if not word.start.startswith("-"):
                break
    return None, 0


def _python(first: Word, rest: list[Word]) -> tuple[Program, list[Word] | None]:
    module = None
    before: list[Word] = []
    for at, word in enumerate(rest):
        text = word.start
        if text == "-m" and at + 1 < len(rest):
            module, after = rest[at + 1], rest[at + 2 :]
            break
        if text.startswith("-m") and len(text) > 2:
            module, after = word.after(2), rest[at + 1 :]
            break
        if not text.startswith("-") or text in ("-", "-c"):
            break
        before.append(word)
    if module is not None:
        name = _MODULES.get(module.text or "", "")
        if name:
            wrapper, skipped = _form(WRAPPERS[name], after)
            if wrapper is None:
                wrapper, skipped = WRAPPERS[name][0], 0
            program, _ = _wrapped(name, module, wrapper, after[skipped:])
            return program, None
        return Program("python", (Option("-m", module, module.span),), tuple(after), first), None
    options, count = read_options(WRAPPERS["python"][0].syntax, rest)
    return Program("python", options, tuple(rest[count:]), first), None


def _shell(words: Sequence[Word], found: list[Program], kind: str) -> Programs:
    options, count = read_options(BASH, words[1:])
    operands = tuple(words[1 + count :])
    program = Program("bash", options, operands, words[0])
    programs = (*found, program)
    if program.has("-c"):
        return Programs(programs, Inner(kind, operands[:1]) if operands else None)
    return Programs(programs, None, kind if not operands or program.has("-s") else "")


def _remote(program: Program, rest: list[Word] | None, found: Sequence[Program]) -> Programs:
    words = tuple(rest or ())
    if not words:
        return Programs(tuple(found), None, "remote" if program.name == "ssh" and program.operands else "")
    inside = programs_of(words)
    if inside.reads_stdin:  # ssh HOST bash -s <<EOF
        return Programs((*found, *inside.programs), None, "remote")
    return Programs(tuple(found), Inner("remote", words))


def program_name(word: Word) -> str:
    """The canonical name of a program; empty if it is not known."""
    text = _written(word)
    name = text.rpartition("/")[2]
    if name.startswith("\\"):
        name = name[1:]
    if _PYTHON.fullmatch(name):
        return "python"
    match = _VERSIONED.fullmatch(name)
    name = match[1] if match else name
    return ALIASES.get(name, name)


def _written(word: Word) -> str:
    """The path or name of a program, also if only its end is known, and of `$(which torchrun)`."""
    last = word.parts[-1] if word.parts else None
    if word.text is not None:
        return word.text
    if isinstance(last, Literal):
        return last.text if "/" in last.text else ""
    assert isinstance(last, Expansion)
    if last.fallback:
        return last.fallback
    if last.kind == "command" and len(last.commands) == 1:
        texts = [inner.text for inner in last.commands[0].argv]
        if texts[:1] == ["which"] or texts[:2] == ["command", "-v"]:
            return texts[-1] or ""
    if last.kind == "variable" and re.fullmatch(
        r"(.*_)?(PYTHON|PY)(3|_BIN|_EXE|_PATH|_CMD)?|python3?", last.name, re.I
    ):
        return "python"
    return ""
