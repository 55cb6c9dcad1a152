"""`--ship-env`: an environment that comes to hosts which share nothing, from host to host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster

SCRIPT = """
import os, socket, subprocess, sys
import tiny
said = subprocess.run(["tiny"], capture_output=True, text=True, check=True).stdout.strip()
print(socket.gethostname(), sys.prefix, tiny.WORD, said, os.environ.get("VIRTUAL_ENV"))
"""


def make_venv(top: Path) -> Path:
    """A venv with one package, which has a program."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(top)], check=True)
    (packages,) = top.glob("lib/python3*/site-packages")
    (packages / "tiny").mkdir()
    (packages / "tiny/__init__.py").write_text("WORD = 'one'\n")
    (packages / "tiny/data.bin").write_bytes(bytes(range(256)) * 10000)
    program = top / "bin/tiny"
    program.write_text(f"#!{top}/bin/python\nimport sys\nprint('from', sys.prefix)\n")
    program.chmod(0o755)
    return top


class Shipped:
    """Runs with a venv that only the head has."""

    def __init__(self, alone: LabCluster):
        self.alone, self.venv = alone, make_venv(alone.folder / "my_venv")
        self.package = next(self.venv.glob("lib/python3*/site-packages/tiny/__init__.py"))
        self.work = alone.folder / "work"
        self.work.mkdir()
        (self.work / "main.py").write_text(SCRIPT)
        self.root = f"{alone.lab.folder.scratch}/envs-{alone.folder.name}"

    def run(self, *words: str, hosts: str = "n[1-3]") -> Any:
        """Run the script on these hosts with the environment."""
        line = ("--ship-env", "--env-dir", self.root, "--python", f"{self.venv}/bin/python", "--launcher", "exec")
        more = ("--sync", "--env", f"VIRTUAL_ENV={self.venv}", "--prefix", "", "-H", hosts, "-g", "1", *words)
        return self.alone.muster("run", *line, *more, "main.py", cwd=str(self.work))

    def on(self, host: str, line: str) -> str:
        """Run a shell line on a host."""
        found = self.alone.lab.run(host, ["sh", "-c", line], cwd="/")
        assert found.returncode == 0, found.stderr
        return str(found.stdout)


@pytest.fixture
def shipped(alone: LabCluster) -> Iterator[Shipped]:
    made = Shipped(alone)
    yield made
    for host in ("n1", "n2", "n3"):
        made.on(host, f"rm -rf {made.root}")


def test_an_environment_is_sent_once(shipped: Shipped) -> None:
    done = shipped.run()
    assert 0 == done.returncode, done.stderr
    assert re.search(r"sending the virtual environment \S+ to n\[1-3\]: \d+ files \(2\.\d MiB\)", done.stderr), (
        done.stderr
    )
    addresses = {line.split()[1] for line in done.stdout.splitlines()}
    assert len(addresses) == 1 and 3 == len(done.stdout.splitlines())
    (prefix,) = addresses
    assert re.fullmatch(re.escape(shipped.root) + "/[0-9a-f]{20}/env", prefix)
    assert all(f" one from {prefix} {prefix}" in line for line in done.stdout.splitlines()), done.stdout
    assert "drwx------" == shipped.on("n2", f"ls -ld {shipped.root}").split()[0]
    # unchanged: nothing is sent
    again = shipped.run()
    assert 0 == again.returncode and "sending" not in again.stderr, again.stderr
    assert sorted(done.stdout.splitlines()) == sorted(again.stdout.splitlines())
    # one file changed: it is sent, the rest is taken from the first one
    shipped.package.write_text("WORD = 'two'\n")
    changed = shipped.run()
    assert 0 == changed.returncode, changed.stderr
    assert re.search(r": \d+ files? \(\S+ (bytes|KiB)\), \d+ files? unchanged", changed.stderr), changed.stderr
    assert {"two"} == {line.split()[2] for line in changed.stdout.splitlines()}
    inodes = [shipped.on("n1", f"stat -c %i {shipped.root}/*/env/lib/python3*/site-packages/tiny/data.bin").split()]
    assert 1 == len(set(inodes[0])) and 2 == len(inodes[0]), "unchanged files are links"
    # what an interrupted run has left goes away, and so does what no run has used for long
    shipped.on("n1", f"mkdir {shipped.root}/part-dead && touch {shipped.root}/part-dead/lock")
    shipped.on("n1", f"touch -d '20 days ago' {Path(prefix).parent}/complete")
    assert 0 == shipped.run(hosts="n1").returncode
    left = shipped.on("n1", f"ls {shipped.root}").split()
    assert 1 == len(left) and left[0] not in prefix, left
    # `muster clean` removes those that nothing uses, unless they are new
    clean = ("clean", "--environments", "--env-dir", shipped.root, "-H", "n1")
    assert "nothing to clean up" in shipped.alone.muster(*clean).stdout
    shipped.on("n1", f"touch -d '1 hour ago' {shipped.root}/*/complete")
    assert f"n1: found environment {shipped.root}/{left[0]}" in shipped.alone.muster(*clean, "--dry-run").stdout
    assert f"n1: removed environment {shipped.root}/{left[0]}" in shipped.alone.muster(*clean).stdout
    assert "" == shipped.on("n1", f"ls {shipped.root}")
    shipped.alone.nothing_left()


def test_what_hosts_lack(shipped: Shipped) -> None:
    """An editable package, and room."""
    info = shipped.package.parent.parent / "mine-1.0.dist-info"
    info.mkdir()
    (info / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "file:///srv/my%20project"}')
    done = shipped.run()
    assert 2 == done.returncode
    assert "mine is installed in place (editable), and /srv/my project is not on n[1-3]" in done.stderr
    (info / "direct_url.json").unlink()
    shipped.alone.lab.fault("full-disk", "n3")
    try:
        done = shipped.run()
        assert done.returncode in (2, 3), done.stderr
        assert re.search(r"--ship-env: the environment needs .*, and n3 has |n3: .*No space left", done.stderr), (
            done.stderr
        )
    finally:
        shipped.alone.lab.clear()
    assert "" == shipped.on("n2", f"ls {shipped.root} | grep part- || true")
    shipped.alone.nothing_left()


def test_each_role_has_its_environment_and_all_have_the_code(shipped: Shipped) -> None:
    """Two roles with an environment each, on hosts that share nothing."""
    alone, other = shipped.alone, make_venv(shipped.alone.folder / "other_venv")
    next(other.glob("lib/python3*/site-packages/tiny/__init__.py")).write_text("WORD = 'two'\n")
    (shipped.work / "serve").mkdir()
    (shipped.work / "serve/other.py").write_text(SCRIPT)
    line = ("--ship-env", "--env-dir", shipped.root, "--sync", "--prefix", "", "-H", "n[1-3]", "--launcher", "exec")
    first = ("--role", "a", "-N", "2", "-g", "1", "--python", f"{shipped.venv}/bin/python", "main.py")
    second = ("--role", "b", "-g", "1", "--launcher", "exec", "--python", f"{other}/bin/python", "serve/other.py")
    done = alone.muster("run", *line, *first, ":", *second, cwd=str(shipped.work))
    assert 0 == done.returncode, done.stderr
    found = sorted(line.split()[:3] for line in done.stdout.splitlines())
    assert [("n1", "one"), ("n2", "one"), ("n3", "two")] == [(host, word) for host, _, word in found]
    assert [1, 1, 1] == [len(shipped.on(host, f"ls {shipped.root}").split()) for host, *_ in found]
    assert all(prefix.startswith(f"{shipped.root}/") for _, prefix, _ in found), found
    alone.nothing_left()


def test_a_session_has_the_environment(shipped: Shipped) -> None:
    alone, work = shipped.alone, str(shipped.work)
    words = ("--ship-env", "--env-dir", shipped.root, "--python", f"{shipped.venv}/bin/python", "--cwd", "/")
    held = alone.muster("hold", *words, "-H", "n[1-2]", "-g", "1", "--name", "dev", cwd=work)
    assert 0 == held.returncode, held.stderr
    done = alone.muster("run", "--on", "dev", "--sync", "--launcher", "exec", "--prefix", "", "main.py", cwd=work)
    assert 0 == done.returncode, done.stderr
    assert all(line.split()[1].startswith(f"{shipped.root}/") for line in done.stdout.splitlines()), done.stdout
    assert 2 == len(done.stdout.splitlines())
    assert 0 == alone.muster("release", "dev").returncode
    alone.nothing_left()
