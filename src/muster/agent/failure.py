"""Analysis of a rank's failure: from the note of its site hook, if it left one, and from the last lines of its output.

The output alone suffices for other languages. A traceback in it is no proof that the exception was uncaught: programs
log exceptions that they handle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from muster.agent.tracebacks import (
    IN_SPAWNED,
    NOISE,
    Found,
    Link,
    as_printed,
    in_lines,
    in_text,
    of_note,
    plain_text,
    shortened,
)

_FATAL = ("Fatal Python error", "terminate called")
_RANK = re.compile(r"^\[rank\d+\]:\s?")  # torch.distributed's prefix of each line of an uncaught exception

_OF_TORCH = re.compile(
    r"gloo|\bc10d\b|nccl|monitoredBarrier|DistNetworkError|DistStoreError|DistBackendError|recvValue|sendBytes|recvBytes"
    r"|Watchdog caught collective|ProcessGroup|TCPStore|/default_pg/|store_prefix|waiting for clients"
    r"|Timed out waiting \d+ms for (recv|send)",
    re.IGNORECASE,
)
"""Words of torch's communication libraries. A refused connection in other words is not one between ranks."""
_CONNECTION = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Connection refused|Broken pipe|gloo[/\\]transport"
    r"|remote process (exited|has)|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
    r"|DistNetworkError|DistStoreError|Socket closed|recvValue failed|sendBytes failed|recvBytes"
    r"|failed to recv|Failed to recv|got 0 bytes",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(
    r"Watchdog caught collective operation timeout|monitoredBarrier|Timed out waiting \d+ms|wait timeout after"
    r"|Timed out after \d+ seconds|timed? ?out|timeout",
    re.IGNORECASE,
)
_NOT_SERVED = re.compile(r"EADDRINUSE|EADDRNOTAVAIL|[Aa]ddress already in use|failed to (listen|bind)")
"""Words of a rank that cannot open a port of its own: no peer is involved."""
_UNREACHED = re.compile(r"trying to connect to \(?([^\s,)]+,? ?\d*)\)?|connectFullMesh failed", re.IGNORECASE)
_MISMATCH = re.compile(r"op\.preamble\.length <= op\.nbytes|collective mismatch|Detected mismatch between collectives")
_BLAMED = re.compile(r"Ranks? (\d+(?:, ?\d+)*) failed to pass monitoredBarrier")

_LOSS = re.compile(r"\bloss\b\W{0,4}(?:is |of )?\W{0,3}([+-]?[\d.]+(?:e[+-]?\d+)?|nan|[+-]?inf)\b", re.IGNORECASE)
_NOT_FINITE = ("nan", "inf", "-inf", "+inf")
_AT_EXIT = ("Error in atexit", "Exception ignored in atexit")

_MOST_LINES = 14
_MOST_CAUSES = 3
_FEW_LINES = 5
"""Number of lines to show of a text without a traceback; more if their paragraph begins earlier."""
_ERROR_LINE = re.compile(r"\b(ERROR|CRITICAL|FATAL|error|Error|fatal)\b")


class Evidence(NamedTuple):
    """What a rank left behind."""

    stderr: bytes = b""
    """The end of it, or from its last traceback on."""
    stdout: bytes = b""
    signalled: bool = False
    """True if a signal killed it."""
    code: int | None = 1
    """Its exit code."""
    mixed: bool = False
    """True if stdout is in `stderr` too."""
    note: Mapping[str, Any] | None = None
    """The note that its site hook wrote at an uncaught exception."""
    hooked: bool = False
    """True if the site hook was active, so that without a note no exception was uncaught."""
    noted_at: float | None = None
    """Monotonic time at which it wrote the note."""
    record: str = ""
    """The traceback that torch's `@record` wrote."""
    err_age: float | None = None
    """Seconds from the last write to its stderr until it began to exit; None if unknown."""
    out_age: float | None = None


_FRESH = 0.25
"""Seconds before the exit within which a logged exception is taken for its reason."""


def explain(evidence: Evidence) -> dict[str, Any]:
    """Return {kind, summary, frames, place, proven, blames} of a rank that has failed.

    `kind` is `raised` for a Python exception of the rank's own, `lost peer` for one caused by the end of another rank,
    `timed out` if it waited for another rank in vain, `no connection` if it did not reach the rendezvous, `mismatch` if
    ranks called different collectives, and `ended` without an exception. `frames` are the lines to show,
    `place` is the line of code, and `proven` tells whether the exception was certainly uncaught.
    """
    lines, prefixed = _lines(evidence.stderr)
    found = in_lines(lines)
    noted = of_note(evidence.note) if evidence.note is not None else ()
    if noted:
        same = found is not None and found.chain[0].summary == noted[0].summary
        shown = list(found.shown) if found is not None and same else as_printed(noted[0])
        return _of_chain(noted, shown, True)
    fatal = _fatal(lines, found)
    if fatal is not None:
        return fatal
    if found is not None:
        proven = _is_proven(evidence, lines, found, prefixed)
        if proven or _is_reason(evidence, lines, found):
            return _of_chain(found.chain, list(found.shown), proven)
    recorded = in_text(evidence.record)
    if recorded:
        return _of_chain(recorded, as_printed(recorded[0]), not evidence.signalled)
    words = [] if evidence.mixed else _last_words(_after(lines, found))
    if not words and evidence.out_age is not None and evidence.out_age <= _FRESH and not evidence.signalled:
        told = _from_stdout(evidence.stdout)
        if told is not None and (told["kind"] == "ended" or evidence.code == 1 or not evidence.hooked):
            return told
    kind = "ended"
    for line in words:
        kind = _kind_of_words(line) or kind
    return _verdict(kind, _telling(words)[:500], words, blames=_blamed("\n".join(words)))


def notes_of(stdout: bytes, stderr: bytes) -> list[str]:
    """Return what else is worth knowing about a rank that has exited, with whatever status."""
    notes = []
    lines, _ = _lines(stderr)
    heads = [index for index, line in enumerate(lines) if line.startswith(_AT_EXIT)]
    for index in heads[-1:]:
        rest = [line for line in lines[index + 1 :] if line.strip() and not line.startswith((" ", "\t", "Traceback"))]
        notes.append(f"a function registered with atexit failed: {rest[0][:300] if rest else 'unknown error'}")
    losses = [match for line in _lines(stdout)[0] for match in _LOSS.finditer(line)]
    if losses and losses[-1][1].lower() in _NOT_FINITE:
        notes.append(f"the last loss in its output is {losses[-1][1].lower()}")
    return notes


# ---- reading --------------------------------------------------------------------------------------------------------


def _lines(text: bytes) -> tuple[list[str], frozenset[int]]:
    """Return the lines without colors, and the indices of those that torch's excepthook wrote."""
    plain = plain_text(text.decode("utf-8", "replace"))
    # of a line that was redrawn (a progress bar), the last version
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in plain.split("\n")]
    prefixed = frozenset(index for index, line in enumerate(lines) if _RANK.match(line))
    return [_RANK.sub("", line) for line in lines], prefixed


def _after(lines: Sequence[str], found: Found | None) -> list[str]:
    """Return the lines after a traceback, and after others that do not count."""
    heads = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not heads:
        return list(lines)
    last = found.last if found is not None else heads[-1]
    for index in range(max(last, heads[-1]) + (found is None or heads[-1] > last), len(lines)):
        if not lines[index].startswith((" ", "\t")):
            return list(lines[index + 1 :])
    return []


def _fatal(lines: Sequence[str], found: Found | None) -> dict[str, Any] | None:
    """Return the verdict about a crash that Python or C++ reported, after any traceback."""
    for index, line in enumerate(lines):
        if line.startswith(_FATAL) and (found is None or index > found.last):
            words = [line for line in lines[index:] if line][:_MOST_LINES]
            words = words if line.startswith("Fatal") else [line for line in words if not line.startswith("frame #")]
            told = words[1] if len(words) > 1 and "what():" in words[1] else line
            frames = list(lines[index : index + _MOST_LINES]) if line.startswith("Fatal") else words
            return _verdict(_kind_of_words("\n".join(words)) or "ended", told.strip()[:500], _trimmed(frames))
    return None


def _last_words(lines: Sequence[str]) -> list[str]:
    """Return the last nonempty lines: a few, or more up to the start of the paragraph in which they stand."""
    found: list[str] = []
    for line in reversed(lines):
        if line.strip():
            found.insert(0, line[:500])
        elif len(found) >= _FEW_LINES:
            break
        if len(found) == _MOST_LINES:
            break
    return found


def _telling(words: Sequence[str]) -> str:
    """Return the line that sums up the last words: the last one."""
    return words[-1] if words else ""


def _from_stdout(stdout: bytes) -> dict[str, Any] | None:
    """Return the verdict about an error that was logged to stdout just before the exit."""
    lines, _ = _lines(stdout)
    found = in_lines(lines)
    if found is not None and not any(line.strip() for line in lines[found.last + len(found.shown) + 1 :]):
        return _of_chain(found.chain, list(found.shown), False)
    words = _last_words(lines)[-_FEW_LINES:]
    if words and _ERROR_LINE.search(words[-1]):
        return _verdict("ended", words[-1][:500], words)
    return None


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Remove empty lines at the end."""
    shown = list(lines)
    while shown and not shown[-1].strip():
        shown.pop()
    return shown


# ---- judging --------------------------------------------------------------------------------------------------------


def _is_proven(evidence: Evidence, lines: Sequence[str], found: Found, prefixed: frozenset[int]) -> bool:
    """Return whether a traceback in the output is certainly that of an uncaught exception."""
    if found.last in prefixed:
        return True
    if evidence.hooked:
        return False  # the hook would have left a note
    quiet = not any(line.strip() and not NOISE.match(line) for line in _after(lines, found))
    # Python exits with 1 after an uncaught exception, and kills itself by SIGINT after KeyboardInterrupt
    interrupted = quiet and found.chain[0].summary.startswith("KeyboardInterrupt")
    return interrupted if evidence.signalled else evidence.code == 1


def _is_reason(evidence: Evidence, lines: Sequence[str], found: Found) -> bool:
    """Return whether an exception that may have been handled is why the rank exited: it was logged just before.

    Any exit code other than 1 is the script's own choice, and what it logged before is no proof of the reason.
    """
    after = [line for line in lines[found.last + 1 :] if line.strip() and not NOISE.match(line)]
    if evidence.signalled:
        return not (evidence.hooked or after)
    if evidence.hooked and (evidence.code != 1 or any(not line.startswith((" ", "\t")) for line in after)):
        return False  # it continued after that one
    return evidence.err_age <= _FRESH if evidence.err_age is not None else not evidence.hooked


def _of_chain(chain: Sequence[Link], shown: list[str], proven: bool) -> dict[str, Any]:
    """Return the verdict about an exception: the root of its chain decides."""
    last, root = chain[0], _root(chain)
    kind = _kind(root)
    blames = _blamed(root.text)
    own_before = ""
    if kind == "raised" and root is not last and root.how == "while handling":
        # an exception that another one replaced, perhaps in a `finally`; or one that was handled, and is over
        later = next((found for found in (_kind(link) for link in chain) if found != "raised"), None)
        if later is not None:
            kind, own_before = later, root.summary
    # of the links nearest to the root, the one with a line of the user's own code
    placed = [link for link in (root, *reversed(chain)) if any(not frame.of_library for frame in link.frames)]
    place = (placed or [root if root.place else last])[0].place
    summary = _summary(last)
    if root.of_another_process:
        summary = f"{_summary(root)} ({root.how})"
        if root.how.startswith(IN_SPAWNED):  # the parent's own traceback only says that it waited
            shown = shortened(root)
    elif root is not last:
        summary = f"{summary[:250]} ({root.how} {_summary(root)[:250]})"
    return _verdict(kind, summary, shown + _told(chain), place, proven, blames, own_before)


def _root(chain: Sequence[Link]) -> Link:
    """Return the root of a chain: the exception in another process, or else the first one that was raised."""
    for link in chain:
        if link.of_another_process:
            return link
    return chain[-1]


def _summary(link: Link) -> str:
    """Return the first line of an exception, with the first one of a group that is not another rank's."""
    words = link.summary
    if link.leaves:
        own = [leaf for leaf in link.leaves if _kind_of_words(leaf) is None] or list(link.leaves)
        words = f"{words}: {own[0]}"
    elif words.endswith(":") and "\n" in link.text:
        words = f"{words} {link.text.split(chr(10))[1].strip()}"
    return words[:500]


def _kind(link: Link) -> str:
    """Return what one exception of a chain tells: `raised`, `lost peer` or `timed out`."""
    if link.leaves:
        kinds = {_kind_of_words(leaf) or "raised" for leaf in link.leaves}
        return "raised" if "raised" in kinds else kinds.pop()
    by_torch = any(frame.of_torch_distributed for frame in link.frames)
    return _kind_of_words(link.text[:2000], by_torch) or "raised"


def _kind_of_words(words: str, by_torch: bool = False) -> str | None:
    """Return what words of torch tell: a lost peer, a wait in vain; `by_torch`: torch.distributed raised them."""
    if not (by_torch or _OF_TORCH.search(words)) or _NOT_SERVED.search(words):
        return None
    if _MISMATCH.search(words):
        return "mismatch"
    if _UNREACHED.search(words) and "connectFullMesh" not in words:
        return "no connection"
    if _TIMEOUT.search(words):
        return "timed out"
    return "lost peer" if _CONNECTION.search(words) else None


def _blamed(words: str) -> list[int]:
    """Return the ranks that a message itself names as missing."""
    match = _BLAMED.search(words)
    return sorted({int(number) for number in re.findall(r"\d+", match[1])}) if match else []


def _told(chain: Sequence[Link]) -> list[str]:
    """Return each cause with the place where it was raised; of many the nearest and the first ones."""
    causes = [link for link in chain[1:] if not link.of_another_process]
    if len(causes) > _MOST_CAUSES:
        causes = [causes[0], *causes[1 - _MOST_CAUSES :]]
    told = []
    for link in causes:
        told.append(f"{link.how} {link.summary}"[:500])
        places = [index for index, line in enumerate(link.lines) if line.startswith('  File "')]
        body = list(link.lines[places[-1] : -1]) if places else []
        if not body and link.frames:
            body = as_printed(link._replace(frames=link.frames[-1:]))[1:3]
        told += [line for line in body if line.strip(" ^~")][:3]
    return told


def _verdict(
    kind: str,
    summary: str,
    frames: Sequence[str],
    place: str = "",
    proven: bool = False,
    blames: Sequence[int] = (),
    own_before: str = "",
) -> dict[str, Any]:
    return {
        "kind": kind,
        "summary": summary,
        "frames": list(frames),
        "place": place,
        "proven": proven,
        "blames": list(blames),
        "own_before": own_before,
    }
