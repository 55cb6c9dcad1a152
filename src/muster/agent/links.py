"""Symbolic links to files of a run outside its directory, which are recorded there and removed with it.

`--log-dir` creates them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TextIO

from muster.linux import processes
from muster.protocol.paths import rank_file

RECORD = "links"
"""Name of the file, in the run directory or a node's directory, with the path of each link as a line of JSON."""


def make_link(folder: str, name: str, target: str) -> None:
    """Create or replace `name` as a link to `target`, and record it in this directory of the run.

    Raises OSError.
    """
    with open(os.path.join(folder, RECORD), "a") as record:
        # first: a record without a link is harmless; on a line of its own, if the last one is incomplete
        record.write("\n" * _is_cut(record) + json.dumps(name) + "\n")
    os.makedirs(os.path.dirname(name), exist_ok=True)
    part = f"{name}.{os.getpid()}"
    os.symlink(target, part)
    os.replace(part, name)


def _is_cut(file: TextIO) -> bool:
    """Return whether the last line of a file is incomplete, because its writer was killed or the disk was full."""
    size = os.fstat(file.fileno()).st_size
    with open(file.name, "rb") as same:
        return size > 0 and os.pread(same.fileno(), 1, size - 1) != b"\n"


def unlink_all(run_dir: str) -> None:
    """Remove the links into this run directory, and directories named after the run that are empty then.

    The record is untrusted: only links into the run directory are removed, whatever else it lists.
    """
    for name in _into(run_dir):
        _try(os.unlink, name)
        folder = os.path.dirname(name)
        while os.path.basename(run_dir) in folder and _try(os.rmdir, folder):
            folder = os.path.dirname(folder)


def put_files_there(run_dir: str) -> None:
    """Move the files to the place of their links, because this run directory is about to be deleted."""
    import shutil  # imported late, as it loads all compression libraries

    for name in _into(run_dir):
        target = os.readlink(name)
        _try(os.unlink, name)  # otherwise a copy to another file system would follow it
        _try(shutil.move, target, name)


def _into(run_dir: str) -> Iterator[str]:
    """Return the recorded links that do point into the run directory."""
    folders = [run_dir]
    with suppress(OSError):  # possibly deleted already
        folders += [entry.path for entry in os.scandir(run_dir) if entry.name.startswith("node_")]
    for folder in folders:
        for name in _noted(os.path.join(folder, RECORD)):
            try:
                leads_here = os.readlink(name).startswith(run_dir + os.sep)
            except (OSError, ValueError):  # it was removed, is no link, or is not a valid path
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
    """The logs of a node's ranks under torchrun's names: `attempt_0/3/stdout.log` in `log_dir`.

    They are recorded in `folder`, this node's part of the run directory. The first error is given to `complain`: the
    logs themselves are not affected.
    """

    def __init__(self, log_dir: str, folder: str, complain: Callable[[str], object]) -> None:
        self._log_dir, self._folder, self._complain = log_dir, folder, complain
        self._attempt, self._logs = 0, ""
        self._local: dict[int, int] = {}

    def begin(self, attempt: int, logs: str) -> None:
        """Begin an attempt, whose logs are in this directory."""
        self._attempt, self._logs = attempt, logs
        self._local.clear()

    def add(self, rank: int, local_rank: int) -> None:
        """Create the links of a rank that is about to start."""
        self._local[rank] = local_rank
        for stream, name in (("out", "stdout.log"), ("err", "stderr.log")):
            self._link(rank, stream, name)

    def ended(self, rank: int) -> None:
        """Create the link of a rank's error file, if torch's `@record` wrote one."""
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
