"""Why a rank failed, by the last words on its stderr. Nothing in the rank has to help, and any language will do."""

from __future__ import annotations

import re
from typing import Any

_HEAD = re.compile(r"(?<!Original )(  \+ Exception Group )?Traceback \(most recent call last\):$")
_LINK = ("During handling of the above exception", "The above exception was the direct cause")
_FATAL = ("Fatal Python error", "terminate called")
_IGNORED = "Exception ignored in"  # and what follows is no reason to fail
_RANK = re.compile(r"^\[rank\d+\]:\s?")  # torch.distributed puts this before each line of a traceback
_NOISE = re.compile(r"^\[(rank\d+\]:)?\[?[WIE]\d{3,}|^\[W\d|^Exception ignored in")

LOST_PEER = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Connection refused|Broken pipe|gloo[/\\]transport"
    r"|remote process (exited|has)|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
    r"|DistNetworkError|DistStoreError|Socket closed|recvValue failed|sendBytes failed|recvBytes"
    r"|Watchdog caught collective operation timeout|monitoredBarrier|Timed out waiting \d+ms",
    re.IGNORECASE,
)
"""Words of a rank that fell because another one was gone."""

_MOST_LINES = 14
_MOST_AFTER = 8


def explain(stderr: bytes, signalled: bool = False) -> dict[str, Any]:
    """{kind, summary, frames} of the bytes at the end of a rank's stderr; `signalled` when a signal ended it.

    `kind` is `raised` for a Python exception of its own, `lost peer` for one that tells of another rank's end, and
    `ended` when there is no traceback; then the last lines stand for themselves.
    """
    lines = [line.rstrip("\r") for line in stderr.decode("utf-8", "replace").split("\n")]
    # of a line that was drawn over and over (a progress bar), what stood there last
    lines = [_RANK.sub("", line.rpartition("\r")[2].rstrip()) for line in lines]
    found = _traceback(lines) or _syntax_error(lines)
    if found and signalled and any(line.strip() and not _NOISE.match(line) for line in lines[found[1] + 1 :]):
        found = None  # it went on after that one
    if found:
        first, last = found
        kind = "lost peer" if any(LOST_PEER.search(line) for line in lines[last:][:4]) else "raised"
        return {"kind": kind, "summary": lines[last].lstrip(" |")[:500], "frames": _shortened(lines, first, last)}
    for index, line in enumerate(lines):
        if line.startswith(_FATAL):
            words = [line for line in lines[index:] if line][:_MOST_LINES]
            words = words if line.startswith("Fatal") else [line for line in words if not line.startswith("frame #")]
            told = words[1] if len(words) > 1 and "what():" in words[1] else line
            frames = lines[index : index + _MOST_LINES] if line.startswith("Fatal") else words
            return {"kind": "ended", "summary": told.strip()[:500], "frames": _trimmed(frames)}
    words = [line for line in lines if line.strip()][-5:]
    kind = "lost peer" if any(LOST_PEER.search(line) for line in words) else "ended"
    return {"kind": kind, "summary": words[-1][:500] if words else "", "frames": words}


def _traceback(lines: list[str]) -> tuple[int, int] | None:
    """(first line, line of the exception) of the last traceback that is no exception ignored at exit, or None."""
    heads = [
        index
        for index, line in enumerate(lines)
        if _HEAD.search(line) and not (index and lines[index - 1].startswith(_IGNORED))
    ]
    if not heads:
        return None
    first = heads[-1]
    # the frames of a group stand behind a bar
    frame = ("  |  ", "  +-", "    ") if "Exception Group" in lines[first] else (" ", "\t")
    for last in range(first + 1, len(lines)):
        line = lines[last]
        if line and not line.startswith(frame) and not _NOISE.match(line):
            return first, last
    return None


def _syntax_error(lines: list[str]) -> tuple[int, int] | None:
    """A SyntaxError of the script itself has no head: only the file, the line, the mark and the error."""
    for last in range(len(lines) - 1, 0, -1):
        if re.match(r"^(SyntaxError|IndentationError|TabError)\b", lines[last]):
            for first in range(last - 1, -1, -1):
                if lines[first].startswith('  File "'):
                    return first, last
    return None


def _shortened(lines: list[str], first: int, last: int) -> list[str]:
    """The traceback and what belongs to it after the exception's first line; the middle left out when it is long."""
    after = []
    for line in lines[last + 1 :]:
        if not line.strip() or _NOISE.match(line) or _HEAD.search(line) or line.startswith(_LINK):
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
    """Without empty lines at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
