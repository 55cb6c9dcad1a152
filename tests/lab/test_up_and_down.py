"""A lab leaves nothing, however it ends; repeated and concurrent up and down are no errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab_process import LabProcess, difference, look, skip_without_root
from waiting import until

from muster.lab import Lab, namespaces
from muster.linux import procfs

pytestmark = pytest.mark.lab

HERE = "/var/lib/muster-lab"
"""Directory of the lab on a command line."""

# moments of `up`, which takes some 400 ms: milliseconds after its daemon was started
MILLISECONDS = (0, 15, 30, 45, 60, 75, 90, 110, 140, 170, 200, 300)

# and when a file exists
FILES = (
    ".",
    "lab.json",
    "cgroup",
    "munge/key",
    "ssh/id_ada",
    "munge/socket",
    "log/slurmctld-head.log",
    "log/slurmd-n2.log",
    "log/share-head.log",
    "control",
)


@pytest.fixture
def nothing_left(stage: LabProcess) -> Iterator[None]:
    """At its end the test's machine is as before."""
    before = stage.look()
    yield
    assert {} == difference(before, stage.look())


def up(stage: LabProcess, *words: str) -> str:
    """Run `muster lab up`, which must succeed; return its output."""
    done = stage.muster("lab", "up", *words)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def down(stage: LabProcess, says: str = "lab removed\n") -> None:
    done = stage.muster("lab", "down")
    assert (0, says, "") == (done.returncode, done.stdout, done.stderr)


def works(stage: LabProcess, nodes: int = 3) -> None:
    done = stage.muster("lab", "exec", "head", "--", "srun", f"-N{nodes}", "hostname")
    assert (0, [f"n{number + 1}" for number in range(nodes)]) == (done.returncode, sorted(done.stdout.split()))


def state(stage: LabProcess) -> str:
    found: str = json.loads(stage.muster("lab", "status", "--json").stdout)["state"]
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to one process; 0 means no process, not a group."""
    if pid == 0:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# ---- leaving nothing -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
def test_a_lab_without_shared_home_leaves_nothing(stage: LabProcess) -> None:
    up(stage, "--nodes", "2", "--no-shared-home", "--gpus", "0")
    wrote = "echo x > /tmp/x; echo x > ~/x; echo x > /etc/x; echo x > /var/tmp/x"
    assert 0 == stage.muster("lab", "exec", "n1", "--", "sh", "-c", wrote).returncode
    down(stage)


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for number in range(3): os.dup2(null, number)
time.sleep(4242)
"""

BUSY: dict[str, tuple[str, ...]] = {
    "a job": ("exec", "head", "--", "srun", "-N3", "-n6", "sleep", "4242"),
    "an ssh session": ("exec", "head", "--", "ssh", "n2", "sleep 4242"),
    "a command": ("exec", "n3", "--", "sleep", "4242"),
    "a write that hangs": ("exec", "n1", "--", "sh", "-c", f"echo x > {HERE}/share/x"),
}
"""what: its arguments of `muster lab`; it keeps running"""


@contextmanager
def a_busy_lab(stage: LabProcess) -> Iterator[None]:
    """A lab with all kinds of processes; those started from outside it end with it."""

    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        done = stage.muster("lab", *words)
        assert 0 == done.returncode, done.stderr
        return done

    up(stage)
    lab("exec", "n2", "--", sys.executable, "-c", DAEMON)
    lab("exec", "head", "--", "sbatch", "-pspare", "-wn3", "-o/dev/null", "--wrap", "sleep 4242")
    lab("fault", "stall", "n1")
    running = [stage.start_muster("lab", *words) for words in BUSY.values()]
    until(lambda: lab("exec", "head", "--", "squeue", "-h", "-tR").stdout.count("\n") == 2, "two jobs run")
    until(lambda: sleeping(stage) == 6 + 1 + 1 + 1, "both jobs, what ssh and what the command started sleep")
    until(lambda: any(f"echo x > {HERE}/share/x" in words for words in everywhere(stage)), "something writes")
    lab("fault", "freeze", "n2")
    lab("fault", "drop-ssh", "n3")
    yield
    for process in running:
        process.communicate(timeout=30)


def everywhere(stage: LabProcess) -> list[str]:
    """Return the command lines of all processes of the stage, including those in hosts."""
    words = [line.split(" ", 2)[2] for line in stage.look()["processes"]]
    return [word.strip("'\"").replace("\\x00", " ") for word in words]


def sleeping(stage: LabProcess) -> int:
    """Return the number of `sleep 4242` processes."""
    return sum(words.rstrip().removeprefix("/usr/bin/") == "sleep 4242" for words in everywhere(stage))


@pytest.mark.usefixtures("nothing_left")
def test_down_ends_whatever_runs(stage: LabProcess) -> None:
    with a_busy_lab(stage):
        down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_daemon_ends_all_processes_and_down_removes_its_files(stage: LabProcess) -> None:
    with a_busy_lab(stage):
        keeper = stage.keeper()
        kill(keeper)
        until(lambda: not stage.keeper(), "the keeper has ended")
        assert "half-made" == state(stage)
        down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_daemon_does_not_prevent_the_next_up(stage: LabProcess) -> None:
    with a_busy_lab(stage):
        kill(stage.keeper())
    up(stage)
    works(stage)
    down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_a_stopped_daemon_can_be_taken_down(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    kill(stage.keeper(), signal.SIGSTOP)
    down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_a_frozen_host_can_be_taken_down_with_commands_in_it(stage: LabProcess) -> None:
    up(stage)
    process = stage.start_muster("lab", "exec", "n1", "--", "sh", "-c", "while :; do sleep 0.01; done")
    until(lambda: any(words.startswith("sleep 0.01") for words in everywhere(stage)), "it runs")
    assert 0 == stage.muster("lab", "fault", "freeze", "n1").returncode
    down(stage)
    kill(process.pid, signal.SIGCONT)  # the program that enters the stage, which stops with what it runs
    process.communicate(timeout=30)


@pytest.mark.usefixtures("nothing_left")
def test_a_job_in_a_frozen_control_group_can_be_taken_down(stage: LabProcess) -> None:
    """Frozen processes receive no signal, not even SIGKILL."""
    up(stage, "--nodes", "1")
    job = stage.start_muster("lab", "exec", "head", "--", "srun", "sleep", "4242")
    freeze = 'for state in $(find /run/cgroup -path "*/step_*/freezer.state"); do echo FROZEN > $state; done'
    until(lambda: sleeping(stage), "the job runs")
    done = stage.muster("lab", "exec", "n1", "--", "sh", "-ec", freeze)
    assert (0, "") == (done.returncode, done.stderr)
    down(stage)
    job.communicate(timeout=30)


# ---- death during startup --------------------------------------------------------------------------------------------


def at(stage: LabProcess, moment: int | str) -> None:
    """Wait for a moment of `up`."""
    if isinstance(moment, str):
        path = stage.path(f"{HERE}/{moment}")
        until(path.exists, f"{moment} is there")
        return
    until(stage.keeper, "there is a keeper")
    # a moment, not a condition: the result must be right at any moment
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "10"], timeout=moment / 1000)


MOMENTS = (*MILLISECONDS, *FILES)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.usefixtures("nothing_left")
def test_a_daemon_killed_during_startup_leaves_nothing(stage: LabProcess, moment: int | str) -> None:
    """`up` itself reports it and cleans up."""
    starting = stage.start_muster("lab", "up")
    at(stage, moment)
    keeper = stage.keeper()
    kill(keeper)
    said = starting.communicate(timeout=30)[0]
    if starting.returncode == 0:  # it had come up before
        assert "lab is up" in said
        down(stage)
    else:
        assert (125, "cannot start the lab: its daemon exited") == (starting.returncode, said.partition("\n")[0][7:])
        down(stage, "no lab is up\n")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.usefixtures("nothing_left")
def test_up_killed_during_startup_is_cleaned_by_down_or_up(stage: LabProcess, moment: int | str) -> None:
    starting = stage.start_muster("lab", "up")
    at(stage, moment)
    kill(stage.muster_pid())
    starting.communicate(timeout=30)
    if MOMENTS.index(moment) % 2:
        up(stage)
        works(stage)
    elif MOMENTS.index(moment) % 4:
        kill(stage.keeper())
    assert 0 == stage.muster("lab", "down").returncode


@pytest.mark.parametrize("moment", MOMENTS[::3])
@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_during_startup_leaves_nothing(stage: LabProcess, moment: int | str) -> None:
    """No `down` is needed: a first Ctrl-C ends `up` with 130, after it removed all that it had created."""
    starting = stage.start_muster("lab", "up")
    at(stage, moment)
    kill(stage.muster_pid(), signal.SIGINT)
    said = starting.communicate(timeout=30)[0]
    if "lab is up" in said:  # it had come up before
        down(stage)
    else:
        assert (130, "") == (starting.returncode, said)
        down(stage, "no lab is up\n")


@pytest.mark.parametrize("moment", MOMENTS[1::3])
@pytest.mark.usefixtures("nothing_left")
def test_sigterm_during_startup_leaves_nothing_that_down_does_not_remove(stage: LabProcess, moment: int | str) -> None:
    starting = stage.start_muster("lab", "up")
    at(stage, moment)
    kill(stage.muster_pid(), signal.SIGTERM)
    starting.communicate(timeout=30)
    assert 0 == stage.muster("lab", "down").returncode


@pytest.mark.usefixtures("nothing_left")
def test_down_at_once_after_up_was_killed_is_the_last_word(stage: LabProcess) -> None:
    """The daemon has not reported its pid yet; nothing starts later."""
    for _ in range(8):
        starting = stage.start_muster("lab", "up")
        until(stage.path(f"{HERE}/lab.json").exists, "it has begun")
        kill(stage.muster_pid())
        down(stage)
        starting.communicate(timeout=30)
        assert not stage.path(HERE).exists()
        until(lambda: not stage.inhabitants(), "no keeper goes on")


# ---- in Python -------------------------------------------------------------------------------------------------------

IN_PYTHON = """
import sys, time
from muster.lab import Lab
with Lab(nodes=1) as lab:
    job = lab.start("head", ["srun", "sleep", "4242"])
    print(lab.folder.path, flush=True)
    exec(sys.argv[1])
"""


@pytest.mark.parametrize("ends", ["pass", "raise KeyError(42)", "sys.exit(3)", "lab.down()", "lab.down(); lab.down()"])
@pytest.mark.usefixtures("nothing_left")
def test_the_block_leaves_nothing(stage: LabProcess, ends: str) -> None:
    done = stage.python(IN_PYTHON, ends)
    assert {"raise KeyError(42)": 1, "sys.exit(3)": 3}.get(ends, 0) == done.returncode
    assert ("KeyError: 42" in done.stderr) == ("KeyError" in ends), done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lab_ends_with_a_killed_program(stage: LabProcess, number: int) -> None:
    """No `down` is needed."""
    before = stage.look()
    program = stage.start(sys.executable, "-c", IN_PYTHON, "time.sleep(4242)")
    assert program.stdout is not None
    program.stdout.readline()
    pid = next(pid for pid, words in stage.inhabitants().items() if "time.sleep(4242)" in words)
    kill(pid, number)
    program.communicate(timeout=30)
    until(lambda: not difference(before, stage.look()), "nothing is left")


@pytest.mark.parametrize("moment", MILLISECONDS[::2])
def test_a_lab_ends_with_a_program_killed_during_startup(stage: LabProcess, moment: int) -> None:
    before = stage.look()
    program = stage.start(sys.executable, "-c", IN_PYTHON, "time.sleep(4242)")
    at(stage, moment)
    pid = next(pid for pid, words in stage.inhabitants().items() if "time.sleep(4242)" in words)
    kill(pid)
    program.communicate(timeout=30)
    until(lambda: not difference(before, stage.look()), "nothing is left")


@pytest.mark.usefixtures("nothing_left")
def test_the_block_ends_well_when_the_keeper_was_killed(stage: LabProcess) -> None:
    killing = """import os, json, signal; os.kill(json.load(open(lab.folder.record))["keeper"][0], signal.SIGKILL)"""
    done = stage.python(IN_PYTHON, killing)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.usefixtures("nothing_left")
def test_leftovers_of_a_killed_program_and_daemon_are_removed_by_name(stage: LabProcess) -> None:
    """The program and the daemon were killed at once: files and control groups are left, and `down` removes them."""
    program = stage.start(sys.executable, "-c", IN_PYTHON, "time.sleep(4242)")
    assert program.stdout is not None
    folder = program.stdout.readline().strip()
    for pid in stage.inhabitants():
        kill(pid)
    program.communicate(timeout=30)
    until(lambda: not stage.inhabitants(), "all have ended")
    assert stage.path(folder).is_dir()
    done = stage.muster("lab", "down", "--lab-dir", folder)
    assert (0, "lab removed\n") == (done.returncode, done.stdout)


@pytest.mark.usefixtures("nothing_left")
def test_the_next_program_clears_what_a_killed_one_left_and_no_more(stage: LabProcess) -> None:
    living = stage.start(sys.executable, "-c", IN_PYTHON, "sys.stdin.read()", stdin=subprocess.PIPE)
    assert living.stdout is not None
    of_living = living.stdout.readline().strip()
    alive = set(stage.inhabitants())
    program = stage.start(sys.executable, "-c", IN_PYTHON, "time.sleep(4242)")
    assert program.stdout is not None
    of_killed = program.stdout.readline().strip()
    for pid in set(stage.inhabitants()) - alive:
        kill(pid)
    program.communicate(timeout=30)
    assert stage.path(of_killed).is_dir()
    assert 0 == stage.python(IN_PYTHON, "pass").returncode
    assert not stage.path(of_killed).exists()
    assert stage.path(f"{of_living}/control").exists()
    living.communicate(timeout=30)
    assert 0 == living.returncode


# ---- repeated and concurrent -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
def test_up_and_down_twice_are_no_errors(stage: LabProcess) -> None:
    assert "lab is up (" in up(stage, "--nodes", "2")
    # whatever its options, and if the same one is requested
    for words in [(), ("--nodes", "2"), ("--nodes", "2", "--cpus", "8", "--gpus", "4")]:
        assert "lab is already up: head and 2 nodes" in up(stage, *words)
    works(stage, nodes=2)
    down(stage)
    down(stage, "no lab is up\n")
    assert "none" == state(stage)


@pytest.mark.usefixtures("nothing_left")
def test_another_shape_is_refused(stage: LabProcess) -> None:
    up(stage, "--nodes", "1", "--gpus", "0")
    for words, asked in (
        (("--nodes", "2"), "2 nodes, each with 8 cores and 4 GPUs"),
        (("--nodes", "1"), "1 node, each with 8 cores and 4 GPUs"),
        (("--nodes", "1", "--gpus", "0", "--no-shared-home"), "1 node, each with 8 cores and no GPUs, no shared home"),
    ):
        done = stage.muster("lab", "up", *words)
        said = (
            f"error: a lab with 1 node, each with 8 cores and no GPUs is already up, requested: {asked}\n"
            "hint: run `muster lab down` first\n"
        )
        assert (2, "", said) == (done.returncode, done.stdout, done.stderr)
    works(stage, nodes=1)
    down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_of_several_ups_at_the_same_moment_one_makes_the_lab(stage: LabProcess) -> None:
    starting = [stage.start_muster("lab", "up", "--nodes", "2") for _ in range(4)]
    said = [process.communicate(timeout=60)[0].partition("\n")[0] for process in starting]
    assert [0] * 4 == [process.returncode for process in starting], said
    assert 4 == sum(line.startswith(("lab is up", "lab is already up")) for line in said)
    assert 3 == sum(line.startswith("lab is already up: head and 2 nodes") for line in said), said
    works(stage, nodes=2)
    down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_of_several_ups_on_a_half_made_lab_one_makes_it_anew(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    kill(stage.keeper())
    starting = [stage.start_muster("lab", "up", "--nodes", "2") for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in starting]
    assert [0] * 4 == [process.returncode for process in starting], said
    assert 1 == sum(line.startswith("lab is up (") for line in said), said
    works(stage, nodes=2)
    down(stage)


@pytest.mark.usefixtures("nothing_left")
def test_of_several_downs_at_the_same_moment_one_takes_the_lab(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    ending = [stage.start_muster("lab", "down") for _ in range(4)]
    said = sorted(process.communicate(timeout=60)[0] for process in ending)
    assert ["lab removed\n"] + ["no lab is up\n"] * 3 == said


@pytest.mark.usefixtures("nothing_left")
def test_up_and_down_at_the_same_moment_come_one_after_the_other(stage: LabProcess) -> None:
    for _ in range(4):
        both = [stage.start_muster("lab", word, *words) for word, *words in (("up", "--nodes", "1"), ("down",))]
        said = [process.communicate(timeout=60)[0] for process in both]
        assert [0, 0] == [process.returncode for process in both], said
        assert ("up" if said[1] == "no lab is up\n" else "none") == state(stage), said
        stage.muster("lab", "down")


@pytest.mark.usefixtures("nothing_left")
def test_up_that_waits_is_interrupted_like_any_other(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    kill(stage.keeper(), signal.SIGSTOP)
    asking = stage.start_muster("lab", "up")
    kill(until(stage.muster_pid, "it asks"), signal.SIGINT)
    asking.communicate(timeout=30)
    kill(stage.keeper(), signal.SIGCONT)
    works(stage, nodes=1)
    down(stage)


# ---- leftovers -------------------------------------------------------------------------------------------------------


def written(stage: LabProcess, **more: object) -> None:
    """Change the content of lab.json."""
    path = stage.path(f"{HERE}/lab.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.usefixtures("nothing_left")
def test_a_lab_from_before_a_reboot_is_cleared_by_up(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    kill(stage.keeper())
    until(lambda: not stage.inhabitants(), "all have ended")
    innocent = stage.start("sleep", "4242")
    pid = until(lambda: inner(stage, "sleep 4242"), "somebody else has its number")
    started = stage.run("cut", "-d ", "-f22", f"/proc/{pid}/stat").stdout.strip()
    # after a reboot, another process may have the same pid and even the same start time
    written(stage, boot="another one", keeper=[pid, started], hosts={"head": [pid, started]})
    assert "half-made" == state(stage)
    up(stage, "--nodes", "2")
    works(stage, nodes=2)
    down(stage)
    assert innocent.poll() is None
    innocent_end(stage, innocent)


@pytest.mark.usefixtures("nothing_left")
def test_a_process_that_has_the_keepers_number_now_is_left_alone(stage: LabProcess) -> None:
    up(stage, "--nodes", "1")
    kill(stage.keeper())
    until(lambda: not stage.inhabitants(), "all have ended")
    innocent = stage.start("sleep", "4242")
    pid = until(lambda: inner(stage, "sleep 4242"), "somebody else has its number")
    written(stage, keeper=[pid, "1"], hosts={"head": [pid, "1"]})
    assert "half-made" == state(stage)
    down(stage)
    assert innocent.poll() is None
    innocent_end(stage, innocent)


def inner(stage: LabProcess, command: str) -> int:
    """Return the pid of a process on the stage; 0 if there is none."""
    for pid, words in stage.inhabitants().items():
        if words.strip() == command:
            status = Path(f"/proc/{pid}/status").read_text()
            return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[2])
    return 0


def innocent_end(stage: LabProcess, process: subprocess.Popen[str]) -> None:
    for pid in stage.inhabitants():
        kill(pid)
    process.communicate(timeout=30)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"mark": "muster lab"}', '{"mark": "muster lab", "boot": 3}'])
@pytest.mark.usefixtures("nothing_left")
def test_a_damaged_record_causes_no_traceback(stage: LabProcess, text: str) -> None:
    """What is marked as a lab's is removed; the rest is left."""
    stage.path(HERE).mkdir()
    stage.path(f"{HERE}/lab.json").write_text(text)
    assert 1 == (said := stage.muster("lab", "status")).returncode, said.stderr
    assert "" == said.stderr
    done = stage.muster("lab", "down")
    assert "Traceback" not in done.stderr
    if "mark" in text:
        assert (0, "lab removed\n") == (done.returncode, done.stdout)
    else:
        assert (2, f"error: not the directory of a lab: {HERE}\nhint: it is left unchanged\n") == (
            done.returncode,
            done.stderr,
        )
        stage.path(f"{HERE}/lab.json").unlink()
        down(stage)  # an empty directory is half a lab


@pytest.mark.usefixtures("nothing_left")
def test_an_empty_folder_may_become_a_lab(stage: LabProcess) -> None:
    stage.path("/run/place").mkdir()
    assert 0 == stage.muster("lab", "up", "--nodes", "1", "--lab-dir", "/run/place").returncode
    assert 0 == stage.muster("lab", "down", "--lab-dir", "/run/place").returncode


# ---- on the machine itself -------------------------------------------------------------------------------------------


def test_on_the_machine_itself_nothing_of_a_lab_is_left() -> None:
    """The same with this machine's own processes, mounts, links and files, as far as they are the lab's."""
    skip_without_root()
    before = look()
    with Lab(nodes=2) as lab:
        folder = lab.folder.path
        # what is in the lab is not visible from outside
        meanwhile = difference(before, look())
        for kind in ("mounts", "links", "named network namespaces", "configuration"):
            assert [] == [line for line in meanwhile.get(kind, []) if "lab" in line or "77" in line], kind
        assert f"+ {folder}/control" in meanwhile["unix sockets"]
        of_lab = {os.readlink(f"/proc/{pid}/ns/net") for pid in lab.status()["hosts"].values()}
        inhabitants = [pid for first in lab.status()["hosts"].values() for pid in namespaces.inhabitants(first)]
        keeper = json.loads(Path(lab.folder.record).read_text())["keeper"][0]
        processes = {pid: procfs.started(pid) for pid in [keeper, *inhabitants]}
        groups = [line for line in meanwhile["control groups"] if folder.replace("/", "-") in line]
        assert len(processes) > 8
        assert len(groups) >= 4
    after = look()
    assert {} == {pid: started for pid, started in processes.items() if procfs.started(pid) == started}
    assert set() == of_lab & set(after["namespaces"])
    assert [] == [line for line in after["control groups"] if f"+ {line}" in groups]
    assert [] == [line for lines in after.values() for line in lines if folder in line]
    assert not os.path.exists(folder)
    assert [line for line in before["configuration"] if "/.ssh" in line] == [
        line for line in after["configuration"] if "/.ssh" in line
    ]
