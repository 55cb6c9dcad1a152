"""Where muster keeps a user's runs, and where it records runs kept elsewhere.

The home of muster is $MUSTER_HOME, by default `~/.muster`, and if no home is writable (a container with an unknown
user) a private temporary directory. A run kept in another directory (`--run-dir`, `run_dir` in muster.toml) has a link
in `elsewhere/` of that home, so that every command finds it. Only links of this user count, and their targets are
checked like any run directory (`finding.why_refused`).
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
"""The directory of links to runs that are kept elsewhere, named by their run id."""


def of_muster(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the homes of muster, absolute: the one for new runs, and possibly another one that may contain runs.

    Raises OSError for a relative path if the current directory is gone.
    """
    usual = Path(paths.muster_home(env))
    if env.get("MUSTER_HOME") or _can_be_written(usual):
        return (usual,)
    own = private_tmp.own_folder(f"muster-{os.geteuid()}", env)
    if not own:
        return (usual,)  # the reason is reported when writing there fails
    return (Path(own), usual) if os.path.lexists(usual) else (Path(own),)


def why_temporary(env: Mapping[str, str]) -> str:
    """Return a message about a home in a temporary directory; empty for any other."""
    home, usual = of_muster(env)[0], Path(paths.muster_home(env))
    if env.get("MUSTER_HOME") or home == usual:
        return ""
    return f"warning: cannot write to {usual}, keeping runs in {home}\nhint: choose another directory with MUSTER_HOME"


def _can_be_written(folder: Path) -> bool:
    """Return whether this user can create files in this directory, or in its nearest existing parent."""
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path("/"))
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def why_anothers(folder: Path) -> str:
    """Return why a directory is not used: it is a symbolic link created by another user. Empty otherwise."""
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        return f"it is a symbolic link of user {found.st_uid}"
    return ""


def note(home: Path, run: Path) -> bool:
    """Record where a run is kept; return False if that cannot be written, or other users could change it."""
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
    """Return the recorded run directories, by run id.

    A missing one may be on a disk of another machine, or currently not mounted: its record stays.
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


def is_noted(home: Path, run: Path) -> bool:
    """Return whether a run directory is recorded."""
    return _target(home / _ELSEWHERE / run.name) == run


def forget(home: Path, run: Path) -> None:
    """Remove the record of a run that is about to be deleted."""
    link = home / _ELSEWHERE / run.name
    if _target(link) == run:
        with suppress(OSError):
            os.unlink(link)


def _target(link: Path) -> Path | None:
    """Return the target of a record; None if it is not a valid record of this user."""
    try:
        path = Path(os.readlink(link))
        own = os.lstat(link).st_uid == os.geteuid()
    except OSError:
        return None
    return path if own and path.is_absolute() and path.parts[-2:] == ("runs", link.name) else None
