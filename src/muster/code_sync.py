"""The code of a run: which files belong to it, a snapshot of it, and sending it to hosts."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from muster.core.hostlist import fold_hostlist, fold_reasons
from muster.core.model import Job
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.errors import InvalidRequest, Unreachable
from muster.linux import processes
from muster.linux.shell import join, quote
from muster.transports.ssh import OPTIONS
from muster.transports.target import Target
from muster.ui.formatting import size_in_words

_NEVER = {".git", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_AT_ONCE = 16
_MOST = 200_000
"""Maximum number of files; a larger directory is not taken for code."""
_FEW = 10_000
"""Maximum number of files that are only compared, at each start of a run on hosts."""
_GIT_WITHIN = 10.0
"""Seconds for git to list files that are only compared."""
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
"""Environment variables that would make git use another repository than the directory's own."""


class Tree(NamedTuple):
    """The files of a run's code."""

    root: str
    names: tuple[str, ...]
    """Files and symbolic links, relative to `root`."""
    notes: tuple[str, ...] = ()
    """Notes for the user: what is left out, and why."""
    git: bool = False
    """True if git listed them."""


# ---- which files -----------------------------------------------------------------------------------------------------


def tree(cwd: str, script: str = "", runs: str = "") -> Tree:
    """Return the files that git tracks or would track in the repository around `cwd`; all of `cwd` without git.

    Submodules and other repositories inside are included, and `script` if it is inside. `runs`: the directory of runs,
    which is excluded. Raises `InvalidRequest`.
    """
    notes: list[str] = []
    cwd = os.path.realpath(cwd)
    root = _root(cwd, notes)
    found = _listed(root, notes) if root else _walk(cwd)
    root = root or cwd
    if script:
        path = _below(root, os.path.join(cwd, script))
        found += [path] if path and path not in found else []
    return _carried(root, found, runs, notes)


def tree_of(jobs: Sequence[Job], runs: str = "") -> Tree:
    """Return the files of the code of a run, of all its roles: see `tree`. Raises `InvalidRequest`."""
    first, *others = [tree(*where, runs) for where in dict.fromkeys((job.cwd, job.program.path) for job in jobs)]
    for other in others:
        if other.root != first.root:
            raise InvalidRequest(
                f"the roles start in different directories, {first.root} and {other.root}, and one is copied",
                "start them in one git repository, or share the directories",
            )
        names, notes = (*first.names, *other.names), (*first.notes, *other.notes)
        first = first._replace(names=tuple(dict.fromkeys(names)), notes=tuple(dict.fromkeys(notes)))
    return first


def everything(folder: str) -> Tree:
    """Return all files in a directory."""
    found = []
    for inner, folders, names in os.walk(folder):
        names += [name for name in folders if os.path.islink(os.path.join(inner, name))]
        found += [os.path.relpath(os.path.join(inner, name), folder) for name in names]
    return _carried(folder, found, "", [])


def sources(job: Job, runs: str) -> Tree | None:
    """Return the Python files that must be identical on all hosts; None if there is nothing to compare.

    With git, these are the files that it tracks or would track in the repository around the script. Without, those in
    the directory of the script, and in packages there that the script imports: subdirectories may contain anything, in
    a home directory all of the user's files. For a module, the start directory of the ranks is used.
    """
    if job.program.kind == "command" or job.program.source:
        return None
    script = os.path.join(job.cwd, job.program.path) if job.program.path else ""
    folder = os.path.realpath(os.path.dirname(script) or job.cwd)
    notes: list[str] = []
    try:
        root = _root(folder, notes)
        names = _listed(root, notes, brief=True) if root else _near(folder, job)
        found = _carried(root or folder, names, runs, notes)
    except (InvalidRequest, OSError, subprocess.TimeoutExpired):  # perhaps there are too many
        try:
            root, found = "", _carried(folder, _beside(folder), runs, notes)
        except (InvalidRequest, OSError):
            return None
    return found._replace(names=tuple(name for name in found.names if name.endswith(".py")), git=bool(root))


def tree_root(cwd: str) -> str:
    """Return the directory that `--sync` copies from here."""
    return _root(os.path.realpath(cwd), []) or os.path.realpath(cwd)


def sync_sends(cwd: str) -> str:
    """Return what `--sync` sends from here, for messages."""
    root = _root(os.path.realpath(cwd), [])
    return f"the files in {root} that git does not ignore" if root else f"all files in {cwd}"


def _near(folder: str, job: Job) -> list[str]:
    """Return the Python files in a directory, and in packages there that the script imports."""
    script = job.program.path
    imported = _imported(os.path.join(job.cwd, script)) if script else {job.program.argv[0].partition(":")[0]}
    found = _beside(folder)
    for name in sorted({name.partition(".")[0] for name in imported}):
        package = os.path.join(folder, name)
        if os.path.isdir(package):
            found += [os.path.join(name, inner) for inner in _walk(package, brief=True)]
    return found


def _beside(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".py")]


def _imported(script: str) -> set[str]:
    """Return the modules that a script imports directly."""
    try:
        with open(script, "rb") as file:
            parsed = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # the ranks will report it
    found: set[str] = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def _git(folder: str, *words: str, within: float | None = None) -> subprocess.CompletedProcess[bytes] | None:
    """Run git; return None if it is not installed."""
    env = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    try:
        return subprocess.run(
            ["git", "-C", folder, *words], capture_output=True, env={**env, "LC_ALL": "C"}, timeout=within
        )
    except FileNotFoundError:
        return None


def _root(cwd: str, notes: list[str]) -> str:
    """Return the top directory of the git working tree that contains `cwd`; empty if there is none."""
    done = _git(cwd, "rev-parse", "--show-toplevel")
    if done is None:
        return ""
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace")
        if "not a git repository" not in said and "must be run in a work tree" not in said:
            notes.append(f"warning: cannot list the files of {cwd} with git, taking all: {_first(said)}")
        return ""
    ignored = _git(cwd, "check-ignore", "--quiet", ".")
    return "" if ignored is not None and ignored.returncode == 0 else os.fsdecode(done.stdout[:-1])


def _first(said: str) -> str:
    return (said.strip().splitlines() or ["no error message"])[0].removeprefix("fatal: ")


def _listed(root: str, notes: list[str], brief: bool = False) -> list[str]:
    """Return the files of a repository and of those inside it. `brief`: limit the time and the number of files."""
    within = _GIT_WITHIN if brief else None
    done = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", within=within)
    if done is None or done.returncode != 0:
        why = _first(done.stderr.decode("utf-8", "replace")) if done is not None else "git not found"
        notes.append(f"warning: cannot list the files of {root} with git, taking all: {why}")
        return _walk(root, brief)
    # about an unreadable directory, for example
    notes += [f"git: {line}" for line in done.stderr.decode("utf-8", "replace").splitlines()]
    found: list[str] = []
    for name in sorted({os.fsdecode(name) for name in done.stdout.split(b"\0") if name}):
        path = os.path.join(root, name.rstrip("/"))
        if os.path.islink(path) or not os.path.isdir(path):
            found.append(name)
        elif os.path.lexists(os.path.join(path, ".git")):  # a submodule or another repository, if fetched
            found += [os.path.join(name, inner) for inner in _listed(path, notes, brief)]
    _refuse_many(found, root, brief)
    return [*found, *_special(root, found)]


def _special(root: str, names: Iterable[str]) -> list[str]:
    """Return special files beside these names, which git does not list."""
    found: list[str] = []
    for folder in {os.path.dirname(name) for name in names} | {""}:
        with suppress(OSError), os.scandir(os.path.join(root, folder)) as inside:
            special = [one.name for one in inside if not (one.is_symlink() or one.is_dir() or one.is_file())]
            found += [os.path.join(folder, name) for name in special]
    return found


def _walk(top: str, brief: bool = False) -> list[str]:
    """Return the files in a directory. `brief`: fewer at most, no hidden directories, no Python environments."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise InvalidRequest(
                f"cannot read {error.filename}: {processes.reason(error)}", "make it readable, or add it to .gitignore"
            )

    found: list[str] = []
    for folder, folders, names in os.walk(top, onerror=refuse):
        folders[:] = [name for name in folders if name not in _NEVER]
        if brief:
            folders[:] = [name for name in folders if name[:1] != "." and not _is_environment(f"{folder}/{name}")]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.relpath(os.path.join(folder, name), top) for name in [*names, *links] if name not in _NEVER]
        _refuse_many(found, top, brief)
    return found


def _is_environment(folder: str) -> bool:
    """Return whether a directory is a Python environment."""
    return any(os.path.lexists(f"{folder}/{mark}") for mark in ("pyvenv.cfg", "conda-meta"))


def _refuse_many(names: Sequence[str], folder: str, brief: bool) -> None:
    most = _FEW if brief else _MOST
    if len(names) > most:
        raise InvalidRequest(
            f"more than {most} files in {folder}: too many for code",
            "start in a directory that holds only code, or add the rest to .gitignore",
        )


def _below(root: str, path: str) -> str:
    """Return a path relative to `root`; empty if it is outside. A link as its last component is not resolved."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    found = os.path.relpath(real, os.path.realpath(root))
    return "" if found == ".." or found.startswith("../") else found


def _carried(root: str, names: Iterable[str], runs: str, notes: list[str]) -> Tree:
    """Return the names that are files or symbolic links; others, which cannot be sent, are noted."""
    kept, left_out, outward = [], [], []
    outside = _below(root, runs) + "/" if runs and _below(root, runs) else ""
    for name in sorted(set(names)):
        try:
            mode = os.lstat(os.path.join(root, name)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted, but still tracked by git; or deleted just now
        except OSError as error:
            path = os.path.join(root, name)
            raise InvalidRequest(f"cannot read {path}: {processes.reason(error)}", "add it to .gitignore") from None
        if outside and name.startswith(outside):
            continue
        if stat.S_ISLNK(mode):
            target = os.readlink(os.path.join(root, name))
            if os.path.isabs(target) or not _below(root, os.path.join(root, os.path.dirname(name), target)):
                outward.append(f"{name} -> {target}")
        if stat.S_ISLNK(mode) or stat.S_ISREG(mode):
            kept.append(name)
        elif not stat.S_ISDIR(mode):
            left_out.append(name)
    more = []
    if left_out:
        more.append(f"warning: not regular files, left out: {_some(left_out)}")
    if outward:
        more.append(f"warning: links to outside {root} are copied as links: {_some(outward)}")
    return Tree(root, tuple(kept), (*notes, *more))


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(safe, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def guard(code: Tree, limit: int, option: str) -> int:
    """Return the size of these files in bytes. Raises `InvalidRequest` if it exceeds `limit`."""
    sizes = dict.fromkeys(code.names, 0)
    for name in code.names:
        try:
            sizes[name] = os.lstat(os.path.join(code.root, name)).st_size
        except OSError:  # file is gone
            pass
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        told = ", ".join(f"{safe(name)} ({size_in_words(sizes[name])})" for name in largest)
        raise InvalidRequest(
            f"{option}: {plural(len(sizes), 'file')} in {code.root} with {size_in_words(total)}, "
            f"more than the limit of {size_in_words(limit)}",
            f"add data files to .gitignore, or raise --code-limit; largest: {told}",
        )
    return total


def real(job: Job) -> Job:
    """Return the job with symbolic links in its directories resolved: they may not exist on other machines."""
    script = job.program.path
    if os.path.isabs(script):
        script = os.path.join(os.path.realpath(os.path.dirname(script)), os.path.basename(script))
        job = job._replace(program=job.program._replace(argv=(script, *job.program.argv[1:])))
    return job._replace(cwd=os.path.realpath(job.cwd))


# ---- a copy ----------------------------------------------------------------------------------------------------------


def redirect(job: Job, root: str, target: str, option: str = "--snapshot") -> Job:
    """Return the job that runs the copy of its code in `target`.

    A script still starts in its own directory, where its data is; a module or a command is found by the directory, so
    it starts in the copy. Raises `InvalidRequest`.
    """
    if job.program.kind != "script":
        return job._replace(cwd=moved(job.cwd, root, target))
    script = _below(root, os.path.join(job.cwd, job.program.argv[0]))
    if not script:
        raise InvalidRequest(
            f"{option}: the script {job.program.argv[0]} is not inside {root}, the directory to copy",
            "start the run from the directory of the script",
        )
    return job._replace(program=job.program._replace(argv=(os.path.join(target, script), *job.program.argv[1:])))


def moved(folder: str, root: str, target: str) -> str:
    """Return where a directory below `root` is in the copy in `target`."""
    return os.path.normpath(os.path.join(target, _below(root, os.path.join(folder, "."))))


def snapshot(code: Tree, target: Path) -> None:
    """Copy these files to `target`. Raises `InvalidRequest`."""
    target.mkdir(exist_ok=True)
    for name in code.names:
        source, path = os.path.join(code.root, name), target / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.islink(source):
                os.symlink(_link_in_copy(code, name), path)
            else:
                shutil.copy2(source, path, follow_symlinks=False)
        except FileNotFoundError:
            continue  # an editor's temporary file, gone meanwhile
        except OSError as error:
            full = error.errno in processes.NO_ROOM
            hint = "free some space there" if full else "make it readable, or add it to .gitignore"
            raise InvalidRequest(f"cannot copy {source} to {path}: {processes.reason(error)}", hint) from None


def _link_in_copy(code: Tree, name: str) -> str:
    """Return the target of a link in a copy: the copy of the original target if there is one, otherwise that itself."""
    target = os.readlink(os.path.join(code.root, name))
    folder = os.path.join(code.root, os.path.dirname(name))
    inside = _below(code.root, os.path.normpath(os.path.join(folder, target)))
    if inside and any(other == inside or other.startswith(f"{inside}/") for other in code.names):
        return os.path.relpath(inside, os.path.dirname(name) or ".")
    return os.path.normpath(os.path.join(folder, target))


# ---- sending ---------------------------------------------------------------------------------------------------------


def send(
    folders: Collection[str],
    code: Tree,
    wanted: Mapping[Target, Collection[str]],
    say: Callable[[str], object],
    env: Mapping[str, str],
) -> None:
    """Send each host the files that it wants, to the same path, to several hosts at a time.

    Names that do not exist here are deleted there. `folders`: the start directories of the ranks. Raises
    `InvalidRequest`, `Unreachable`.
    """
    if shutil.which("rsync", path=env.get("PATH")) is None:
        raise InvalidRequest(
            "--sync requires rsync, which is not installed here",
            "install it here and on the hosts: `apt install rsync`",
        )
    root, names = code.root, set().union(*wanted.values())
    start = {_below(root, os.path.join(cwd, ".")) for cwd in folders} - {"", "."}  # git lists no empty directories
    total = guard(code._replace(names=tuple(names)), 1 << 62, "--sync")
    hosts = fold_hostlist(target.host for target in wanted)
    if names:
        say(f"copying {plural(len(names), 'file')} ({size_in_words(total)}) from {root} to {hosts}")

    def one(target: Target) -> tuple[str, str]:
        shell = join([*target.ssh, *(word for option in OPTIONS for word in ("-o", option))])
        user = f"{target.user}@" if target.user else ""
        name = f"[{target.host}]" if ":" in target.host else target.host
        done = subprocess.run(
            [
                # The files are known to differ, whatever their times are; with a new time, no existing .pyc is taken
                # for theirs. -s: no remote shell parses the path.
                *("rsync", "-a", "--no-times", "--ignore-times", "-z", "-s"),
                *("--delete-missing-args", "--from0", "--files-from=-"),
                *("--rsync-path", f"mkdir -p {quote(root)} && rsync", "-e", shell),
                *(f"{root}/", f"{user}{name}:{root}/"),
            ],
            input=b"\0".join(map(os.fsencode, sorted({*wanted[target], *start}))),
            capture_output=True,
            env=dict(env),
        )
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        lines = [line for line in last if not line.startswith("rsync error")]
        return target.host, "" if done.returncode == 0 else (lines or last or [f"exit status {done.returncode}"])[-1]

    hosts_once = {(target.user, target.host): target for target in wanted}  # a host may have several roles
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        failed = [(name, why) for name, why in pool.map(one, hosts_once.values()) if why]
    if failed:
        missing = any("rsync: command not found" in why or "rsync: not found" in why for _, why in failed)
        raise Unreachable(
            f"--sync failed to copy the code: {fold_reasons(failed)}", "install rsync there" if missing else None
        )
