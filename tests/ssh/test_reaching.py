"""Unusable hosts: reported in a sentence that names them, and nothing is left on the others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from lab_cluster import EXAMPLE, LabCluster
from waiting import until


def refused(there: LabCluster, *words: str, status: int = 3, timeout: float = 60) -> str:
    """Return muster's message about an impossible run, of which nothing may be left."""
    done = there.muster("run", *words, str(EXAMPLE), timeout=timeout)
    assert status == done.returncode, done.stdout + done.stderr
    assert "" == done.stdout
    assert "Traceback" not in done.stderr
    there.nothing_left()
    assert [] == list((there.home / "runs").glob("*"))
    return str(done.stderr)


def test_an_unknown_host(there: LabCluster) -> None:
    said = refused(there, "-H", "n1,nowhere")
    assert "cannot use all hosts: nowhere: host name not found (n1 answered)" in said


def test_a_name_that_ssh_would_take_for_an_option(there: LabCluster) -> None:
    said = refused(there, "-H", "n1,-oProxyCommand=reboot", status=2)
    assert "invalid host name: `-oProxyCommand=reboot`" in said


def test_one_of_three_is_down(there: LabCluster) -> None:
    there.lab.fault("crash", "n3")
    said = refused(there, "-H", "n[1-3]", "--ssh", "ssh -o ConnectTimeout=10")
    assert "n3: " in said
    assert "(n[1-2] answered)" in said


def test_sshd_that_does_not_listen(there: LabCluster) -> None:
    there.lab.fault("drop-ssh", "n2")
    said = refused(there, "-H", "n[1-3]", "--ssh", "ssh -o ConnectTimeout=10")
    assert "n2: " in said
    assert "(n[1,3] answered)" in said


@pytest.fixture
def ssh_config(there: LabCluster) -> Callable[[str], list[str]]:
    """Write an ssh configuration for a test; return the arguments that select it."""

    def make(text: str) -> list[str]:
        path = there.folder / "ssh_config"
        path.write_text(text)
        return ["--ssh", f"ssh -F '{path}'"]

    return make


def test_a_key_that_is_refused(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(there.folder / "other")], check=True)
    known = f"{there.lab.folder.ssh}/known_hosts"
    own = f"IdentityFile {there.folder}/other\nIdentitiesOnly yes\nUserKnownHostsFile {known}\n"
    said = refused(there, "-H", "n1", *ssh_config(own))
    assert "n1: ssh authentication failed: it requires a password, or another key or user" in said
    assert "muster cannot enter a password" in said


def test_a_host_key_that_is_not_known(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    said = refused(there, "-H", "n1", *ssh_config("UserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n"))
    assert "n1: unknown host key" in said
    assert "`ssh n1` once" in said


def test_a_host_key_that_changed(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(there.folder / "other")], check=True)
    key = (there.folder / "other.pub").read_text()
    (there.folder / "known").write_text(f"n1 {key}")
    said = refused(there, "-H", "n1", *ssh_config(f"UserKnownHostsFile '{there.folder}/known'\n"))
    assert "n1: host key changed" in said
    assert "ssh-keygen -R n1" in said


def test_a_host_that_answers_after_twelve_seconds(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    # through the head, which sleeps first
    slow = "Include /etc/ssh/ssh_config\nHost n2\n ProxyCommand sh -c 'sleep 12; exec ssh -W %h:%p head'\n"
    done = there.muster("run", "-H", "n1,n2", "-g", "1", *ssh_config(slow), str(EXAMPLE), timeout=240)
    assert 0 == done.returncode, done.stderr
    assert "waiting for an answer from n2" in done.stderr


def test_by_way_of_a_jump_host(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    jump = "Include /etc/ssh/ssh_config\nHost n3\n ProxyJump n2\n"
    done = there.muster("run", "-H", "n1,n3", "-g", "1", *ssh_config(jump), str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "rank 1 of 2 on n3" in done.stdout


def test_with_a_connection_that_is_shared(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    path = f"{there.lab.folder.path}/c-%h"
    shared = f"Include /etc/ssh/ssh_config\nHost *\n ControlMaster auto\n ControlPath {path}\n ControlPersist 20\n"
    words = ssh_config(shared)
    for _ in range(2):
        done = there.muster("run", "-H", "n1,n2", "-g", "1", *words, str(EXAMPLE))
        assert 0 == done.returncode, done.stderr
    for host in ("n1", "n2"):
        there.lab.run("head", ["ssh", "-F", str(there.folder / "ssh_config"), "-O", "exit", host], cwd="/")


# ---- login scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/tcsh", "/usr/bin/fish"])
def test_a_login_shell_that_is_not_bash(there: LabCluster, login: Callable[..., None], shell: str) -> None:
    if not os.path.exists(shell):
        pytest.skip(f"{shell} is not installed")
    login(
        "n1",
        f"sed -i 's|^root:\\(.*\\):[^:]*$|root:\\1:{shell}|' /etc/passwd",
        "sed -i 's|^root:\\(.*\\):[^:]*$|root:\\1:/bin/bash|' /etc/passwd",
    )
    done = there.muster("run", "-H", "n1,n2", "-g", "1", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr


def test_a_bashrc_that_prints(there: LabCluster, bashrc: Callable[[str, str], None]) -> None:
    bashrc("n1", "echo welcome; echo welcome >&2; printf no-newline")
    done = there.muster("run", "-H", "n1,n2", "-g", "1", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "welcome" not in done.stdout


# ---- what is missing there -------------------------------------------------------------------------------------------


def test_a_missing_python(there: LabCluster) -> None:
    said = refused(there, "-H", "n[1-3]", "-g", "1", "--python", "n[2-3]:/no/such/python", status=2)
    assert "n[2-3]: python not found: /no/such/python (n1 answered)" in said


def test_a_setup_that_fails_on_one_host(there: LabCluster) -> None:
    said = refused(there, "-H", "n1,n2", "-g", "1", "--setup", "n2:module load cuda", status=2)
    assert "n2: " in said
    assert "--setup failed: module load cuda" in said


def test_a_setup_that_holds_for_the_ranks(there: LabCluster) -> None:
    show = ["--", "sh", "-c", "echo $RANK $SET_BY"]
    done = there.muster(
        "run", "-H", "n1,n2", "-g", "1", "--setup", "export SET_BY=all", "--setup", "n2:SET_BY=n2", *show
    )
    assert 0 == done.returncode, done.stderr
    assert ["[0] 0 all", "[1] 1 n2"] == sorted(done.stdout.splitlines())


def test_torch_is_missing_on_some(there: LabCluster) -> None:
    done = there.muster("run", "-H", "n[1-3]", "-g", "1", "--python", "n[2-3]:/usr/bin/python3", str(EXAMPLE))
    assert 125 == done.returncode, done.stderr
    assert "n[2-3]" in done.stderr
    assert "torch" in done.stderr
    there.nothing_left()


def test_another_torch_on_one_host(there: LabCluster) -> None:
    """Differences are reported for all hosts, in short notation; package metadata simulate another torch."""
    other = there.folder / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    (package,) = other.glob("lib/python*/site-packages")
    for name in ("torch", "torch/distributed"):
        (package / name).mkdir()
        (package / name / "__init__.py").write_text("__version__ = '2.12.1'\nclass version: cuda = None\n")
    (package / "torch" / "version.py").write_text("__version__ = '2.12.1'\ncuda = None\n")
    done = there.muster("run", "-H", "n[1-3]", "-g", "1", "--python", f"n3:{other}/bin/python", str(EXAMPLE))
    assert 125 == done.returncode, done.stdout + done.stderr
    assert re.search(r"torch differs between hosts: n\[1-2\] 2\.13\.0\S*, n3 2\.12\.1", done.stderr), done.stderr
    there.nothing_left()


def test_ctrl_c_while_a_host_is_waited_for(there: LabCluster, ssh_config: Callable[[str], list[str]]) -> None:
    slow = "Include /etc/ssh/ssh_config\nHost n2\n ProxyCommand sleep 1000\n"
    process = there.start("run", "-H", "n1,n2", "-g", "1", *ssh_config(slow), str(EXAMPLE))
    until(lambda: there.pids("n1", "-I -S -c f=open"), "the agent of n1 lives")
    there.kill("head", "-m muster run", signal.SIGINT)
    assert 130 == process.wait(timeout=120), there.said()
    assert "interrupted by Ctrl-C before any rank started" in there.said()
    there.nothing_left()
