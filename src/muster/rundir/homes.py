"""Where muster keeps the runs of a user, and where those are noted that lie elsewhere.

The home of muster is $MUSTER_HOME, `~/.muster` without it, and where no home can be written to (a container with a
user that nobody has heard of) a private directory for temporary files. A run that is kept in another directory
(`--run-dir`, `run_dir` in muster.toml) has a link in `elsewhere/` of that home, so that every command finds it.

Only links of this very user count, and what they lead to is checked like any run directory (`finding.why_refused`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from muster.linux import private_tmp, processes
from muster.protocol import paths

_ELSEWHERE = "elsewhere"
"""The directory of links to runs that are not kept in this home; each has the id of its run as name."""


def of_muster(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The homes of muster, as absolute paths: the one to keep runs in, and then another one that may hold some, too.

    Raises OSError for a relative one where the current directory is gone.
    """
    usual = Path(paths.muster_home(env))
    if env.get("MUSTER_HOME") or _can_be_written(usual):
        return (usual,)
    own = private_tmp.own_folder(f"muster-{os.geteuid()}", env)
    if not own:
        return (usual,)  # why it cannot be written to is told where that is tried
    return (Path(own), usual) if os.path.lexists(usual) else (Path(own),)


def why_temporary(env: Mapping[str, str]) -> str:
    """What to tell of a home among temporary files; empty for any other."""
    home, usual = of_muster(env)[0], Path(paths.muster_home(env))
    if env.get("MUSTER_HOME") or home == usual:
        return ""
    return f"{usual} cannot be written to, so runs are kept in {home}; choose another place by MUSTER_HOME"


def _can_be_written(folder: Path) -> bool:
    """This directory, or the nearest one above it that is there, takes new files of this user."""
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path("/"))
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def why_anothers(folder: Path) -> str:
    """Why a directory is not used: its name is a link that another user has put there. Empty for any other."""
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        return f"it is a link of user {found.st_uid}"
    return ""


def note(home: Path, run: Path) -> bool:
    """Note where a run is kept; False where that cannot be written, or others could change it."""
    folder = home / _ELSEWHERE
    try:
        processes.make_private(str(folder))
        if any(why_anothers(place) or processes.why_shared(str(place)) for place in (home, folder)):
            return False
        os.symlink(run, folder / run.name)
    except FileExistsError:
        return _target(folder / run.name) == run
    except OSError:
        return False
    return True


def noted(home: Path) -> dict[str, Path]:
    """The run directories that are noted there, by the id of the run.

    One that is not there may be on a disk of another machine, or not mounted just now: its note stays.
    """
    folder = home / _ELSEWHERE
    try:
        names = [] if processes.why_shared(str(folder)) else os.listdir(folder)
    except OSError:
        return {}
    found = {}
    for name in names:
        path = _target(folder / name)
        if path is not None and os.path.lexists(path):
            found[name] = path
    return found


def forget(home: Path, run: Path) -> None:
    """Remove the note of a run, which is about to be deleted."""
    link = home / _ELSEWHERE / run.name
    if _target(link) == run:
        with suppress(OSError):
            os.unlink(link)


def _target(link: Path) -> Path | None:
    """Where a note leads to; None for what is no note of this user."""
    try:
        path = Path(os.readlink(link))
        own = os.lstat(link).st_uid == os.geteuid()
    except OSError:
        return None
    return path if own and path.is_absolute() and path.parts[-2:] == ("runs", link.name) else None
