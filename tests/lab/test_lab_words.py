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


NONE_UP = "error: no lab is up\nhint: start one with `muster lab up`\n"

CANNOT_BE_ASKED = {
    "sideways": "unknown command: `muster lab sideways`",
    "upp": "unknown command: `muster lab upp`",
    "up there": "`muster lab up` takes no arguments, got: there",
    "down n1": "`muster lab down` takes no arguments, got: n1",
    "up --nodes 0": "invalid value for --nodes: '0' (expected a positive integer)",
    "up --nodes 999": "--nodes 999: a lab has 1 to 250 nodes",
    "up --nodes many": "many",
    "up --gpus 17": "--gpus 17: a lab node has 0 to 16 GPUs",
    "up --cpus 2000": "--cpus 2000: a lab node has 1 to 1024 cores",
    "up --share /no/such": "--share: directory not found: /no/such",
    "exec": "`muster lab exec` requires a host and a command",
    "exec n1": "`muster lab exec n1` requires a command",
    "exec n1 --": "`muster lab exec n1` requires a command",
    "shell n1 n2": "`muster lab shell` takes one host, got: n1 n2",
}


def test_invalid_requests_are_reported_and_nothing_starts(stage: LabProcess) -> None:
    before = stage.look()
    for asked, says in CANNOT_BE_ASKED.items():
        done = stage.muster("lab", *asked.split())
        assert (2, "") == (done.returncode, done.stdout), asked
        first, *rest = done.stderr.splitlines()
        assert first.startswith("error: "), done.stderr
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


def test_missing_parts_of_a_lab_are_reported(stage: LabProcess) -> None:
    assert 0 == stage.muster("lab", "up", "--nodes", "2").returncode
    for asked, says in {
        "exec n3 -- true": "error: the lab has no host n3\nhint: hosts of the lab: head, n1, n2\n",
        "fault flood n1": "error: unknown fault: `flood`\n",
        "fault freeze": "error: fault `freeze` requires a host\nhint: hosts of the lab: head, n1, n2\n",
        "fault freeze n9": "error: the lab has no host n9\nhint: hosts of the lab: head, n1, n2\n",
        "fault slurmctld-down n1": "error: fault `slurmctld-down` affects the whole lab, and takes no host\n",
        "fault freeze n1 n2": "error: `muster lab fault` takes one fault and one host, got: freeze n1 n2\n",
        "fault clear freez": "error: not a fault or host of the lab: `freez`\n",
    }.items():
        done = stage.muster("lab", *asked.split())
        assert (2, "") == (done.returncode, done.stdout), asked
        assert done.stderr.startswith(says), done.stderr
    assert "no matching faults\n" == stage.muster("lab", "fault", "clear", "freeze").stdout
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


def test_users_other_than_root_get_an_error(stage: LabProcess) -> None:
    """The sources are copied to a place that any user can read."""
    assert 0 == stage.run("cp", "-r", SOURCES, "/tmp/sources").returncode
    under = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    env = {**stage.env, "PYTHONPATH": "/tmp/sources", "PYTHONDONTWRITEBYTECODE": "1"}
    for asked in ("up", "down", "status", "exec n1 -- true", "fault freeze n1", "install"):
        done = stage.run(*under, "/usr/bin/python3", "-m", "muster", "lab", *asked.split(), env=env)
        assert (2, "") == (done.returncode, done.stdout), asked
        assert done.stderr.startswith("error: the lab requires root to create network namespaces and mounts")
        assert "\nhint: " in done.stderr


@pytest.mark.parametrize("programs", [["slurmctld"], ["sshd", "mpiexec.hydra"]])
def test_missing_packages_are_named_with_the_line_that_installs_them(stage: LabProcess, programs: list[str]) -> None:
    hiding = "".join(f"mount -n --bind /dev/null $(command -v {program}); " for program in programs)
    under = ("unshare", "-m", "sh", "-c", f'{hiding}exec "$@"', "sh")
    packages = ", ".join(PROGRAMS[program] for program in programs)
    expected = f"error: the lab requires packages that are not installed: {packages}\nhint: run `muster lab install`\n"
    assert (2, expected) == words(stage, "up", under=under)


def test_install_has_nothing_to_do_where_all_is_there(stage: LabProcess) -> None:
    assert (0, "everything the lab needs is already installed\n", "") == answer(stage.muster("lab", "install"))


def test_a_directory_with_other_content_is_left_alone(stage: LabProcess) -> None:
    stage.path(HERE).mkdir()
    stage.path(f"{HERE}/thesis.txt").write_text("years of work")
    hint = "choose another directory with --lab-dir, or empty this one"
    expected = f"error: {HERE} is not empty, and not the directory of a lab\nhint: {hint}\n"
    assert (2, expected) == words(stage, "up")
    assert (2, f"error: not the directory of a lab: {HERE}\nhint: it is left unchanged\n") == words(stage, "down")
    assert "years of work" == stage.path(f"{HERE}/thesis.txt").read_text()


def test_a_slurm_that_does_not_start_is_reported_with_its_last_output(stage: LabProcess) -> None:
    text = "from muster.lab import Lab\nLab(nodes=1, slurm={'SelectType': 'select/nonsense'}).up(owned=True)"
    before = stage.look()
    done = stage.python(text)
    assert 1 == done.returncode
    # whichever ended first
    assert any(f"cannot start the lab: {where} exited" in done.stderr for where in ("head: slurmctld", "n1: slurmd"))
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
    assert "lab is up: head and 3 nodes" in stage.muster("lab", "status").stdout
    done = stage.muster("lab", "down")
    assert (0, "lab removed\n", "") == (done.returncode, done.stdout, done.stderr)
    assert {} == difference(before, stage.look())
