"""Parsing of Python tracebacks into chains of exceptions: in a rank's output, and in the note of its site hook.

Both give the same values, the exception that ended the program first, then what led to it, back to the root.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HEAD = re.compile(r"(?<!Original )(  \+ Exception Group )?Traceback \(most recent call last\):$")
LINKS = {
    "During handling of the above exception": "while handling",
    "The above exception was the direct cause": "caused by",
}
"""What Python writes between two chained exceptions, and the words used here, where the later one comes first."""
NOISE = re.compile(r"^\[(rank\d+\]:)?\[?[WIE]\d{3,}|^\[W\d|^Exception ignored in")

_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colors and cursor movements: Python itself writes them since 3.13
_ASIDE = ("Exception ignored in", "Exception in thread", "Process ", "Error in atexit", "Exception in callback")
"""Beginnings of the line before a traceback that did not end the main thread of the rank itself."""
_FRAME = re.compile(r'^[ |]*File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>.+))?$')
_ELSEWHERE = re.compile(
    r"^(?:Original |-- Process (?P<process>\d+) terminated with the following error:\n)"
    r"Traceback \(most recent call last\):$",
    re.MULTILINE,
)
"""What a message has before the traceback of another process: of a DataLoader worker, or of mp.spawn."""
_LEAF = re.compile(r"^[ |]*\| (?P<text>[A-Za-z_][\w.]*(?:: .*)?)$")
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib(64)?/python3[.\d]*/|^<(?!stdin>|string>)")

_LONGEST = 300
"""Maximum number of characters of a line to show."""
_MOST_LINES = 14
_MOST_AFTER = 8
_MOST_FRAMES = 64


class Frame(NamedTuple):
    """A line of code that was being executed."""

    path: str
    line: int
    name: str = ""
    """The function; empty for a syntax error."""

    @property
    def of_library(self) -> bool:
        """Whether it belongs to an installed package or to Python itself."""
        return bool(_LIBRARY.search(self.path))

    @property
    def of_torch_distributed(self) -> bool:
        """Whether it is in torch.distributed."""
        return "/torch/distributed/" in self.path


class Link(NamedTuple):
    """One exception of a chain."""

    how: str
    """One of the values of `LINKS`, or the process that raised it; empty for the exception that ended the program."""
    text: str
    """Its name and message, which may have several lines."""
    frames: tuple[Frame, ...] = ()
    """From the outermost to the innermost."""
    lines: tuple[str, ...] = ()
    """The traceback as it was printed, up to the line that names the exception; empty if it was not found."""
    leaves: tuple[str, ...] = ()
    """The exceptions in a group."""

    @property
    def summary(self) -> str:
        """The first line of its text."""
        return self.text.partition("\n")[0][:500]

    @property
    def place(self) -> str:
        """The innermost line of the user's own code, or else of any: `train.py:21 in check`."""
        own = [frame for frame in self.frames if not frame.of_library]
        for frame in (own or list(self.frames))[-1:]:
            inside = f" in {frame.name}" if frame.name else ""
            return f"{frame.path.rpartition('/')[2]}:{frame.line}{inside}"
        return ""

    @property
    def of_another_process(self) -> bool:
        """Whether another process raised it, whose traceback is in the message of the one before."""
        return self.how.startswith((IN_WORKER, IN_SPAWNED))


class Found(NamedTuple):
    """A traceback in a text."""

    chain: tuple[Link, ...]
    """The exception that ended the program, what led to it, and so on; the last one is the root."""
    last: int
    """Index of the line that names the exception."""
    shown: tuple[str, ...]
    """The lines to show of the exception itself, with the rest of its message."""


def plain_text(text: str) -> str:
    """Return a text without colors and NUL."""
    return _SEQUENCE.sub("", text).replace("\0", "\ufffd")


# ---- in the output of a rank ----------------------------------------------------------------------------------------


def in_lines(lines: Sequence[str]) -> Found | None:
    """Return the last traceback that ended the main thread; None if there is none, or its end is missing."""
    heads = [
        index
        for index, line in enumerate(lines)
        if HEAD.search(line) and not (index and lines[index - 1].startswith(_ASIDE))
    ]
    last = _end(lines, heads[-1]) if heads else None
    if last is None:
        span = _syntax_error(lines)
        if span is None:
            return None
        first, last = span
    else:
        first = heads[-1]
    link = _link("", lines, first, last)
    found = [link, *_worker(link), *_causes(lines, first)]
    return Found(tuple(found), last, tuple(_shortened(lines, first, last, link.frames)))


def in_text(text: str) -> tuple[Link, ...]:
    """Return the chain of a traceback in a text, such as that of torch's `@record`; empty if there is none."""
    found = in_lines(text.split("\n"))
    return found.chain if found is not None else ()


def _link(how: str, lines: Sequence[str], first: int, last: int) -> Link:
    after, leaves = [], []
    group = bool(HEAD.search(lines[first])) and "Exception Group" in lines[first]
    for line in lines[last + 1 :]:
        if _ends_message(line):
            break
        after.append(line)
        leaf = _LEAF.match(line) if group else None
        if leaf and not leaf["text"].startswith("Traceback"):
            leaves.append(leaf["text"])
    body = lines[first : last + 1]
    text = "\n".join([lines[last].lstrip(" |"), *([] if group else after)])
    return Link(how, text[:20000], _frames(body), tuple(body), tuple(leaves))


def _ends_message(line: str) -> bool:
    return not line.strip() or bool(NOISE.match(line) or HEAD.search(line)) or line.startswith(tuple(LINKS))


def _frames(lines: Sequence[str]) -> tuple[Frame, ...]:
    found = (_FRAME.match(line) for line in lines)
    return tuple(Frame(match["path"], int(match["line"]), match["name"] or "") for match in found if match)


def _worker(link: Link) -> list[Link]:
    """Return the exception of another process, which the rank raises again with the text of its traceback."""
    found = _ELSEWHERE.search(link.text)
    if not found:
        return []
    lines = [HEAD_TEXT, *link.text[found.end() :].strip("\n").split("\n")]
    last = _end(lines, 0)
    where = IN_WORKER if found["process"] is None else f"{IN_SPAWNED}{found['process']}"
    return [] if last is None else [_link(where, lines, 0, last)]


HEAD_TEXT = "Traceback (most recent call last):"
IN_WORKER = "in a DataLoader worker"
IN_SPAWNED = "in mp.spawn's process "


def _causes(lines: Sequence[str], first: int) -> list[Link]:
    """Return the causes of the exception whose traceback begins at this line, the nearest first."""
    found: list[Link] = []
    while True:
        before = [index for index in range(first) if lines[index].strip()]
        how = next((told for words, told in LINKS.items() if before and lines[before[-1]].startswith(words)), None)
        heads = [index for index in before if HEAD.search(lines[index])]
        if how is None or not heads:
            return found
        first = heads[-1]
        last = _end(lines, first)
        if last is None:
            return found
        link = _link(how, lines, first, last)
        found += [link, *_worker(link)]


def _end(lines: Sequence[str], first: int) -> int | None:
    """Return the index of the line that names the exception of the traceback beginning at `first`."""
    # the frames of an exception group have a bar in front
    frame = ("  |  ", "  +-", "    ") if "Exception Group" in lines[first] else (" ", "\t")
    for last in range(first + 1, len(lines)):
        line = lines[last]
        if line and not line.startswith(frame) and not NOISE.match(line):
            return last
    return None


def _syntax_error(lines: Sequence[str]) -> tuple[int, int] | None:
    """Find a SyntaxError of the script itself, which has no traceback head: only file, line, marker and error."""
    for last in range(len(lines) - 1, 0, -1):
        if re.match(r"^(SyntaxError|IndentationError|TabError)\b", lines[last]):
            for first in range(last - 1, -1, -1):
                if lines[first].startswith('  File "'):
                    return first, last
    return None


# ---- the site hook's note -------------------------------------------------------------------------------------------


def of_note(note: Mapping[str, Any]) -> tuple[Link, ...]:
    """Return the chain in a note of the site hook, which may be damaged: then it is empty."""
    found: list[Link] = []
    try:
        for item in note["chain"]:
            frames = tuple(
                Frame(str(path), int(line), str(name)) for path, line, name in item["frames"][-_MOST_FRAMES:]
            )
            leaves = tuple(plain_text(str(leaf)) for leaf in item["leaves"])
            link = Link(str(item["how"]), plain_text(str(item["text"])), frames, (), leaves)
            found += [link, *_worker(link)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return tuple(found)


def as_printed(link: Link) -> list[str]:
    """Return the traceback of an exception as Python would print it, shortened; the source is read from this host."""
    lines = [HEAD_TEXT]
    for frame in link.frames:
        lines.append(f'  File "{frame.path}", line {frame.line}' + (f", in {frame.name}" if frame.name else ""))
        source = linecache.getline(frame.path, frame.line).strip()
        lines += [f"    {source}"] if source else []
    text = link.text.split("\n")
    return _shortened([*lines, *text], 0, len(lines), link.frames)


# ---- what to show ---------------------------------------------------------------------------------------------------


def shortened(link: Link) -> list[str]:
    """Return the traceback of an exception as it was printed, shortened."""
    return _shortened(link.lines, 0, len(link.lines) - 1, link.frames)


def _shortened(lines: Sequence[str], first: int, last: int, frames: Sequence[Frame]) -> list[str]:
    """Return the traceback with the rest of the message. If it is long, frames of libraries are left out first."""
    after = []
    for line in lines[last + 1 :]:
        if _ends_message(line):
            break
        after.append(line)
    if len(after) > _MOST_AFTER:
        after = [after[0], "  ...", *after[-(_MOST_AFTER - 2) :]]
    head = HEAD.search(lines[first])
    body = [head.group() if head else lines[first], *lines[first + 1 : last + 1]]
    if len(body) > _MOST_LINES:
        body = _without_libraries(body)
    return [line[:_LONGEST] for line in body + after]


def _without_libraries(body: list[str]) -> list[str]:
    """Leave frames of libraries out of a traceback, then the outermost ones of the user's code."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in body[1:-1]:
        frame = _FRAME.match(line)
        if frame or not blocks:
            blocks.append((bool(frame and Frame(frame["path"], 0).of_library), []))
        blocks[-1][1].append(line)
    room, chosen = _MOST_LINES - 3, set()
    # the innermost frame is where it was raised; then the user's own, from the innermost
    order = [len(blocks) - 1, *(index for index in reversed(range(len(blocks))) if not blocks[index][0])]
    order += [index for index in reversed(range(len(blocks))) if blocks[index][0]]
    for index in dict.fromkeys(order):
        if len(blocks[index][1]) > room:
            break
        room -= len(blocks[index][1]) + (index + 1 not in chosen and index + 1 < len(blocks))
        chosen.add(index)
    shown, gap = [body[0]], False
    for index, (_, lines) in enumerate(blocks):
        if index in chosen:
            shown, gap = [*shown, *lines], False
        elif not gap:
            shown, gap = [*shown, "  ..."], True
    return [*shown, body[-1]]
