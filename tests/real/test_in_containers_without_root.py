"""Runs in containers of podman by a user who is not root: files are theirs, and nothing is left.

The user exists in a mount namespace only, with subordinate ids. The image is made here, with /usr mounted into it; the
Python is that of the system, because another user need not see the one of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from podman_image import configured, write_image
from waiting import until

UID, PYTHON, SRC = 2001, "/usr/bin/python3", Path(__file__).parents[2] / "src"


def _is_open(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


pytestmark = [
    pytest.mark.skipif(not all(map(shutil.which, ("podman", "newuidmap", "unshare"))), reason="podman, uidmap"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason=f"there is no {PYTHON}"),
    pytest.mark.skipif(not _is_open(SRC), reason="another user cannot read the source of muster"),
    pytest.mark.xdist_group("podman"),
]

BECOME = f"""
mount --make-rprivate / || exit
for name in passwd group subuid subgid; do mount --bind "$HOME/of-etc/$name" /etc/$name || exit; done
exec setpriv --reuid {UID} --regid {UID} --clear-groups "$@"
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def as_user() -> Iterator[Run]:
    """Run a command as the user, in the home directory."""
    home = Path(tempfile.mkdtemp(prefix="muster-test-"))
    env = {"HOME": str(home), "USER": "bea", "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": f"{home}/run"}
    env.update(configured(home), MUSTER_HOME=f"{home}/muster", PYTHONPATH=str(SRC), PYTHONDONTWRITEBYTECODE="1")
    etc = home / "of-etc"
    for folder in (etc, home / "run"):
        folder.mkdir()
    entry = {"passwd": f"bea:x:{UID}:{UID}::{home}:/bin/sh\n", "group": f"bea:x:{UID}:\n"}
    for name in ("passwd", "group"):
        (etc / name).write_text(Path("/etc", name).read_text() + entry[name])
    for name in ("subuid", "subgid"):
        (etc / name).write_text("bea:300000:65536\n")
    write_image(home / "image.tar")
    for path in (home, *home.rglob("*")):
        os.chown(path, UID, UID)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = ["unshare", "--mount", "sh", "-c", BECOME, "sh", *words]
        return subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=240)

    yield run
    run("podman", "rm", "--all", "--force", "--time", "0")
    run("podman", "unshare", "rm", "-rf", f"{home}/.local")
    shutil.rmtree(home, ignore_errors=True)


SCRIPT = """
import os, sys, time
print(os.environ["RANK"], os.getuid(), os.path.exists("/root/.profile"), flush=True)
open(f"written-{os.environ['RANK']}", "w").close()
time.sleep(float(sys.argv[1]))
"""


def test_ranks_have_the_uid_of_the_user_and_leave_nothing(as_user: Run) -> None:
    imported = as_user("podman", "import", "--quiet", "image.tar", "localhost/bea")
    assert 0 == imported.returncode, imported.stderr
    made = as_user("sh", "-c", "cat >script.py <<'END'\n" + SCRIPT + "\nEND")
    assert 0 == made.returncode, made.stderr
    inside = ("--container", "localhost/bea", "--container-runtime", "podman", "--mount", "/usr:/usr:ro")
    line = (PYTHON, "-m", "muster", "run", *inside, "--launcher", "exec", "-g", "2")
    done = as_user(*line, "--prefix", "", "script.py", "0")
    assert 0 == done.returncode, done.stderr
    assert [f"0 {UID} False", f"1 {UID} False"] == sorted(done.stdout.splitlines())
    owners = as_user("stat", "-c", "%u", "written-0", "written-1").stdout.split()
    assert [str(UID)] * 2 == owners

    assert 0 == as_user(*line, "-d", "--grace", "2", "script.py", "600").returncode
    until(lambda: as_user(PYTHON, "-m", "muster", "logs").stdout.count(f" {UID} ") == 2, "both ranks run")
    assert 0 == as_user(PYTHON, "-m", "muster", "kill", "last").returncode
    assert "killed" in as_user(PYTHON, "-m", "muster", "ps").stdout
    until(lambda: not as_user("podman", "ps", "--all", "--quiet").stdout, "no container is left")
