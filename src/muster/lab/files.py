"""The files of a lab on disk, written at the start and deleted at the end, and the commands of its services."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from muster.errors import ControlError
from muster.lab import config_files, namespaces, sge
from muster.lab.spec import SECOND_USER, Folder, Shape

MARK = "muster lab"
"""Marker in the record, so that no other directory is mistaken for a lab's and deleted."""


def munged(folder: Folder) -> list[str]:
    """Return the command of munged. One serves all hosts: its socket is in the directory that they share."""
    at = folder.munge
    files = [f"--key-file={at}/key", f"--socket={at}/socket", f"--pid-file={at}/pid"]
    return ["munged", "--foreground", *files, f"--log-file={at}/log", f"--seed-file={at}/seed"]


def sshd(folder: Folder) -> list[str]:
    """Return the command of sshd. It executes itself again for each connection, which requires its full path."""
    return [_full("sshd"), "-D", "-e", "-f", f"{folder.ssh}/sshd_config"]


def slurmctld(folder: Folder) -> list[str]:
    """Return the command of slurmctld."""
    return ["slurmctld", "-D", "-f", folder.slurm_conf]


def slurmd(folder: Folder, node: str) -> list[str]:
    """Return the command of a node's slurmd."""
    return ["slurmd", "-D", "-f", folder.slurm_conf, "-N", node]


def mariadbd(folder: Folder) -> list[str]:
    """Return the command of MariaDB, without a port, and small. Each commit reaches the kernel, but not the disk."""
    words = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={folder.database}"]
    words += [f"--socket={config_files.DATABASE_SOCKET}", "--skip-networking", "--performance-schema=OFF"]
    words += ["--innodb-flush-log-at-trx-commit=2", "--innodb-use-native-aio=OFF"]
    return [*words, "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"]


def slurmdbd() -> list[str]:
    """Return the command of slurmdbd, which finds its configuration beside slurm.conf."""
    return ["slurmdbd", "-D"]


def new_cluster() -> list[str]:
    """Return the command that makes the lab known to slurmdbd; it fails if it is known already."""
    return ["sacctmgr", "--immediate", "add", "cluster", "lab"]


def make_database(folder: Folder) -> None:
    """Create the files of MariaDB. Raises `ControlError`."""
    from muster.lab.host_init import PATH

    words = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder.database}"]
    words += ["--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"]
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={"PATH": PATH, "LANG": "C.UTF-8"}
    )
    if done.returncode != 0:
        last = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-6:])
        raise ControlError("mariadb-install-db failed to create a database", f"its last output:\n{last}")


def _full(program: str) -> str:
    from muster.lab.host_init import PATH

    return shutil.which(program, path=PATH) or program


def write(folder: Folder, shape: Shape, tracks: str, slurm: Mapping[str, str]) -> None:
    """Write the files that sshd, Slurm and munge read. Raises `ControlError` if no key can be generated."""
    for path in (folder.ssh, folder.slurm, f"{folder.slurm}/state", folder.homes, f"{folder.homes}/{SECOND_USER}"):
        os.makedirs(path, exist_ok=True)
    for path in (
        folder.munge,
        folder.scratch,
        folder.share,
        folder.shared,
        f"{folder.path}/gate",
        f"{folder.path}/log",
    ):
        os.makedirs(path, exist_ok=True)
    os.chmod(folder.shared, 0o1777)
    Path(folder.shared, ".here").touch()
    for host in shape.hosts:
        Path(folder.gate(host)).touch()
    for node in shape.node_names:
        os.makedirs(f"{folder.slurm}/spool-{node}", exist_ok=True)
    _private(f"{folder.munge}/key", secrets.token_bytes(128))
    for name in ("host_key", "id_root", f"id_{SECOND_USER}"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "muster-lab", "-f", f"{folder.ssh}/{name}"]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise ControlError(f"ssh-keygen failed to create a key in {folder.ssh}: {done.stderr.strip()}")
    host_key, roots, guests = (
        Path(f"{folder.ssh}/{name}.pub").read_text() for name in ("host_key", "id_root", f"id_{SECOND_USER}")
    )
    for path, text in (
        (f"{folder.ssh}/authorized_keys_root", roots),
        (f"{folder.ssh}/authorized_keys_{SECOND_USER}", guests + roots),
        (f"{folder.ssh}/known_hosts", config_files.known_hosts(shape, host_key)),
        (f"{folder.ssh}/sshd_config", config_files.sshd_config(folder, shape)),
        (folder.slurm_conf, config_files.slurm_conf(shape, folder, tracks, slurm)),
        (f"{folder.slurm}/gres.conf", config_files.gres_conf(shape)),
        (f"{folder.slurm}/cgroup.conf", config_files.cgroup_conf()),
    ):
        Path(path).write_text(text)
    if shape.accounting:
        _private(folder.slurmdbd_conf, config_files.slurmdbd_conf(folder).encode())  # slurmdbd refuses a readable one
        make_database(folder)


def write_sge(folder: Folder) -> None:
    """Write the files of Grid Engine, and create its database. Raises `ControlError`."""
    for path in sge.directories(folder):
        os.makedirs(path, exist_ok=True)
    for name in sge.LINKS:
        os.symlink(f"/var/lib/gridengine/{name}", f"{folder.sge}/{name}")
    for path, text in sge.files(folder, Path(sge.TEMPLATE).read_text()).items():
        Path(path).write_text(text)
    env = {**os.environ, **sge.variables(folder)}
    for words in sge.initialize(folder):
        done = subprocess.run(words, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise ControlError(f"`{' '.join(words)}` failed: {(done.stderr or done.stdout).strip()}")


def _private(path: str, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def give_home(folder: Folder, guest: int) -> None:
    """Give the second user a home directory and a private key that is valid for that account only."""
    home = f"{folder.homes}/{SECOND_USER}"
    os.chmod(home, 0o700)
    for path in (home, f"{folder.ssh}/id_{SECOND_USER}"):
        os.chown(path, guest, guest)


def write_record(folder: Folder, record: Mapping[str, Any]) -> None:
    """Write lab.json atomically."""
    new = f"{folder.record}.new"
    Path(new).write_text(json.dumps({"mark": MARK, **record}, indent=1))
    os.replace(new, folder.record)


def read_record(folder: Folder) -> dict[str, Any] | None:
    """Return lab.json; None if this is not the directory of a lab."""
    try:
        record: dict[str, Any] = json.loads(Path(folder.record).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("mark") == MARK else None


def last_lines(path: str, count: int = 8) -> str:
    """Return the last `count` lines of a log, indented."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()[-count:]
    except OSError as error:
        lines = [f"(no log: {error})"]
    return "\n".join(f"    {line}" for line in lines or ["(empty)"])


_IN_DIRECTORY = """cd "$0" 2>/dev/null && exec "$@"
echo "error: $(uname -n): cannot enter directory $0" >&2
case $0 in /tmp/*|/var/tmp/*)
  echo "hint: /tmp and /var/tmp are local to each host of the lab; use a shared directory, such as your home," \\
    "or share this one: muster lab up --share $0" >&2
esac
exit 2
"""
"""Shell script that runs its arguments in the directory `$0`."""


def enter(pid: int, cwd: str, user: str | None, argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` in the host whose init process is `pid`.

    The command is killed when its caller dies: its parent process inside the host is nsenter, out here. If the host has
    no directory `cwd`, it prints that and exits with status 2.
    """
    line = ["nsenter", "-t", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", "setpriv"]
    if user is not None:
        line += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return [*line, "--pdeathsig", "KILL", "--", "sh", "-c", _IN_DIRECTORY, cwd, *argv]


def in_host(folder: Folder, pid: int, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a short command of the lab itself in a host."""
    from muster.lab.host_init import PATH

    env = {"PATH": PATH, "SLURM_CONF": folder.slurm_conf, **sge.variables(folder), "LANG": "C.UTF-8"}
    return subprocess.run(
        enter(pid, "/", None, argv), env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
    )


def group_name(folder: Folder) -> str:
    """Return the name of this lab's group in the freezer hierarchy."""
    return "muster-lab" + folder.path.replace("/", "-")


def clear_away(folder: Folder) -> None:
    """Delete the control groups and files of a lab whose processes have exited."""
    with suppress(OSError):
        namespaces.unmount(folder.cgroups)  # the daemon's own mount, visible only in its own namespace
    if os.path.isdir(folder.path):
        _with_groups(folder, _remove_groups)
    shutil.rmtree(folder.path, ignore_errors=True)
    if os.path.lexists(folder.path):
        shutil.rmtree(folder.path)


def thaw(top: str) -> None:
    """Thaw all control groups below `top`: a frozen process cannot even be killed."""
    for path, _, _ in os.walk(top):
        with suppress(OSError):
            Path(path, "freezer.state").write_text("THAWED")


def thaw_all(folder: Folder) -> None:
    """Thaw the groups of a lab whose daemon cannot."""
    _with_groups(folder, thaw)


def _with_groups(folder: Folder, do: Callable[[str], Any]) -> None:
    """Call `do` with the lab's group directory, with the hierarchy mounted in the namespace of a child process."""
    os.makedirs(folder.cgroups, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            namespaces.unshare(namespaces.NEW_MOUNTS)
            namespaces.mount("none", "/", "", namespaces.RECURSIVE | namespaces.PRIVATE)
            namespaces.mount("cgroup", folder.cgroups, "cgroup", 0, "freezer")
            do(f"{folder.cgroups}/{group_name(folder)}")
            status = 0
        finally:
            os._exit(status)
    os.waitpid(pid, 0)


def _remove_groups(top: str) -> None:
    """Remove the groups. A group whose last process is dying stays busy for a moment."""
    end = time.monotonic() + 5
    while os.path.isdir(top):
        for path, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(path)
        if time.monotonic() > end:
            return
        time.sleep(0.01)
