"""Names that files of a run have outside of its directory: links, which are noted there and removed with it.

`--log-dir` gives them such names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress

from muster.linux import processes
from muster.protocol.paths import rank_file

RECORD = "links"
"""The file, in the run directory or in the folder of a node, that holds the path of each link as a line of JSON."""


def make_link(folder: str, name: str, target: str) -> None:
    """Let `name` be a link to `target`, instead of what had that name, and note it in this folder of the run.

    Raises OSError.
    """
    with open(os.path.join(folder, RECORD), "a") as record:
        record.write(json.dumps(name) + "\n")  # first: what is noted and not there harms nobody
    os.makedirs(os.path.dirname(name), exist_ok=True)
    part = f"{name}.{os.getpid()}"
    os.symlink(target, part)
    os.replace(part, name)


def unlink_all(run_dir: str) -> None:
    """Remove the links that lead into this run directory, and the directories named after the run that are empty then.

    The record is data: only what is such a link is removed, whatever else stands there.
    """
    for name in _into(run_dir):
        _try(os.unlink, name)
        folder = os.path.dirname(name)
        while os.path.basename(run_dir) in folder and _try(os.rmdir, folder):
            folder = os.path.dirname(folder)


def put_files_there(run_dir: str) -> None:
    """Put the files themselves in the place of their links, as this run directory is about to be deleted."""
    for name in _into(run_dir):
        target = os.readlink(name)
        _try(os.unlink, name)  # else a copy onto another file system would follow it
        _try(shutil.move, target, name)


def _into(run_dir: str) -> Iterator[str]:
    """The links that are noted, and that do lead into the run directory."""
    folders = [run_dir]
    with suppress(OSError):  # somebody has deleted it already
        folders += [entry.path for entry in os.scandir(run_dir) if entry.name.startswith("node_")]
    for folder in folders:
        for name in _noted(os.path.join(folder, RECORD)):
            try:
                leads_here = os.readlink(name).startswith(run_dir + os.sep)
            except (OSError, ValueError):  # it has been removed, is no link, or no path at all
                continue
            if leads_here:
                yield name


def _noted(record: str) -> list[str]:
    try:
        with open(os.open(record, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            name = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(name, str) and os.path.isabs(name):
            found.append(name)
    return list(dict.fromkeys(found))


def _try(do: Callable[..., object], *words: str) -> bool:
    try:
        do(*words)
    except OSError:
        return False
    return True


class RankLinks:
    """The logs of a node's ranks under the names that torchrun gives them: `attempt_0/3/stdout.log` in `log_dir`.

    They are noted in `folder`, this node's part of the run directory. What goes wrong is given to `complain`, once: the
    logs are kept all the same.
    """

    def __init__(self, log_dir: str, folder: str, complain: Callable[[str], object]) -> None:
        self._log_dir, self._folder, self._complain = log_dir, folder, complain
        self._attempt, self._logs = 0, ""
        self._local: dict[int, int] = {}

    def begin(self, attempt: int, logs: str) -> None:
        """An attempt begins, whose logs lie in this folder."""
        self._attempt, self._logs = attempt, logs
        self._local.clear()

    def add(self, rank: int, local_rank: int) -> None:
        """This rank is about to start."""
        self._local[rank] = local_rank
        for stream, name in (("out", "stdout.log"), ("err", "stderr.log")):
            self._link(rank, stream, name)

    def ended(self, rank: int) -> None:
        """This rank has ended; torch's `@record` may have left word of why."""
        if rank in self._local and os.path.exists(rank_file(self._logs, rank, "error.json")):
            self._link(rank, "error.json", "error.json")

    def _link(self, rank: int, stream: str, name: str) -> None:
        if not self._log_dir:
            return
        path = os.path.join(self._log_dir, f"attempt_{self._attempt}", str(self._local[rank]), name)
        try:
            make_link(self._folder, path, rank_file(self._logs, rank, stream))
        except OSError as error:
            self._complain(f"--log-dir: cannot write {path}: {processes.reason(error)}; the logs are in {self._logs}")
            self._log_dir = ""
