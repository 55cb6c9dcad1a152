"""Analysis of a rank's failure from the last lines of its stderr. It needs no help from the rank, in any language."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_HEAD = re.compile(r"(?<!Original )(  \+ Exception Group )?Traceback \(most recent call last\):$")
_LINK = {
    "During handling of the above exception": "while handling",
    "The above exception was the direct cause": "caused by",
}
"""What Python writes between two chained exceptions, and the words used here, where the later one comes first."""
_FATAL = ("Fatal Python error", "terminate called")
_IGNORED = "Exception ignored in"  # what follows is not a cause of failure
_RANK = re.compile(r"^\[rank\d+\]:\s?")  # torch.distributed's prefix of each line of a traceback
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colors and cursor movements: Python itself writes them since 3.13
_NOISE = re.compile(r"^\[(rank\d+\]:)?\[?[WIE]\d{3,}|^\[W\d|^Exception ignored in")

LOST_PEER = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Connection refused|Broken pipe|gloo[/\\]transport"
    r"|remote process (exited|has)|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
    r"|DistNetworkError|DistStoreError|Socket closed|recvValue failed|sendBytes failed|recvBytes"
    r"|Watchdog caught collective operation timeout|monitoredBarrier|Timed out waiting \d+ms",
    re.IGNORECASE,
)
"""Messages of a rank that failed because a peer was gone."""

_OF_TORCH = re.compile(r"(torch\.[\w.]*|RuntimeError|Dist\w+Error)\b")

_MOST_LINES = 14
_MOST_AFTER = 8
_MOST_CAUSES = 3
_FEW_LINES = 5
"""Number of lines to show of a text without a traceback; more if their paragraph begins earlier."""


def explain(stderr: bytes, signalled: bool = False, mixed: bool = False) -> dict[str, Any]:
    """Return {kind, summary, frames} from the end of a rank's stderr; `signalled` if a signal killed it.

    `kind` is `raised` for a Python exception of the rank's own, `lost peer` for one caused by the end of another rank,
    and `ended` without a traceback; `frames` are then the last lines, or none if stdout is `mixed` into them, which
    says nothing about the cause.
    """
    plain = _SEQUENCE.sub("", stderr.decode("utf-8", "replace"))
    lines = [line.rstrip("\r") for line in plain.split("\n")]
    # of a line that was redrawn (a progress bar), the last version
    lines = [_RANK.sub("", line.rpartition("\r")[2].rstrip()) for line in lines]
    found = _traceback(lines) or _syntax_error(lines)
    if found and signalled and any(line.strip() and not _NOISE.match(line) for line in lines[found[1] + 1 :]):
        found = None  # it continued after that one
    if found:
        first, last = found
        causes = _causes(lines, first)
        lost = any(LOST_PEER.search(line) for line in lines[last:][:4])
        # a script may wrap torch's exception; other programs whose connection is refused are not ranks
        lost = lost or any(
            _OF_TORCH.match(lines[cause.last]) and LOST_PEER.search(lines[cause.last]) for cause in causes
        )
        kind = "lost peer" if lost else "raised"
        frames = _shortened(lines, first, last) + _told(lines, causes)
        return {"kind": kind, "summary": lines[last].lstrip(" |")[:500], "frames": frames}
    for index, line in enumerate(lines):
        if line.startswith(_FATAL):
            words = [line for line in lines[index:] if line][:_MOST_LINES]
            words = words if line.startswith("Fatal") else [line for line in words if not line.startswith("frame #")]
            told = words[1] if len(words) > 1 and "what():" in words[1] else line
            frames = lines[index : index + _MOST_LINES] if line.startswith("Fatal") else words
            return {"kind": "ended", "summary": told.strip()[:500], "frames": _trimmed(frames)}
    words = [] if mixed else _last_words(lines)
    kind = "lost peer" if any(LOST_PEER.search(line) for line in words) else "ended"
    return {"kind": kind, "summary": words[-1][:500] if words else "", "frames": words}


def _last_words(lines: list[str]) -> list[str]:
    """Return the last nonempty lines: a few, or more up to the start of the paragraph in which they stand."""
    found: list[str] = []
    for line in reversed(lines):
        if line.strip():
            found.insert(0, line)
        elif len(found) >= _FEW_LINES:
            break
        if len(found) == _MOST_LINES:
            break
    return found


class _Cause(NamedTuple):
    """An exception that led to a later one."""

    how: str
    """One of the values of `_LINK`."""
    first: int
    last: int
    """Indices of the lines where its traceback begins and where the exception is named."""


def _causes(lines: list[str], first: int) -> list[_Cause]:
    """Return the causes of the exception whose traceback begins at this line, the nearest first."""
    found: list[_Cause] = []
    while True:
        before = [index for index in range(first) if lines[index].strip()]
        how = next((told for words, told in _LINK.items() if before and lines[before[-1]].startswith(words)), None)
        heads = [index for index in before if _HEAD.search(lines[index])]
        if how is None or not heads:
            return found
        first = heads[-1]
        last = _end(lines, first)
        if last is None:
            return found
        found.append(_Cause(how, first, last))


def _told(lines: list[str], causes: list[_Cause]) -> list[str]:
    """Return each cause with the place where it was raised; of many the nearest and the first ones."""
    if len(causes) > _MOST_CAUSES:
        causes = [causes[0], *causes[1 - _MOST_CAUSES :]]
    told = []
    for how, first, last in causes:
        told.append(f"{how} {lines[last]}"[:500])
        places = [index for index in range(first, last) if lines[index].startswith('  File "')]
        body = lines[places[-1] : last] if places else []
        told += [line for line in body if line.strip(" ^~")][:3]
    return told


def _traceback(lines: list[str]) -> tuple[int, int] | None:
    """Return (first line, line of the exception) of the last traceback that was not ignored at exit, or None."""
    heads = [
        index
        for index, line in enumerate(lines)
        if _HEAD.search(line) and not (index and lines[index - 1].startswith(_IGNORED))
    ]
    last = _end(lines, heads[-1]) if heads else None
    return None if last is None else (heads[-1], last)


def _end(lines: list[str], first: int) -> int | None:
    """Return the index of the line that names the exception of the traceback beginning at `first`."""
    # the frames of an exception group have a bar in front
    frame = ("  |  ", "  +-", "    ") if "Exception Group" in lines[first] else (" ", "\t")
    for last in range(first + 1, len(lines)):
        line = lines[last]
        if line and not line.startswith(frame) and not _NOISE.match(line):
            return last
    return None


def _syntax_error(lines: list[str]) -> tuple[int, int] | None:
    """Find a SyntaxError of the script itself, which has no traceback head: only file, line, marker and error."""
    for last in range(len(lines) - 1, 0, -1):
        if re.match(r"^(SyntaxError|IndentationError|TabError)\b", lines[last]):
            for first in range(last - 1, -1, -1):
                if lines[first].startswith('  File "'):
                    return first, last
    return None


def _shortened(lines: list[str], first: int, last: int) -> list[str]:
    """Return the traceback with the rest of the exception's message; the middle is omitted if it is long."""
    after = []
    for line in lines[last + 1 :]:
        if not line.strip() or _NOISE.match(line) or _HEAD.search(line) or line.startswith(tuple(_LINK)):
            break
        after.append(line)
    if len(after) > _MOST_AFTER:
        after = [after[0], "  ...", *after[-(_MOST_AFTER - 2) :]]
    head = _HEAD.search(lines[first])
    body = [head.group() if head else lines[first], *lines[first + 1 : last + 1]]
    if len(body) > _MOST_LINES:
        body = [body[0], "  ...", *body[-(_MOST_LINES - 2) :]]
    return body + after


def _trimmed(lines: list[str]) -> list[str]:
    """Remove empty lines at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
