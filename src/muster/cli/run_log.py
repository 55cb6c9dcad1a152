"""The log of one run as it is printed: which lines, with which prefixes, until when."""

from __future__ import annotations

import errno
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from muster.client.client import Client
from muster.client.follow import Follower, Mirror, tell_silence
from muster.client.reconcile import may_still_run, reconcile, require_known
from muster.client.status import RunStatus
from muster.config.command_options import LogsOptions
from muster.core.layout import fold, named
from muster.core.results import RoleRanks
from muster.core.roles import ranks_of
from muster.errors import InvalidRequest
from muster.rundir.log_order import Ordered
from muster.rundir.run import Run
from muster.ui.color import use_color
from muster.ui.folded_lines import FoldedLines
from muster.ui.output_writer import reader_gone, write_all
from muster.ui.terminal import TIMESTAMP, LinePrefixer, Where, prefixes
from muster.ui.text import unlogged_in_words

_LOOK = 0.1
"""Seconds between checks of the logs of a running run."""
_FULL = 1 << 15
"""Bytes of output that are written together."""


class _Page:
    """The destination of lines: writes all, or, until `turn`, only keeps the last `tail` of them."""

    def __init__(self, tail: int | None) -> None:
        self._last: deque[bytes] | None = None if tail is None else deque(maxlen=tail)
        self._lines = bytearray()

    def put(self, lines: bytes) -> None:
        """Add complete lines."""
        if self._last is not None:
            self._last.extend(line + b"\n" for line in lines.split(b"\n")[:-1])
            return
        if len(self._lines) + len(lines) < _FULL:
            self._lines += lines
            return
        self.turn()
        write_all(1, lines)

    def turn(self) -> None:
        """Write the kept lines. Raises OSError."""
        if self._last is not None:
            self._lines += b"".join(self._last)
            self._last = None
        write_all(1, self._lines)
        self._lines = bytearray()


class RunLog:
    """The log of a run, which is printed in turns. `prefix`: that of its lines, unless the options have one."""

    def __init__(
        self, run: Run, client: Client, options: LogsOptions, env: Mapping[str, str], prefix: str | None = None
    ) -> None:
        self.run, self.client, self.options = run, client, options
        attempts = run.attempts()
        self._attempt = options.attempt if options.attempt is not None else attempts[-1] if attempts else 0
        if attempts and self._attempt not in attempts:
            raise InvalidRequest(f"{run.id} has no attempt {self._attempt}", f"its attempts are {fold(attempts)}")
        streams = [name for name, only in (("out", options.stdout), ("err", options.stderr)) if only] or ["out", "err"]
        every = range(int(run.job.get("ranks") or 1))
        roles = ranks_of(run.plan) if run.plan is not None else ()
        chosen = options.rank or tuple(every)
        if options.role is not None:
            chosen = tuple(rank for rank in chosen if rank in _ranks_of_role(run, options.role, roles))
        wrong = [rank for rank in chosen if rank not in every]
        if wrong:
            raise InvalidRequest(f"{run.id} has no rank {wrong[0]}", f"its ranks are {fold(every)}")
        self._keys = [(rank, stream) for rank in chosen for stream in streams]
        before = TIMESTAMP if options.timestamps else ""
        where, colour = _where(run, every), use_color(1, env)
        self._page = _Page(options.tail if not options.fold else None)
        self._mirror = Mirror(run, chosen)
        self._lines: LinePrefixer | FoldedLines
        if options.fold:
            self._lines = FoldedLines(where, colour, options.tail)
        else:
            prefix = prefix if options.prefix is None else options.prefix
            self._lines = LinePrefixer(prefixes(where, prefix, colour, before, roles), False)
        self._follower = Follower(run, client, tell_silence, self._mirror) if options.follow else None
        self._found: RunStatus | None = None
        self._shown = [Ordered(run, self._attempt, self._keys, self._mirror.take)]
        if options.since is not None:
            self._shown[-1].begin_since(time.time() - options.since)
        if options.tail is not None:
            self._shown[-1].begin_before_last(options.tail)

    def turn(self) -> bool:
        """Print what there is; return whether more may come. Raises OSError if it cannot be written."""
        # both before reading the files, so that nothing written later is missed
        self._found = self._follower.look() if self._follower is not None else None
        last = self._follower is None or self._found is None or not self._follower.goes_on(self._found)
        newer = [number for number in self.run.attempts() if number > self._attempt]
        newer = newer if self.options.attempt is None else []
        self._show(self._shown[-1], bool(last or newer))
        if newer:
            self._shown[-1].close()
            self._attempt = newer[0]
            self._shown.append(Ordered(self.run, self._attempt, self._keys, self._mirror.take))
            return True
        return not last

    def pause(self) -> None:
        """Wait for more."""
        if self._follower is not None:
            self._follower.pause(_LOOK)

    def finish(self) -> None:
        """Print what arrived late, and warnings about what is missing."""
        if self.client.keeps_files:
            for earlier in self._shown[:-1]:
                # one node may send the end of an attempt while another is already at the next one
                self._show(earlier, True)
        if self._shown[-1].untimed and self.options.timestamps:
            told = "the run has no record of times"
            print(f"warning: no timestamps for {named(self._shown[-1].untimed)}: {told}", file=sys.stderr)
        _tell_missing(self.run, self._attempt, self._keys)
        if self._follower is not None and self._found is not None and self._follower.silent:
            require_known(self.run, self._found)
        if not self.run.attempts():
            starts = may_still_run(self.run, reconcile(self.run, client=self.client).state)
            why = "its ranks have not started yet; wait for them with -f" if starts else "its ranks were never started"
            print(f"{self.run.id} has no logs: {why}", file=sys.stderr)

    def _show(self, ordered: Ordered, all_of_it: bool) -> None:
        for written in ordered.read(all_of_it):
            self._page.put(self._lines.feed(*written))
            if reader_gone(1):
                break
        if all_of_it:
            self._page.put(self._lines.rest())
        self._page.turn()


def tell_unwritable(error: OSError) -> int:
    """Report that the output cannot be written, unless its terminal is gone; return the exit code."""
    if error.errno != errno.EIO:
        print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
    return 1


def _ranks_of_role(run: Run, name: str, roles: Sequence[RoleRanks]) -> range:
    """Return the ranks of a role of a run. Raises `InvalidRequest`."""
    for role in roles:
        if role.name == name:
            return range(role.first, role.first + role.ranks)
    known = ", ".join(role.name for role in roles)
    raise InvalidRequest(f"{run.id} has no role {name}", f"its roles are {known}" if known else "leave out --role")


def _where(run: Run, ranks: range) -> dict[int, Where]:
    """Return host, local rank and node of each rank, as planned; a run without a plan has no host yet."""
    plan = run.plan
    found = {rank: (str(run.job.get("host", "")), rank, 0) for rank in ranks}
    for node in plan.nodes if plan is not None else ():
        found.update({rank.rank: (node.host.name, rank.local_rank, node.number) for rank in node.ranks})
    return found


def _tell_missing(run: Run, attempt: int, logs: Collection[tuple[int, str]]) -> None:
    """Report what is missing in these logs because it could not be written."""
    outcome = run.outcome
    for line in unlogged_in_words(
        lacks
        for lacks in (outcome.unlogged if outcome is not None else ())
        if lacks.attempt == attempt and (lacks.rank, lacks.stream) in logs
    ):
        print(f"warning: {line}", file=sys.stderr)
