"""The code of a run: which files it is, a copy of it that edits do not reach, and sending it to hosts without it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muster.errors import Impossible, Unreachable
from muster.hosts import fold_hosts
from muster.model import Host, Job
from muster.places.ssh import OPTIONS
from muster.plurals import plural

_NEVER = {".git", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_AT_ONCE = 16


def tree(cwd: str) -> tuple[str, list[str]]:
    """(root, files below it): what git tracks or would, without what it ignores; all there is where there is no git."""
    where = ["git", "-C", cwd]
    try:
        found = subprocess.run([*where, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return cwd, _walk(cwd)
    if found.returncode != 0:
        return cwd, _walk(cwd)
    root = found.stdout.rstrip("\n")
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True
    )
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return root, sorted({name for name in names if os.path.lexists(os.path.join(root, name))})


def _walk(top: str) -> list[str]:
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in _NEVER]
        found += [os.path.relpath(os.path.join(folder, name), top) for name in names]
    return sorted(found)


def guard(root: str, names: Sequence[str], limit: int, option: str) -> int:
    """The bytes of these files; raises `Impossible` when they are more than code can be."""
    sizes = {name: os.lstat(os.path.join(root, name)).st_size for name in names}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        told = ", ".join(f"{name} ({sizes[name] >> 20} MB)" for name in largest)
        raise Impossible(
            f"{option}: {plural(len(names), 'file')} in {root}, {total >> 20} MB, and code has at most "
            f"{limit >> 20} MB",
            f"have git ignore what is no code; the largest are {told}; or --code-limit MB",
        )
    return total


def redirect(job: Job, target: str) -> Job:
    """The job that runs the copy of its code in `target`. A script still starts in its own folder, where its data
    are; a module or a command is found by the folder, so it starts in the copy. Raises `Impossible`."""
    root, _ = tree(job.cwd)
    if job.program.kind != "script":
        return job._replace(cwd=os.path.normpath(os.path.join(target, os.path.relpath(job.cwd, root))))
    script = os.path.relpath(os.path.join(job.cwd, job.program.argv[0]), root)
    if script.startswith(".."):
        raise Impossible(
            f"--snapshot: the script {job.program.argv[0]} is not below {root}, of which a copy would be made",
            "start it from its own folder",
        )
    return job._replace(program=job.program._replace(argv=(os.path.join(target, script), *job.program.argv[1:])))


def snapshot(cwd: str, target: Path, limit: int) -> None:
    """Copy the code to `target`."""
    root, names = tree(cwd)
    guard(root, names, limit, "--snapshot")
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(os.path.join(root, name), path, follow_symlinks=False)
    target.mkdir(exist_ok=True)


def send(
    job: Job, hosts: Sequence[Host], cwd: str, limit: int, say: Callable[[str], None], env: Mapping[str, str]
) -> None:
    """Bring the code to the same path on these hosts, several at a time; what is there already is not sent again.

    Raises `Impossible`, `Unreachable`.
    """
    if shutil.which("rsync", path=env.get("PATH")) is None:
        raise Impossible(
            "--sync needs rsync, and there is none here", "install it here and on the hosts: `apt install rsync`"
        )
    root, names = tree(cwd)
    total = guard(root, names, limit, "--sync")
    files, where = plural(len(names), "file"), fold_hosts(host.name for host in hosts)
    say(f"sending {files} ({max(1, total >> 10)} kB) of {root} to {where}")
    listed = b"\0".join(map(os.fsencode, names))

    def one(host: Host) -> tuple[str, str]:
        shell = shlex.join([*job.ssh, *(word for option in OPTIONS for word in ("-o", option))])
        user = f"{host.user}@" if host.user else ""
        done = subprocess.run(
            [
                *("rsync", "-a", "-z", "--delete-missing-args", "--from0", "--files-from=-"),
                *("--rsync-path", f"mkdir -p {shlex.quote(root)} && rsync", "-e", shell),
                *(f"{root}/", f"{user}{host.name}:{root}/"),
            ],
            input=listed,
            capture_output=True,
            env=dict(env),
        )
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        lines = [line for line in last if not line.startswith("rsync error")]
        return host.name, "" if done.returncode == 0 else (lines or last or [f"status {done.returncode}"])[-1]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        failed = [(name, why) for name, why in pool.map(one, hosts) if why]
    if failed:
        reasons: dict[str, list[str]] = {}
        for name, why in failed:
            reasons.setdefault(why, []).append(name)
        told = "; ".join(f"{fold_hosts(who)}: {why}" for why, who in reasons.items())
        missing = any("rsync: command not found" in why or "rsync: not found" in why for why in reasons)
        raise Unreachable(f"--sync could not send the code: {told}", "install rsync there" if missing else None)
