"""PBS's command lines and the parsers of its output. The outputs are written after its manuals: none is recorded."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from scheduler_samples import given, recorded, without_hint

from muster.errors import InvalidRequest
from muster.schedulers import SCHEDULERS, _shared, get_scheduler, pbs_env, pbs_jobs, pbs_request
from muster.schedulers._shared import job_id, terms
from muster.schedulers.scheduler import After, Allocation, Final, JobTerms, Phase, Refusal, Wish, program_of

WISH = Wish("train", 2, "8", None, None, run_dir="/runs/x")


def test_the_request_and_its_command_line() -> None:
    asked = given(
        time="1:30:00",
        queue="gpuq",
        account="lab",
        mem="64G",
        gpus_per_node="4",
        chunk=("gpu_model=a100",),
        pbs_opt=("m=ae",),
    )
    found = pbs_request.request(WISH._replace(after=(After("7.pbs", "ok"), After("8.pbs", "any"))), asked)
    assert (2, 16) == (found.nodes, found.tasks)
    assert pbs_request.submit(found, "/runs/x/batch.sh") == (
        *("qsub", "-C", "", "-N", "train", "-S", "/bin/bash", "-j", "oe", "-o", "/runs/x/pbs.out", "-r", "n"),
        *("-l", "select=2:ncpus=8:mpiprocs=8:ngpus=4:mem=65536mb:gpu_model=a100", "-l", "place=scatter"),
        *("-l", "walltime=01:30:00", "-q", "gpuq", "-A", "lab", "-W", "depend=afterok:7.pbs,afterany:8.pbs"),
        *("-m", "ae", "/runs/x/batch.sh"),
    )
    assert "12.pbs01" == job_id("Welcome\n12.pbs01\n")


@pytest.mark.parametrize(
    ("wish", "options", "select"),
    [
        (WISH._replace(each=None), {}, "2:ncpus=1:mpiprocs=1"),
        (WISH._replace(each=None), {"gpus_per_node": "4"}, "2:ncpus=4:mpiprocs=4:ngpus=4"),
        (WISH._replace(each="gpu"), {"gpus_per_node": "2", "cpus_per_task": 32}, "2:ncpus=32:mpiprocs=2:ngpus=2"),
        (WISH._replace(nodes=None, each=None, ranks=16), {}, "16:ncpus=1:mpiprocs=1"),
        (WISH._replace(each=None, ranks=9), {}, "2:ncpus=5:mpiprocs=5"),
        (WISH._replace(each="cpu"), {"cpus_per_task": 32}, "2:ncpus=32:mpiprocs=32"),
        (WISH._replace(each="auto"), {"cpus_per_task": 32}, "2:ncpus=32:mpiprocs=32"),
        (WISH._replace(each="auto"), {"gpus_per_node": "4"}, "2:ncpus=4:mpiprocs=4:ngpus=4"),
    ],
)
def test_sizes(wish: Wish, options: dict[str, object], select: str) -> None:
    words = pbs_request.options_of(pbs_request.request(wish, given(**options)))
    assert f"select={select}" in words
    assert ("place=free" if wish.nodes is None else "place=scatter") in words


@pytest.mark.parametrize(
    ("each", "hint"),
    [
        ("cpu", "add `--cpus-per-task N`, or set the number of ranks per node, for example `-g 8`"),
        (
            "auto",
            "add `--gpus-per-node N` or `--cpus-per-task N`, or set the number of ranks per node, for example `-g 8`",
        ),
    ],
)
def test_hints_that_can_be_followed(each: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pbs_request.request(WISH._replace(each=each), given())
    assert hint == caught.value.hint


@pytest.mark.parametrize(
    ("wish", "options", "words"),
    [
        (WISH._replace(gpus="8"), {}, "--gpus 8: PBS counts GPUs per node"),
        (WISH._replace(each="gpu"), {}, "-g gpu: the number of GPUs of a node"),
        (WISH._replace(spares=1), {}, "--spare-nodes 1"),
        (WISH, {"pbs_opt": ("N=x",)}, "--pbs-opt N: muster sets this option of qsub itself"),
        (WISH._replace(each="cpu"), {}, "-g cpu: the number of cores of a node has to be known"),
        (WISH, {"time": "UNLIMITED"}, "--time UNLIMITED: not a length of time"),
    ],
)
def test_what_is_refused(wish: Wish, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        pbs_request.request(wish, given(**options))


def test_the_time_limit() -> None:
    assert JobTerms(before=120.0, chosen=True) == terms(given(time="4:00:00"))
    assert JobTerms() == terms(given())
    texts = {"30": 1800, "1:30": 90, "1:00:00": 3600, "2-0": 172800, "1-12:30": 131400, "0-0:0:5": 5, "0": None}
    assert list(texts.values()) == [_shared.time_limit(given(time=text)) for text in texts]
    assert JobTerms() == terms(given(time="0")), "Slurm's word for no limit: that of the queue"


def test_the_script() -> None:
    request = pbs_request.request(WISH, given())._replace(env_file="/runs/x/env")
    text = pbs_request.batch_script(request, (), ("/usr/bin/python3", "muster.pyz", "inside", "/runs/x"))
    assert text.startswith("#!/bin/bash\n# submitted with: qsub -N train ")
    assert (
        "\n. /runs/x/env && rm -f /runs/x/env\n" in text and "exec /usr/bin/python3 muster.pyz inside /runs/x\n" in text
    )
    setup = pbs_request.batch_script(request, ("module load cuda",), ("python3", "x"))
    for script in (text, setup):
        assert 0 == subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode
    assert setup.startswith("#!/bin/bash -l\n")


def test_jobs() -> None:
    found = pbs_jobs.jobs(recorded("pbs/jobs.txt"))
    assert ["12.pbs01", "13.pbs01", "14.pbs01", "15.pbs01"] == list(found)
    running, pending, held, hopeless = found.values()
    assert ("train", "R", ("x1001", "x1002"), "") == (running.name, running.state, running.hosts, running.why)
    assert ("1e5", "Q", ()) == (pending.name, pending.state, pending.hosts)
    assert pending.why.endswith("ncpus (R: 3200 A: 64T: 128)")
    assert "waits for another job" in held.why
    assert hopeless.hopeless and not pending.hopeless
    assert Phase.PENDING is pbs_jobs.STATES[held.state]
    assert {} == pbs_jobs.jobs("")


def test_a_record() -> None:
    found = pbs_jobs.record_of(recorded("pbs/jobs.txt"))
    assert found is not None
    assert datetime(2026, 11, 27, 10).timestamp() == found.start
    assert datetime(2026, 11, 27, 11).timestamp() == found.end
    assert ("R", "gpuq", "0", ("x1001", "x1002")) == (found.state, found.partition, found.priority, found.hosts)
    pending = pbs_jobs.record_of(recorded("pbs/jobs.txt").partition("\n\n")[2])
    assert pending is not None and datetime(2026, 11, 28, 2).timestamp() == pending.start
    assert pbs_jobs.record_of("") is None


ENDED = "Job Id: 12.pbs01\n    Job_Name = x\n    job_state = F\n    Resource_List.walltime = 00:01:00\n"


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ("Exit_status = 0", "done"),
        ("Exit_status = 1", "failed"),
        ("Exit_status = -3", "not started"),
        ("Exit_status = -29", "time limit"),
        ("Exit_status = 271\n    resources_used.walltime = 00:01:02", "time limit"),
        ("Exit_status = 271\n    resources_used.walltime = 00:00:10", "killed"),
        ("Exit_status = 271\n    resources_used.walltime = 00:00:10\n    substate = 91", "deleted"),
        ("substate = 91", "deleted"),
        ("substate = 92", ""),
    ],
)
def test_ends(more: str, state: str) -> None:
    assert Final(state) == pbs_jobs.final_state(f"{ENDED}    {more}\n")
    assert not state or state in pbs_jobs.ENDS


def test_a_job_that_runs_has_no_end() -> None:
    assert Final() == pbs_jobs.final_state(recorded("pbs/jobs.txt")) == pbs_jobs.final_state("")


def test_nodes_and_the_queue() -> None:
    first, second = pbs_jobs.nodes(recorded("pbs/nodes.txt"))
    assert ("x1001", ("gpuq",), "free", 64, 56, 515305, {"": 4}, "", True) == first
    assert (False, "fan broken", {"": 4}) == (second.takes_jobs, second.reason, second.gpus)
    assert {"x1001": {"": 4}} == pbs_jobs.used_gpus(recorded("pbs/nodes.txt"))
    entries = pbs_jobs.queue(recorded("pbs/jobs.txt"))
    assert (
        "12.pbs01",
        "ann",
        "gpuq",
        "R",
        2,
        "ngpus=8",
        "00:10:05",
        "01:00:00",
        "",
        "train",
        "x1001,x1002",
        "",
    ) == entries[0]
    assert "Sat Nov 28 02:00:00 2026" == entries[1].start
    assert 400 == entries[1].nodes and "Insufficient" in entries[1].reason


def test_refusals() -> None:
    assert Refusal("Unknown queue", "list the queues with `qstat -Q`") == pbs_request.refused("qsub: Unknown queue\n")
    assert Refusal("no error message") == pbs_request.refused("")


def test_the_allocation(tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text("n1\nn1\nn2\nn2\n")
    env = {"PBS_JOBID": "12.pbs", "PBS_NODEFILE": str(file)}
    assert Allocation("12.pbs", ("n1", "n2"), 0, (2, 2)) == pbs_env.allocation(env)
    assert pbs_env.allocation({}) is pbs_env.allocation({**env, "PBS_NODEFILE": "/nowhere"}) is None
    kept = pbs_env.submit_env({**env, "PBS_SERVER": "pbs", "PATH": "/bin", "HOSTNAME": "n1", "MINE": "1"})
    assert {"PBS_SERVER": "pbs", "PATH": "/bin", "MINE": "1"} == kept


def test_a_step_passes_the_environment_in_a_private_file(tmp_path: Path) -> None:
    """On the first node it starts the command itself; elsewhere by pbs_tmrsh, here one that passes no environment."""
    programs, runs = tmp_path / "bin", tmp_path / "run"
    programs.mkdir()
    runs.mkdir()
    (programs / "pbs_tmrsh").write_text(
        f'#!/bin/sh\nstat -c %a {runs}/.env.* >{tmp_path}/mode\nshift\nexec env -i PATH=$PATH "$@"\n'
    )
    (programs / "pbs_tmrsh").chmod(0o755)
    (tmp_path / "nodes").write_text("n1\nn2\n")
    say = 'echo "$MUSTER_PBS_HOST $MINE" >>"$0/said"'
    words = pbs_env.step(("n1", "n2"), ("sh", "-c", say, str(runs)), "12.pbs", None, False)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MINE": "a 'b\n$c",
        "PBS_NODEFILE": str(tmp_path / "nodes"),
        "HOME": "/",
    }
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    said = (runs / "said").read_text()
    assert "n1 a 'b\n$c" in said and "n2 a 'b\n$c" in said
    assert "600\n" == (tmp_path / "mode").read_text()
    assert ["said"] == os.listdir(runs)
    failing = pbs_env.step(("n1", "n2"), ("sh", "-c", "exit 3", str(runs)), "12.pbs", None, False)
    done = subprocess.run(failing, env=env, capture_output=True, text=True, check=False)
    assert {"n1": "exit status 3", "n2": "exit status 3"} == _shared.failed_steps(done.stderr)
    assert 3 == done.returncode


def test_every_option_of_another_scheduler_has_a_hint() -> None:
    assert not without_hint("pbs")


@pytest.mark.parametrize(("status", "code"), [(0, 0), (35, 0), (153, 0), (1, 1), (255, 255)])
def test_a_job_that_has_just_ended_hides_no_other(tmp_path: Path, status: int, code: int) -> None:
    """qstat ends with 35 (PBSE_HISTJOBID), or 153 without a history (PBSE_UNKJOBID), and shows the rest."""
    shown = "Job Id: 12.pbs01\n    Job_Name = x\n    job_state = R\n"
    (tmp_path / "qselect").write_text("#!/bin/sh\necho 12.pbs01\necho 13.pbs01\n")
    (tmp_path / "qstat").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\nprintf "{shown}"\nexit {status}\n')
    for name in ("qselect", "qstat"):
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(pbs_jobs.mine(), env=env, capture_output=True, text=True, check=False)
    assert code == done.returncode
    assert "-f -w 12.pbs01 13.pbs01\n" == (tmp_path / "asked").read_text()
    assert ["12.pbs01"] == list(pbs_jobs.jobs(done.stdout))


def test_messages_name_the_program_that_shell_lines_run() -> None:
    """Not `sh`: users know qstat, bjobs and flux."""
    asks = [get_scheduler(name).jobs() for name in SCHEDULERS]
    assert ["squeue", "qstat", "qstat", "bjobs", "flux"] == [program_of(ask.argv) for ask in asks]
    final = [get_scheduler(name).final for name in SCHEDULERS]
    assert ["sacct", "qacct", "qstat", "bjobs", "flux"] == [program_of(ask("7").argv) for ask in final if ask]
