"""Small file systems that a test can fill. They need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str, kind: str = "tmpfs") -> Iterator[Path]:
    """Mount a file system of this size at `path`: `tmpfs`, or `ext4` on a sparse image beside it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill it")
    path.mkdir()
    if kind == "tmpfs":
        line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
    else:
        image = path.with_name(f"{path.name}.img")
        with open(image, "wb"):
            os.truncate(image, int(size.removesuffix("m")) << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        line = ["mount", "-o", "loop", str(image), str(path)]
    mounted = subprocess.run(line, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Use up all free bytes."""
    with open(path / "filler", "wb", buffering=0) as file:
        free = os.statvfs(path)
        try:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (1 << 20))
            file.seek(0, os.SEEK_END)
        except OSError:
            pass  # less is free, or other processes write too
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def free(path: Path) -> None:
    """Free the space again."""
    (path / "filler").unlink()
