"""Requirements of a lab: root and some programs, and how to install the programs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from muster.errors import ControlError, InvalidRequest
from muster.lab.host_init import PATH
from muster.lab.spec import FUSE_LIBRARY
from muster.linux.shell import quote

PDSH_PACKAGE = "pdsh"

PROGRAMS: Mapping[str, str] = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "mpirun.openmpi": "openmpi-bin",
    "mpiexec.hydra": "mpich",
    "pdsh": PDSH_PACKAGE,
}
"""Each program with its package in Debian and Ubuntu."""

OF_SCHEDULER: Mapping[str, Mapping[str, str]] = {
    "sge": {
        "/usr/lib/gridengine/sge_qmaster": "gridengine-master",
        "/usr/lib/gridengine/sge_execd": "gridengine-exec",
        "qrsh": "gridengine-client",
    },
}
"""Each program with its package that only a lab with this scheduler requires."""

ACCOUNTING: Mapping[str, str] = {
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "my_print_defaults": "mariadb-client",  # mariadb-install-db calls it
    "slurmdbd": "slurmdbd",
}
"""Programs that only a lab with accounting needs, with their packages. The package `mariadb-server` would also start a
server of the machine's own."""

FUSE_PACKAGE = "libfuse3-3"

OPTIONAL = (FUSE_PACKAGE, PDSH_PACKAGE)
"""Optional packages: the lab starts without them, with a note on what it lacks."""

POLICY = "/usr/sbin/policy-rc.d"
"""Script that Debian's packages ask whether they may start their services."""


def _required(scheduler: str, accounting: bool) -> Mapping[str, str]:
    return {**PROGRAMS, **OF_SCHEDULER.get(scheduler, {}), **(ACCOUNTING if accounting else {})}


def missing(scheduler: str = "", accounting: bool = False) -> list[str]:
    """Return the packages that are not installed.

    With a `scheduler`, or with `accounting`, also those that only a lab with these requires.
    """
    required = _required(scheduler, accounting)
    found = [package for program, package in required.items() if shutil.which(program, path=PATH) is None]
    if not (glob(f"/usr/lib/*/{FUSE_LIBRARY}") or glob(f"/usr/lib*/{FUSE_LIBRARY}") or glob(f"/lib/*/{FUSE_LIBRARY}")):
        found.append(FUSE_PACKAGE)
    return list(dict.fromkeys(found))


def check_root() -> None:
    """Raise `InvalidRequest` unless this process is root."""
    if os.geteuid() != 0:
        raise InvalidRequest(
            f"the lab requires root to create network namespaces and mounts, and this is user {os.geteuid()}",
            f"sudo {os.path.abspath(sys.argv[0])} lab …" if sys.argv[0].endswith("muster") else "run it with sudo",
        )


def check(scheduler: str = "", accounting: bool = False) -> None:
    """Raise `InvalidRequest` if such a lab cannot run here, as far as can be checked without starting one."""
    if sys.platform != "linux":
        raise InvalidRequest(
            f"the lab requires Linux namespaces, and this is {sys.platform}", "run it on a Linux machine"
        )
    check_root()
    packages = [package for package in missing(scheduler, accounting) if package not in OPTIONAL]
    if packages:
        options = f" --scheduler {scheduler}" if scheduler in OF_SCHEDULER else ""
        options += " --accounting" if accounting else ""
        raise InvalidRequest(
            f"the lab requires packages that are not installed: {', '.join(packages)}",
            f"run `muster lab install{options}`" if _is_debian() else "install the programs " + _programs(packages),
        )


def check_reachable(folder: str) -> None:
    """Raise `InvalidRequest` if another user cannot enter the directories above: munge refuses sockets there, and the
    lab's second user has a home there."""
    above = os.path.dirname(os.path.realpath(folder))
    while above != "/":
        with suppress(FileNotFoundError):  # the lab creates it
            if not os.stat(above).st_mode & stat.S_IXOTH:
                raise InvalidRequest(
                    f"--lab-dir {folder}: other users cannot enter {above}",
                    f"choose a directory such as /var/lib/my-lab, or `chmod o+x {quote(above)}`",
                )
        above = os.path.dirname(above)


def why_no_share() -> str:
    """Return why a file system cannot be stalled on this machine; empty if it can."""
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse here"
    if FUSE_PACKAGE in missing():
        return f"{FUSE_PACKAGE} is not installed; install it with `muster lab install`"
    if find_spec("mfusepy") is None:
        return f"mfusepy is not installed; install it with `{sys.executable} -m pip install mfusepy`"
    return ""


def notes() -> list[str]:
    """Return what a lab on this machine lacks, as sentences."""
    why = why_no_share()
    found = [f"`muster lab fault stall` is not available: {why}"] if why else []
    if PDSH_PACKAGE in missing():
        found.append(f"{PDSH_PACKAGE} is not installed; install it with `muster lab install`")
    return found


def _programs(packages: list[str]) -> str:
    known = [PROGRAMS, *OF_SCHEDULER.values(), ACCOUNTING]
    return ", ".join(program for table in known for program, package in table.items() if package in packages)


def _is_debian() -> bool:
    return shutil.which("apt-get", path=PATH) is not None


def install(scheduler: str = "", accounting: bool = False) -> list[str]:
    """Install the missing packages without starting their services, and return their names."""
    check_root()
    packages = missing(scheduler, accounting)
    if not packages:
        return []
    if not _is_debian():
        raise InvalidRequest(
            "`muster lab install` requires apt-get (Debian, Ubuntu)",
            "install the programs " + _programs(packages),
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH}
    ours = not os.path.lexists(POLICY)
    if ours:
        # otherwise the sshd package would open a port on this machine
        Path(POLICY).write_text("#!/bin/sh\nexit 101\n")
        os.chmod(POLICY, 0o755)
    try:
        for words in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "-y", "--no-install-recommends", "install"]):
            argv = words if words[-1] == "update" else [*words, *packages]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                last = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-6:])
                raise ControlError(
                    f"`{' '.join(argv)}` failed with exit status {done.returncode}", f"its last output:\n{last}"
                )
    finally:
        if ours:
            os.unlink(POLICY)
    _stay_off(packages, env)
    return packages


def _stay_off(packages: list[str], env: Mapping[str, str]) -> None:
    """Disable the services of newly installed packages at boot: the lab starts its own."""
    same = ("munge", "slurmctld", "slurmd", "slurmdbd", "gridengine-master", "gridengine-exec")
    units = {"openssh-server": "ssh", **{name: name for name in same}}
    new = [units[package] for package in packages if package in units]
    if new and os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", "disable", "--quiet", *new], env=dict(env), capture_output=True)
