"""Runs in real containers of podman: output, exit status, stacks, detached runs, and that nothing stays behind.

The image is made here: a few empty directories, into which /usr and the Python of the tests are mounted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from podman_image import configured, image, places
from program import Muster
from waiting import until

pytestmark = [
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="rootless podman wants subordinate uids"),
    pytest.mark.xdist_group("podman"),  # all containers of this machine are theirs
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The name of the image, and the environment for podman."""
    folder = tmp_path_factory.mktemp("podman")
    with image(folder) as name:
        yield name, configured(folder)


@pytest.fixture
def inside(muster: Muster, engine: tuple[str, dict[str, str]], tmp_path: Path) -> Iterator[Muster]:
    """The program, in a directory whose muster.toml says that runs are in containers."""
    name, env = engine
    muster.env.update(env)
    mounts = ", ".join(f'"{place}:{place}:ro"' for place in places())
    how = f'container = "{name}"\ncontainer_runtime = "podman"\n'
    (tmp_path / "muster.toml").write_text(f'[run]\n{how}mount = [{mounts}]\npython = ["{sys.executable}"]\n')
    yield muster
    muster("kill", "--all")  # what a failed test has left


@pytest.fixture
def nothing_left(inside: Muster, engine: tuple[str, dict[str, str]]) -> Callable[[str], None]:
    """Return a function that waits until no container of the image is left, and no process with this in its argv."""
    argv = ["podman", "ps", "--all", "--quiet", "--filter", f"ancestor={engine[0]}"]

    def check(marker: str) -> None:
        def containers() -> str:
            return subprocess.run(argv, env=inside.env, capture_output=True, text=True, check=True).stdout

        until(lambda: not containers(), "no container is left")
        found = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True).stdout
        assert not found

    return check


SCRIPT = """
import os, socket, subprocess, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(dist.get_rank(), total.item(), os.path.exists("/etc/passwd"), flush=True)
subprocess.Popen(["sleep", sys.argv[1]])
dist.barrier()
if dist.get_rank() == 1:
    sys.exit(7)
time.sleep(600)
"""


def test_ranks_are_forked_inside_and_leave_nothing(
    inside: Muster, tmp_path: Path, nothing_left: Callable[[str], None]
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = inside("run", "-g", "2", "--prefix", "", "train.py", "60070")
    assert 7 == done.returncode, done.stderr
    assert {"0 2.0 False", "1 2.0 False"} == set(done.stdout.splitlines()), "the image has no /etc/passwd"
    assert "launcher fork" in done.stderr
    assert "cannot fork" not in done.stderr
    assert "rank 1 failed first" in done.stderr
    nothing_left("sleep 60070")


def test_a_detached_run_goes_on_and_is_looked_at_and_killed(
    inside: Muster, tmp_path: Path, nothing_left: Callable[[str], None]
) -> None:
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60071)\n")
    started = inside("run", "-d", "-g", "2", "train.py")
    assert 0 == started.returncode, started.stderr
    until(lambda: inside("logs").stdout.count("ready") == 2, "both ranks run")
    assert 'train.py", line 3 in <module>' in inside("stacks").stdout
    assert 0 == inside("kill", "last").returncode
    assert "killed" in inside("ps").stdout or "terminated" in inside("show").stdout
    nothing_left("sleep 60071")


def test_an_agent_that_is_killed_leaves_nothing(inside: Muster, nothing_left: Callable[[str], None]) -> None:
    program = ("--", "sh", "-c", "sleep 60072 & sleep 0.2; kill -9 $PPID; sleep 60072")
    done = inside("run", "-g", "1", *program)
    assert 125 == done.returncode, done.stderr
    nothing_left("sleep 60072")


def test_a_missing_image_is_reported_with_the_words_of_podman(inside: Muster) -> None:
    done = inside("run", "--container", "containers-storage:nothing-of-that-name", "-g", "1", "--", "true")
    assert 0 != done.returncode
    assert "nothing-of-that-name" in done.stderr


def test_one_role_in_a_container_and_one_outside(
    inside: Muster, tmp_path: Path, nothing_left: Callable[[str], None]
) -> None:
    (tmp_path / "where.py").write_text(
        "import os, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "print(os.environ['ROLE_NAME'], total.item(), os.path.exists('/etc/passwd'),"
        " 'rollout' in os.environ['MUSTER_ROLES'])\n"
        "dist.destroy_process_group()\n"
    )
    words = ["--role", "trainer", "-g", "2", "where.py", ":", "--role", "rollout", "--container", "", "where.py"]
    done = inside("run", *words, timeout=180)
    assert done.returncode == 0, done.stderr
    assert [inside.log(rank) for rank in range(3)] == [b"trainer 2.0 False True\n"] * 2 + [b"rollout 1.0 True True\n"]
    nothing_left("where.py")
