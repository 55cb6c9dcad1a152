"""The model of a shell script: commands, words, variables, `#SBATCH` lines, and which shell expands and runs what.

`parse.read_script` builds it. A script is a tree of *shells*: the script itself and each script inside it: the text of
`bash -c`, of `ssh HOST`, of `eval`, and heredocs that are written to a file or given to `sbatch`. Every expansion
(`$X`, `$(…)`) knows the shell that expands it, because that decides its value: in `srun bash -c "echo $SLURM_PROCID"`
it is expanded by the batch shell, where it is always 0; in `srun bash -c 'echo $SLURM_PROCID'` by each task.

    script = read_script(Source("job.sbatch", text))
    for command in script.everything():                    # with the commands of all nested shells
        for program in command.programs:                   # srun, then bash; or mpirun, then python
            nodes = program.value("--nodes")               # a Word, or None
            if nodes is not None and nodes.text == "2": …  # text is None where a value is not known

Positions are `Span`s: offsets into the text of the file, also inside nested shells.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, Union

_SCRIPT = re.compile(r"script|file|prog|main|train|cmd|py|path|exe|entry", re.IGNORECASE)
"""Names of variables for what is started, rather than for options."""


class Span(NamedTuple):
    """A part of a file: offsets of its first character and of the one after its last."""

    start: int
    end: int


class Source:
    """A file to be checked: its path and text, with the lines by offset."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, from 1, without its end."""
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[self._starts[number - 1] : end].rstrip("\r\n")

    def start_of(self, number: int) -> int:
        """Offset of the first character of a line, from 1."""
        return self._starts[number - 1]

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self._starts) - (1 if self.text.endswith("\n") or not self.text else 0)

    def __repr__(self) -> str:
        return f"Source({self.path!r}, …)"


class Literal(NamedTuple):
    """Text of a word that is known: written there, or from a variable whose value is known."""

    text: str
    at: int
    """Offset where the text is written; for the value of a variable, in its assignment."""
    quoted: bool = False


class Expansion(NamedTuple):
    """A part of a word whose value is not known from the script: `$X`, `${X:-1}`, `$(…)`, `$((…))`, `<(…)`."""

    kind: str
    """variable (also positional parameters, as `1` and `@`), default (`${X:-…}`), array (`${X[@]}`), joined
    (`${X[*]}`), element (`${X[0]}`), modified (other `${…}`), command, arithmetic or process."""
    name: str
    """The variable; empty for command, arithmetic and process."""
    span: Span
    shell: Shell
    """The shell that expands it."""
    quoted: bool = False
    names: tuple[str, ...] = ()
    """All variables that it reads."""
    commands: tuple[Command, ...] = ()
    """The commands of `$(…)`, in order, without those inside of them."""
    source: str = ""
    """As it is written."""
    fallback: str | None = None
    """The text after `:-`, `-`, `:=` and `=` of a default, if it is literal."""


Part = Union[Literal, Expansion]


class Word(NamedTuple):
    """One argument, value or pattern."""

    parts: tuple[Part, ...]
    span: Span

    @property
    def text(self) -> str | None:
        """The value, if all of it is known; None otherwise."""
        texts = [part.text for part in self.parts if isinstance(part, Literal)]
        return "".join(texts) if len(texts) == len(self.parts) else None

    @property
    def shown(self) -> str:
        """The word for messages: the known text, and unknown parts as they are written, without quotes."""
        return "".join(part.text if isinstance(part, Literal) else part.source for part in self.parts)

    @property
    def start(self) -> str:
        """The known text at the beginning of the word."""
        text = ""
        for part in self.parts:
            if not isinstance(part, Literal):
                break
            text += part.text
        return text

    @property
    def expansions(self) -> tuple[Expansion, ...]:
        """The unknown parts."""
        return tuple(part for part in self.parts if isinstance(part, Expansion))

    @property
    def names(self) -> frozenset[str]:
        """All variables that the unknown parts read."""
        return frozenset(name for part in self.expansions for name in part.names)

    @property
    def only(self) -> Expansion | None:
        """The expansion, if the word is nothing else."""
        part = self.parts[0] if len(self.parts) == 1 else None
        return part if isinstance(part, Expansion) else None

    @property
    def may_split(self) -> bool:
        """True if it may stand for any number of arguments: an unquoted expansion, or `"$@"` and `"${A[@]}"`."""
        return any(
            (not part.quoted and part.kind != "arithmetic") or (part.name == "@" or part.kind == "array")
            for part in self.expansions
        )

    def after(self, count: int) -> Word:
        """The word without its first characters, which are literal."""
        parts: list[Part] = []
        for part in self.parts:
            if isinstance(part, Literal) and count:
                cut = min(count, len(part.text))
                count -= cut
                if cut < len(part.text):
                    parts.append(Literal(part.text[cut:], part.at + cut, part.quoted))
            else:
                parts.append(part)
        first = parts[0] if parts else None
        inside = isinstance(first, Literal) and self.span.start <= first.at < self.span.end
        begin = first.span.start if isinstance(first, Expansion) else first.at if first and inside else self.span.start
        return Word(
            tuple(parts), Span(begin if self.span.start <= begin < self.span.end else self.span.start, self.span.end)
        )


class Option(NamedTuple):
    """An option of a program."""

    name: str
    """The canonical long name with hyphens where the program has one: `--nodes` for srun's `-N`; otherwise as typed."""
    value: Word | None
    """None for an option without a value."""
    span: Span
    """From the option to the end of its value."""


class Program(NamedTuple):
    """A program and its options, where what it starts is a `Program` of its own: srun, then torchrun, then python."""

    name: str
    """The name without its directory: srun, torchrun, accelerate, deepspeed, mpirun, ssh, bash, python, singularity, …
    `python -m torch.distributed.run` is torchrun, `python -m torch.distributed.launch` is torch.distributed.launch,
    `mpiexec` and `orterun` are mpirun, apptainer is singularity. Empty if the name is not known."""
    options: tuple[Option, ...]
    operands: tuple[Word, ...]
    """What follows the options: for a launcher the script and its arguments, for a wrapper what it starts."""
    word: Word
    """The name as it is written."""

    def option(self, *names: str) -> Option | None:
        """The last option with one of these canonical names."""
        return next((option for option in reversed(self.options) if option.name in names), None)

    def value(self, *names: str) -> Word | None:
        """The value of the last option with one of these names."""
        found = self.option(*names)
        return found.value if found else None

    def has(self, *names: str) -> bool:
        """True if it has one of these options."""
        return self.option(*names) is not None

    @property
    def is_known(self) -> bool:
        """True if no argument can hide further options: no unquoted `$ARGS` before or as the first operand."""
        first = self.operands[0].only if len(self.operands) > 1 and self.operands[0].may_split else None
        hides = first is not None and first.kind != "command" and not _SCRIPT.search(first.name)
        return not hides and not any(option.name == "?" for option in self.options)


class Shell(NamedTuple):
    """A shell that expands and runs commands."""

    kind: str
    """batch (the script that sbatch runs), script (another shell script), step (each task of srun or mpirun), remote
    (ssh, pdsh), or file (a script written by a heredoc, or a function exported with `export -f`: it runs wherever it is
    called). `bash -c`, `eval` and the command of a trap have the kind of the shell around them."""
    launchers: tuple[Program, ...] = ()
    """The programs between the script and this shell, outermost first."""
    number: int = 0
    """Tells shells apart: 0 is the script itself."""
    starts: tuple[int, ...] = ()
    """Offsets of the commands that start this shell, outermost first; its text may be written elsewhere."""

    @property
    def is_batch(self) -> bool:
        """True if variables of the task, such as SLURM_PROCID, have the values of the batch step here."""
        return self.kind == "batch"


class Redirect(NamedTuple):
    """A redirection."""

    operator: str
    """`<`, `>`, `>>`, `&>`, `2>`, `2>&1`, `<<`, `<<<` …"""
    target: Word | None
    """None for a heredoc."""


class Block(NamedTuple):
    """A loop or a choice around commands."""

    kind: str
    """for, while, until, if or case; test for `[ … ] && command`."""
    span: Span
    variable: str = ""
    """The variable of a `for` loop."""
    items: tuple[Word, ...] = ()
    """What a `for` loop goes through."""
    names: frozenset[str] = frozenset()
    """The variables that a loop sets."""


class Command(NamedTuple):
    """A simple command. Prefix assignments (`A=1 cmd`) are in `assignments`."""

    words: tuple[Word, ...]
    """As they are written."""
    argv: tuple[Word, ...]
    """The words after variables with known values were expanded and split; what is unknown stays an `Expansion`."""
    programs: tuple[Program, ...]
    """The first is what the shell runs, the last what is finally started; empty for a bare redirection."""
    assignments: tuple[Assignment, ...]
    redirects: tuple[Redirect, ...]
    span: Span
    shell: Shell
    background: bool = False
    """True with `&`, also if the `&` is behind an enclosing loop or subshell."""
    piped_to: str = ""
    """The name of the next program in the pipeline."""
    piped_from: str = ""
    """The name of the one before; for a loop that reads a pipe, the one before the loop."""
    loop: str = ""
    """The kind of the innermost loop: `for`, `while` or `until`; empty outside of loops."""
    loop_stdin: bool = False
    """True in a `while read` loop, whose stdin the command inherits."""
    function: str = ""
    """The function in whose body it is."""
    conditional: bool = False
    """True if it may not be executed: in `if`, `case`, a loop, a function, or after `&&` and `||`."""
    subshell: bool = False
    """True in `( … )` and `$(…)`, where assignments are lost at the end."""
    blocks: tuple[Block, ...] = ()
    """The loops and choices around it, outermost first; also those around the call of its function, and around the
    command whose script it is in."""

    @property
    def name(self) -> str:
        """The name of the first program; empty if it is not known."""
        return self.programs[0].name if self.programs else ""

    def program(self, *names: str) -> Program | None:
        """The outermost of its programs with one of these names."""
        return next((program for program in self.programs if program.name in names), None)


class Assignment(NamedTuple):
    """`X=value`, alone, before a command, or with export, declare, local and readonly."""

    name: str
    value: Word | None
    """As it is written, with known variables expanded; None for an array, for `export X`, `read X` and the like."""
    items: tuple[Word, ...]
    """The elements of an array."""
    span: Span
    shell: Shell
    exported: bool = False
    """True with export or `declare -x`, and before a command."""
    temporary: bool = False
    """True before a command (`A=1 cmd`)."""
    conditional: bool = False
    function: str = ""
    append: bool = False
    """True for `+=`."""
    names: frozenset[str] = frozenset()
    """The variables that the value reads, as it is written."""


class Directive(NamedTuple):
    """An option of a `#SBATCH` line. A line with several options gives several."""

    option: Option
    span: Span
    """The whole line."""
    effective: bool
    """False if sbatch ignores it, because a command stands before it."""
    component: int = 0
    """The component of a heterogeneous job: the number of `#SBATCH hetjob` lines before it."""


class Comment(NamedTuple):
    """A comment, with its `#`."""

    text: str
    span: Span


class Heredoc(NamedTuple):
    """The text of a heredoc."""

    body: Word
    """Its text; variables are expanded unless the delimiter is quoted."""
    literal: bool
    """True if the delimiter is quoted."""
    span: Span
    command: Command
    """The command that reads it."""
    target: str | None
    """The file that it is written to, if that is known."""


class Script(NamedTuple):
    """A script: one shell with what it runs, and the scripts inside it."""

    source: Source
    shell: Shell
    shebang: str
    directives: tuple[Directive, ...]
    commands: tuple[Command, ...]
    """All commands of this shell in the order in which they are written, also those in functions and in `$(…)`."""
    assignments: tuple[Assignment, ...]
    comments: tuple[Comment, ...]
    heredocs: tuple[Heredoc, ...]
    functions: tuple[str, ...]
    nested: tuple[Script, ...]
    """The scripts of `bash -c`, `eval`, `ssh` and of heredocs."""
    errors: tuple[Span, ...]
    """Places that are not valid shell."""

    def scripts(self) -> Iterator[Script]:
        """This script and all that are inside it."""
        yield self
        for inner in self.nested:
            yield from inner.scripts()

    def everything(self) -> Iterator[Command]:
        """The commands of this script and of all scripts inside it."""
        for script in self.scripts():
            yield from script.commands

    def assigned(self, *names: str) -> list[Assignment]:
        """The assignments to these variables, here and in all scripts inside it."""
        return [item for script in self.scripts() for item in script.assignments if item.name in names]

    def directive(self, *names: str) -> Option | None:
        """The option of the last effective `#SBATCH` line, of the first component, that sets one of these."""
        own = (item for item in self.directives if item.effective and not item.component)
        found = [item.option for item in own if item.option.name in names]
        return found[-1] if found else None

    @property
    def is_batch(self) -> bool:
        """True for a script of sbatch."""
        return self.shell.kind == "batch"
