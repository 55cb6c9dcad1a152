"""Errors of `muster lab`: one sentence, one hint, an exit code, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from lab_process import SOURCES, LabProcess, difference

from muster.lab.requirements import PROGRAMS

HERE = "/var/lib/muster-lab"


def words(stage: LabProcess, *asked: str, under: tuple[str, ...] = ()) -> tuple[int, str]:
    """Return exit code and stderr of `muster lab …`, which must leave nothing; `under` is a command that runs it."""
    before = stage.look()
    done = stage.run(*under, sys.executable, "-m", "muster", "lab", *asked)
    assert "" == done.stdout
    assert "Traceback" not in done.stderr
    assert {} == difference(before, stage.look())
    return done.returncode, done.stderr


NONE_UP = "muster: no lab is up\nhint: `muster lab up` makes one\n"

CANNOT_BE_ASKED = {
    "sideways": "there is no `muster lab sideways`",
    "upp": "there is no `muster lab upp`",
    "up there": "`muster lab up` takes no operand; it was given there",
    "down n1": "`muster lab down` takes no operand; it was given n1",
    "up --nodes 0": "invalid value for --nodes: '0' (expected a positive integer)",
    "up --nodes 999": "a lab has 1 to 250 nodes, and 999 were asked for",
    "up --nodes many": "many",
    "up --gpus 17": "a node of a lab has 0 to 16 GPUs, and 17 were asked for",
    "up --cpus 2000": "a node of a lab has 1 to 1024 cores, and 2000 were asked for",
    "up --share /no/such": "there is no directory /no/such that the hosts could share",
    "exec": "`muster lab exec` wants a host and a command",
    "exec n1": "`muster lab exec n1` wants a command",
    "exec n1 --": "`muster lab exec n1` wants a command",
    "shell n1 n2": "`muster lab shell` takes one host, and was given n1 n2",
}


def test_what_cannot_be_asked_is_told_and_nothing_comes_up(stage: LabProcess) -> None:
    before = stage.look()
    for asked, says in CANNOT_BE_ASKED.items():
        done = stage.muster("lab", *asked.split())
        assert (2, "") == (done.returncode, done.stdout), asked
        first, *rest = done.stderr.splitlines()
        assert first.startswith("muster: "), done.stderr
        assert says in first
        assert 1 == len(rest), done.stderr
        assert rest[0].startswith("hint: ")
    assert {} == difference(before, stage.look())


def test_what_needs_a_lab_says_that_none_is_up(stage: LabProcess) -> None:
    before = stage.look()
    for asked in ("exec n1 -- true", "fault freeze n1", "fault clear", "shell", "ssh-config"):
        done = stage.muster("lab", *asked.split())
        assert (2, "", NONE_UP) == (done.returncode, done.stdout, done.stderr), asked
    assert {} == difference(before, stage.look())


def test_down_and_status_without_a_lab_are_answers(stage: LabProcess) -> None:
    assert (0, "no lab is up\n", "") == answer(stage.muster("lab", "down"))
    assert (1, "no lab is up\n", "") == answer(stage.muster("lab", "status"))


def answer(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_what_a_lab_does_not_have_is_told(stage: LabProcess) -> None:
    assert 0 == stage.muster("lab", "up", "--nodes", "2").returncode
    for asked, says in {
        "exec n3 -- true": "muster: the lab has no host n3\nhint: it has head, n1, n2\n",
        "fault flood n1": "muster: there is no fault `flood`\n",
        "fault freeze": "muster: `freeze` is the fault of a host\nhint: name one: head, n1, n2\n",
        "fault freeze n9": "muster: the lab has no host n9\nhint: it has head, n1, n2\n",
        "fault slurmctld-down n1": "muster: `slurmctld-down` is a fault of the whole lab, not of n1\n",
        "fault freeze n1 n2": "muster: `muster lab fault` makes one fault on one host; it was given freeze n1 n2\n",
        "fault clear freez": "muster: `freez` is neither a fault nor a host of the lab\n",
    }.items():
        done = stage.muster("lab", *asked.split())
        assert (2, "") == (done.returncode, done.stdout), asked
        assert done.stderr.startswith(says), done.stderr
    assert "there was no such fault\n" == stage.muster("lab", "fault", "clear", "freeze").stdout
    assert 0 == stage.muster("lab", "down").returncode


def test_the_status_of_exec_is_that_of_the_command(stage: LabProcess) -> None:
    assert 0 == stage.muster("lab", "up", "--nodes", "1").returncode
    assert 7 == stage.muster("lab", "exec", "n1", "--", "sh", "-c", "exit 7").returncode
    assert 143 == stage.muster("lab", "exec", "n1", "--", "sh", "-c", "sh -c 'kill $$'").returncode
    missing = stage.muster("lab", "exec", "n1", "--", "no-such-program")
    assert 127 == missing.returncode
    assert "no-such-program" in missing.stderr
    assert 0 == stage.muster("lab", "down").returncode


@pytest.mark.parametrize("lost", ["net_admin", "sys_admin"])
def test_root_without_its_powers_is_told_what_grants_them(stage: LabProcess, lost: str) -> None:
    status, said = words(stage, "up", under=("setpriv", f"--bounding-set=-{lost}", f"--inh-caps=-{lost}"))
    assert 2 == status
    sentence, hint = said.splitlines()
    assert "Operation not permitted" in sentence
    assert hint.startswith("hint: in a container: start it with `--privileged`")


def test_who_is_not_root_is_told(stage: LabProcess) -> None:
    """The sources are copied to a place that any user can read."""
    assert 0 == stage.run("cp", "-r", SOURCES, "/tmp/sources").returncode
    under = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    env = {**stage.env, "PYTHONPATH": "/tmp/sources", "PYTHONDONTWRITEBYTECODE": "1"}
    for asked in ("up", "down", "status", "exec n1 -- true", "fault freeze n1", "install"):
        done = stage.run(*under, "/usr/bin/python3", "-m", "muster", "lab", *asked.split(), env=env)
        assert (2, "") == (done.returncode, done.stdout), asked
        assert done.stderr.startswith("muster: the lab makes network namespaces and mounts, which only root may do")
        assert "\nhint: " in done.stderr


@pytest.mark.parametrize("programs", [["slurmctld"], ["sshd", "mpiexec.hydra"]])
def test_missing_packages_are_named_with_the_line_that_installs_them(stage: LabProcess, programs: list[str]) -> None:
    hiding = "".join(f"mount -n --bind /dev/null $(command -v {program}); " for program in programs)
    under = ("unshare", "-m", "sh", "-c", f'{hiding}exec "$@"', "sh")
    packages = ", ".join(PROGRAMS[program] for program in programs)
    expected = f"muster: the lab needs {packages}, not installed here\nhint: `muster lab install`\n"
    assert (2, expected) == words(stage, "up", under=under)


def test_install_has_nothing_to_do_where_all_is_there(stage: LabProcess) -> None:
    assert (0, "all that the lab needs is installed\n", "") == answer(stage.muster("lab", "install"))


def test_a_folder_that_holds_something_else_is_left_alone(stage: LabProcess) -> None:
    stage.path(HERE).mkdir()
    stage.path(f"{HERE}/thesis.txt").write_text("years of work")
    expected = f"muster: {HERE} is not empty, and is no lab's\nhint: name another folder, or empty that one\n"
    assert (2, expected) == words(stage, "up")
    assert (2, f"muster: {HERE} is no lab's folder\nhint: it is left as it is\n") == words(stage, "down")
    assert "years of work" == stage.path(f"{HERE}/thesis.txt").read_text()


def test_a_slurm_that_does_not_come_up_is_told_with_its_last_words(stage: LabProcess) -> None:
    text = "from muster.lab import Lab\nLab(nodes=1, slurm={'SelectType': 'select/nonsense'}).up(owned=True)"
    before = stage.look()
    done = stage.python(text)
    assert 1 == done.returncode
    # whichever ended first
    assert any(f"the lab did not come up: on {where} ended" in done.stderr for where in ("head slurmctld", "n1 slurmd"))
    assert "nonsense" in done.stderr
    assert {} == difference(before, stage.look())


def test_the_help_names_every_action_and_fault(stage: LabProcess) -> None:
    usage = stage.muster("lab").stdout
    for name in ("up", "down", "status", "exec", "shell", "fault", "ssh-config", "install"):
        assert f"\n  {name} " in usage
        assert f"muster lab {name}" in stage.muster("lab", name, "--help").stdout
    assert "freeze HOST" in stage.muster("lab", "fault").stdout


def test_up_and_down_leave_nothing(stage: LabProcess) -> None:
    """The only test of the lab itself in `make test`; the others are in `make lab-test`."""
    before = stage.look()
    assert 0 == stage.muster("lab", "up").returncode
    done = stage.muster("lab", "exec", "head", "--", "srun", "-N3", "hostname")
    assert (0, ["n1", "n2", "n3"]) == (done.returncode, sorted(done.stdout.split())), done.stderr
    assert "the lab is up: head and 3 nodes" in stage.muster("lab", "status").stdout
    done = stage.muster("lab", "down")
    assert (0, "the lab is gone\n", "") == (done.returncode, done.stdout, done.stderr)
    assert {} == difference(before, stage.look())
