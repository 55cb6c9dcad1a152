"""An image for podman that is made on this machine, and the mounts that make it complete."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from waiting import until

_COUNT = count()


def places() -> list[str]:
    """Return the directories of this machine that are mounted: /usr, and the Python of the tests."""
    python = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
    return sorted({"/usr", sys.prefix, sys.base_prefix, python})


def configured(folder: Path) -> dict[str, str]:
    """Return the environment with which podman works here."""
    # limits may not be raised here, as podman would; crun rejects cgroups v1 and v2 side by side
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    texts = []
    for name, number in limits.items():
        soft, hard = (min(value, 4096) if value >= 0 else 4096 for value in resource.getrlimit(number))
        texts.append(f'"{name}={soft}:{hard}"')
    runtime = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    (folder / "containers.conf").write_text(f"{runtime}[containers]\ndefault_ulimits = [{', '.join(texts)}]\n")
    return {"CONTAINERS_CONF": str(folder / "containers.conf")}


def configured_for_hosts(folder: Path) -> dict[str, str]:
    """Return the environment with which podman works on hosts of the lab, which have the images of this machine.

    They share /var, and each has its own /run. Where that of podman is empty, it takes the machine for booted anew, and
    all containers of its storage for ended: also those that another host has just started. So each has its own storage.
    """
    here = subprocess.run(
        ["podman", "info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}"],
        env={**os.environ, **configured(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    driver, root = here.stdout.split()
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "/run/containers/root"\nrunroot = "/run/containers/run"\n'
        f'[storage.options]\nadditionalimagestores = ["{root}"]\n'
    )
    return {**configured(folder), "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}


def write_image(path: Path) -> None:
    """Write an image of a few empty directories for `podman import`."""
    with tarfile.open(path, "w") as tar:
        for name in ("usr", "proc", "sys", "dev", "tmp", "etc", "run", "root", "var", "var/tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(entry)
        for name in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)


@contextmanager
def image(folder: Path) -> Iterator[str]:
    """Make an image of a few empty directories; yield its name, and remove it with all of its containers at the end.

    The name is this process's own: another run of the tests may use an image of its own at the same time.
    """
    name = f"localhost/muster-test-{os.getpid()}-{next(_COUNT)}"
    write_image(folder / "image.tar")
    env = {**os.environ, **configured(folder)}
    subprocess.run(["podman", "import", "--quiet", str(folder / "image.tar"), name], env=env, check=True)
    try:
        yield name
    finally:
        # it fails while a container is removing itself
        argv = ["podman", "rmi", "--force", name]
        until(lambda: subprocess.run(argv, env=env, capture_output=True).returncode == 0, "the image is removed")
