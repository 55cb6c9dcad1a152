"""Rules about quotes: what a shell splits, expands as a pattern, or takes for letters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from muster.lint.model import Command, Expansion, Part, Span, Word
from muster.lint.rule import ERROR, NOTE, SCRIPT, WARNING, Edit, Finding, Rule
from muster.lint.scene import Scene

_NODELISTS = frozenset({"SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_NODELIST"})


_TYPOGRAPHIC = {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u00a0": " "}


def unquoted_variable(scene: Scene) -> Iterator[Finding]:
    """Variables that are split or expanded as a pattern where that is wrong."""
    yield from _unquoted(scene, _why_quote)
    yield from _unquoted_loops(scene)
    for command in scene.commands:
        for before, word in zip(command.words, command.words[1:]):
            for part in word.expansions:
                value = _with_spaces(scene, part) if part.shell.number == command.shell.number else ""
                if value and _is_one_argument(command, before, word):
                    begin, end = part.span
                    edits = (Edit(Span(begin, begin), '"'), Edit(Span(end, end), '"'))
                    message = (
                        f'{part.source} without quotes becomes {len(value.split())} arguments: its value is "{value}"'
                    )
                    yield Finding(part.span, message, () if command.shell.number else edits)


def _unquoted_loops(scene: Scene) -> Iterator[Finding]:
    """`for f in $@`."""
    blocks = {block.span: (block, command) for command in scene.commands for block in command.blocks}
    for block, command in blocks.values():
        for word in block.items:
            for part in word.expansions:
                if not part.quoted and part.kind == "variable" and part.name in ("@", "*") and not command.shell.number:
                    edits = (
                        Edit(Span(part.span.start, part.span.start), '"'),
                        Edit(Span(part.span.end, part.span.end), '"'),
                    )
                    yield Finding(part.span, f"{part.source} without quotes splits arguments at spaces", edits)


_ONE_PATH = frozenset({"cd", "pushd", "mkdir", "rm", "rmdir", "touch", "source", ".", "ls", "cat", "cp", "mv"})


_ONE_VALUE = re.compile(
    r"-J|--?(\w+[-_])*(name|dir|directory|root|notes?|title|description|comment|prompt|message|project|output|out)",
    re.IGNORECASE,
)
"""Options with one value, which is a name, a text or a path."""


def _with_spaces(scene: Scene, part: Expansion) -> str:
    """The value of a variable if it has spaces and is no list of options, and each assignment gives the same."""
    if part.quoted or part.kind != "variable":
        return ""
    values = {item.value.text if item.value is not None else None for item in scene.script.assigned(part.name)}
    value = values.pop() if len(values) == 1 else None
    if value is None or len(value.split()) < 2 or any(word[0] in "-{[" or "=" in word for word in value.split()):
        return ""
    return value


def _is_one_argument(command: Command, before: Word, word: Word) -> bool:
    """True if a word with a variable is meant as one argument: with other text, of cd, or of `--name`."""
    if command.name in ("echo", "printf", "[[", "export", "declare", "local", "readonly", "test", "[", "for", "eval"):
        return False
    if len(word.parts) > 1 and not re.search(r"[\s,:;]", "".join(_literal(part) for part in word.parts)):
        return True
    if len(word.parts) > 1:
        return False
    return command.name in _ONE_PATH or bool(before.text and _ONE_VALUE.fullmatch(before.text))


def _literal(part: Part) -> str:
    return "" if isinstance(part, Expansion) else part.text


def unquoted_nodelist(scene: Scene) -> Iterator[Finding]:
    """Node lists that are expanded as a pattern."""
    return _unquoted(scene, _why_quote_nodelist)


def _unquoted(scene: Scene, why: Callable[[Command, str, Expansion], str]) -> Iterator[Finding]:
    for command in scene.commands:
        text = scene.script.source.text[command.span.start : command.span.end]
        unknown = {part.span for word in command.argv for part in word.expansions}
        for word in command.words:
            for part in word.expansions:
                if part.quoted or part.shell.number != command.shell.number:
                    continue
                if part.kind == "array" and _is_plain(scene, part.name):
                    continue
                if part.kind == "variable" and part.span not in unknown:
                    continue  # its value is known
                message = why(command, text, part)
                if message:
                    begin, end = part.span
                    alone = len(word.parts) == 1
                    edits = (
                        (Edit(Span(begin, begin), '"'), Edit(Span(end, end), '"'))
                        if alone and not command.shell.number
                        else ()
                    )
                    yield Finding(part.span, message, edits)


def _is_plain(scene: Scene, array: str) -> bool:
    """True if no element of an array can be split or matches files."""
    items = [word for item in scene.script.assigned(array) for word in item.items]
    return bool(items) and all(
        not part.quoted if isinstance(part, Expansion) else not re.search(r"[\s*?\[]", part.text)
        for word in items
        for part in word.parts
    )


def _why_quote_nodelist(command: Command, text: str, part: Expansion) -> str:
    if part.kind == "variable" and part.name in _NODELISTS:
        return f"${part.name} is a pattern such as n[1-4]: a file named n1 in the directory replaces it"
    return ""


def _why_quote(command: Command, text: str, part: Expansion) -> str:
    if part.kind == "array" or (part.kind == "variable" and part.name in ("@", "*") and command.name != "shift"):
        return f"{part.source} without quotes splits arguments at spaces"
    if command.name == "[" and part.kind == "variable" and not command.shell.number:
        if re.match(rf"\[ +-n +{re.escape(part.source)} +\]", text):
            return f"`[ -n {part.source} ]` is true if the variable is empty"
        if re.match(rf"\[ +{re.escape(part.source)} +(=|==|!=) ", text):
            return f"`[ {part.source} = … ]` is a syntax error if the variable is empty"
    return ""


def array_in_string(scene: Scene) -> Iterator[Finding]:
    """`bash -c "… ${ARGS[@]} …"`, which passes only the first element."""
    for command in scene.commands:
        for at, word in enumerate(command.words):
            before = command.words[at - 1].text if at else ""
            script = bool(re.fullmatch(r"-[a-z]*c", before or "")) and any(
                program.name == "bash" for program in command.programs
            )
            if not script or len(word.parts) < 2:
                continue
            for part in word.expansions:
                if (
                    part.quoted
                    and part.shell.number == command.shell.number
                    and (part.kind == "array" or part.name == "@")
                ):
                    text = part.source
                    fixed = text.replace("[@]", "[*]") if part.kind == "array" else text.replace("@", "*")
                    yield Finding(
                        part.span,
                        f"`{text}` in a longer string becomes several arguments, and `-c` takes the first only",
                        (Edit(part.span, fixed),) if not command.shell.number else (),
                    )


def typographic_character(scene: Scene) -> Iterator[Finding]:
    """Dashes and quotes of a word processor."""
    source = scene.script.source
    comments = [comment.span for comment in scene.script.comments if not comment.text.startswith("#SBATCH")]
    for command in (*scene.commands,):
        if command.shell.number or command.name in ("echo", "printf", "cat"):
            continue
        for word in command.words:
            text = source.text[word.span.start : word.span.end]
            if text[:1] in ("'", '"') or any(span.start <= word.span.start < span.end for span in comments):
                continue
            if dash := re.match("-?([\u2013\u2014\u2212])(?=[A-Za-z])", text):
                dashes = "--" if len(text.partition("=")[0]) > 2 else "-"
                yield Finding(
                    word.span,
                    f"`{dash[1]}` is a dash of a word processor, not a hyphen",
                    (Edit(Span(word.span.start, word.span.start + dash.end()), dashes),),
                )
            elif re.search("[\u201c\u201d\u2018\u2019]", text) and not re.search("[\"']", text):
                edits = tuple(
                    Edit(Span(word.span.start + at, word.span.start + at + 1), _TYPOGRAPHIC[letter])
                    for at, letter in enumerate(text)
                    if letter in _TYPOGRAPHIC
                )
                yield Finding(
                    word.span, "these are quotes of a word processor: the shell takes them for letters", edits
                )
    for item in scene.script.directives:
        text = source.text[item.span.start : item.span.end]
        match = re.search("[\u2013\u2014\u2212]", text)
        if match and match.start() == len(text) - len(text.lstrip("#SBATCH ")):
            yield Finding(item.span, "the line has a dash of a word processor instead of `--`")


_ONE = "#!/bin/bash\n"


RULES = (
    Rule(
        "unquoted-variable",
        WARNING,
        SCRIPT,
        unquoted_variable,
        "a variable without quotes where its value is split or matches files",
        "The shell splits the value at spaces and replaces `[1-4]`, `*` and `?` by names of files in the directory.",
        'Write `"$@"`, `"${ARGS[@]}"`, `"$NAME"`.',
        f"{_ONE}python train.py $@\n",
        f'{_ONE}python train.py "$@"\n',
        True,
    ),
    Rule(
        "unquoted-nodelist",
        NOTE,
        SCRIPT,
        unquoted_nodelist,
        "a node list without quotes",
        "The shell takes `n[1-4]` as a pattern: it replaces it by the files n1 to n4 if the directory has them.",
        'Write `"$SLURM_JOB_NODELIST"`.',
        f"{_ONE}scontrol show hostnames $SLURM_JOB_NODELIST\n",
        f'{_ONE}scontrol show hostnames "$SLURM_JOB_NODELIST"\n',
        True,
    ),
    Rule(
        "array-in-string",
        ERROR,
        SCRIPT,
        array_in_string,
        '`bash -c "… ${ARGS[@]} …"`',
        "In a string, `[@]` makes several arguments of it. `bash -c` runs the first; the others become $0, $1, and "
        "so on: all arguments but the first are lost.",
        "Write `${ARGS[*]}`, or `$*` for `$@`.",
        f'{_ONE}srun bash -c "python train.py ${{ARGS[@]}}"\n',
        f'{_ONE}srun bash -c "python train.py ${{ARGS[*]}}"\n',
        True,
    ),
    Rule(
        "typographic-character",
        ERROR,
        SCRIPT,
        typographic_character,
        "dashes and quotes of a word processor in a command",
        "`–nodes` is not an option, and “a b” are two words. Text that is copied from a web page or a PDF has them.",
        "Type them again: `--`, `\"`, `'`.",
        f"{_ONE}srun \u2013nodes=2 hostname\n",
        f"{_ONE}srun --nodes=2 hostname\n",
        True,
    ),
)
