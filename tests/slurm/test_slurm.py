"""Runs on the real Slurm of the lab: submitted, rejected, inside an allocation, followed and detached."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from canaries import MARK, Canaries
from conversation import kinds, traced, unknown
from job_queue import queue
from lab_cluster import EXAMPLE, TICK, LabCluster
from waiting import until

import muster
from muster.core.layout import unfold


def test_a_run_is_submitted_shown_and_its_exit_code_returned(there: LabCluster, canaries: Canaries) -> None:
    there.env["MUSTER_TRACE"] = "1"
    done = there.muster("run", "--slurm", "-N", "3", "-g", "2", "--gpus-per-node", "2", "--time", "5", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 5 is 15, as it should be" in done.stdout
    for rank in range(6):
        assert f"rank {rank} of 6 on n{rank // 2 + 1}, local rank {rank % 2}" in done.stdout
    assert "submitted to Slurm as job " in done.stderr
    assert "all 6 ranks succeeded" in done.stderr
    granted = json.loads((there.run / "granted.json").read_text())
    assert {"n1", "n2", "n3"} == set(granted)
    assert {2} == {node["gpus"] for node in granted.values()}
    assert re.search(r"^used     [\d.]+ of \d+ cores? on n\d; memory peak", there.muster("show").stdout, re.M)
    said = traced(there.run)
    assert [] == unknown(said)
    assert {
        ("agent > controller", "facts"),
        ("agent > controller", "rank_exited"),
        ("client > controller", "attach"),
    } <= kinds(said)
    number = json.loads((there.run / "job.json").read_text())["scheduler"]["job"]
    asks = f"scontrol -dd show job {number}; scontrol write batch_script {number} -; sacct -P -o ALL"
    records = there.lab.run("head", ["sh", "-c", asks], cwd="/").stdout
    assert f"JobId={number}" in records and "#SBATCH" in records and MARK not in records
    there.nothing_left()


def test_the_status_of_the_first_failing_rank_is_ours(there: LabCluster) -> None:
    text = "import os, sys, time\ntime.sleep(int(os.environ['RANK']))\nsys.exit(7 if os.environ['RANK'] == '1' else 0)"
    done = there.muster("run", "--slurm", "-N", "2", "-g", "1", "--launcher", "exec", there.script(text))
    assert 7 == done.returncode, done.stderr
    assert "rank 1 on n2 failed first" in done.stderr


def test_inside_an_allocation_that_was_made_for_something_else(there: LabCluster) -> None:
    """With `--ntasks-per-node=2 --gpus-per-task=1` a plain srun has two tasks per node, which see one GPU each."""
    env = {**there.lab.environment(), **there.env}
    made_for = ["salloc", "-Q", "-N3", "--ntasks-per-node=2", "--gpus-per-task=1"]
    show = ["--", "sh", "-c", "echo $RANK $WORLD_SIZE $SLURM_PROCID$SLURM_LOCALID $CUDA_VISIBLE_DEVICES"]
    line = there.argv("run", "--slurm", "-g", "2", "--prefix", "", *show)
    done = there.lab.run("head", [*made_for, *line], env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stderr
    assert 6 == len(done.stdout.splitlines())
    assert {f"{rank} 6" for rank in range(6)} == {" ".join(line.split()[:2]) for line in done.stdout.splitlines()}
    there.nothing_left()


def test_ranks_find_the_variables_of_a_task_of_srun(there: LabCluster) -> None:
    """With any launcher: the same as for tasks of a plain srun in the same job, except for variables of its step."""
    kept = "grep -E '^SLURMD?_' | grep -vE '_(TASK_PID|STEP_?ID|COMM_.*|LAUNCHER_PORT|IPADDR|UMASK|PRIO_PROCESS)='"
    show = f"env | {kept} | sort > {there.folder}/$WHO.$SLURM_PROCID"
    (there.folder / "show.sh").write_text(show)
    lines = ["export WHO=plain SLURM_WAIT=7", "srun -N2 --ntasks-per-node=2 --mpi=none sh show.sh"]
    for launcher in ("exec", "torchrun", "srun"):
        run = ["run", "--slurm", "-g", "2", "--launcher", launcher, "--env", f"WHO={launcher}", "--", "sh", "show.sh"]
        lines.append(shlex.join(there.argv(*run)))
    (there.folder / "all.sh").write_text("\n".join(lines))
    env = {**there.lab.environment(), **there.env}
    made_for = ["salloc", "-Q", "-N2", "--gpus-per-node=2", "--cpus-per-task=2", "--ntasks-per-node=2", "sh", "all.sh"]
    done = there.lab.run("head", made_for, env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stderr
    for rank in range(4):
        golden = (there.folder / f"plain.{rank}").read_text()
        assert "SLURM_GTIDS=" in golden and "SLURM_WAIT=7" in golden
        assert golden == (there.folder / f"exec.{rank}").read_text()
        assert golden == (there.folder / f"torchrun.{rank}").read_text()
        assert golden == (there.folder / f"srun.{rank}").read_text()


def test_inside_a_step_of_an_allocation(there: LabCluster) -> None:
    """As where salloc starts a shell on the first node. That step's variables do not apply to muster's own steps."""
    env = {**there.lab.environment(), **there.env}
    made_for = ["salloc", "-Q", "-N2", "--gpus-per-node=1", "srun", "-N1", "-n1", "--overlap"]
    made_for += ["env", "SLURM_LABELIO=1", "SLURM_STDOUTMODE=none", "SLURM_MULTI_PROG=1", "SLURM_EXPORT_ENV=NONE"]
    line = there.argv("run", "--slurm", "-g", "2", "--prefix", "", "--", "sh", "-c", "echo $RANK $CUDA_VISIBLE_DEVICES")
    done = there.lab.run("head", [*made_for, *line], env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stderr
    assert ["0 0", "1 0", "2 0", "3 0"] == sorted(done.stdout.splitlines())
    assert "broke" not in done.stderr


def test_a_single_rank_reads_stdin_if_a_terminal_is_attached(there: LabCluster) -> None:
    """Inside an allocation, started by muster or by srun; a batch job has an empty stdin and continues."""
    ask = ["--prefix", "", "--", "sh", "-c", 'read answer; echo "got <$answer>"; cat']
    for launcher in ("exec", "srun"):
        line = there.argv("run", "--slurm", "-n", "1", "--launcher", launcher, *ask)
        env = {**there.lab.environment(), **there.env}
        done = there.lab.run(
            "head", ["salloc", "-Q", "-N1", *line], env=env, cwd=str(there.folder), timeout=240, input="y\nmore\n"
        )
        assert (0, "got <y>\nmore\n") == (done.returncode, done.stdout), done.stderr
    done = there.muster("run", "--slurm", "-n", "1", *ask, input="y\n")
    assert (0, "got <>\n") == (done.returncode, done.stdout), done.stderr


def test_several_small_runs_in_one_allocation(there: LabCluster) -> None:
    """Each on nodes of its own, waiting for a free one if necessary; what would need another job is rejected."""
    holds = "import os, time\nprint(os.uname()[1])\nwhile not os.path.exists('go'): time.sleep(0.05)"
    show = ["--launcher", "exec", "--prefix", "", there.script(holds)]
    small = shlex.join(there.argv("run", "--slurm", "-N", "1", "-g", "1", *show))
    named = shlex.join(there.argv("run", "--slurm", "--nodelist", "n2", "-g", "1", *show))
    detached = shlex.join(there.argv("run", "--slurm", "-d", "--name", "later", "-g", "1", "--", "sh", "-c", "exit 4"))
    wait = shlex.join(there.argv("wait", "later"))
    refused = ["--partition main --time 1", "--requeue 2", "--nodelist n3", "--gpus-per-node 1"]
    lines = [
        *(f'{small} >one.{number} 2>err.{number} & pids="$pids $!"' for number in range(3)),
        "until grep -qs 'waiting for a free node' err.*; do sleep 0.1; done; touch go",
        "for pid in $pids; do wait $pid || exit 90; done",
        f"{named} >named || exit 91",
        f"{detached} || exit 92",
        f"{wait}; [ $? = 4 ] || exit 93",
        *(f"{small.replace('-N 1', words)} 2>>refused; [ $? = 2 ] || exit 94" for words in refused),
    ]
    (there.folder / "all.sh").write_text("\n".join(lines))
    env = {**there.lab.environment(), **there.env}
    line = ["salloc", "-Q", "-w", "n[1-2]", "bash", "all.sh"]
    done = there.lab.run("head", line, env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stderr
    hosts = [(there.folder / f"one.{number}").read_text().strip() for number in range(3)]
    assert {"n1", "n2"} == set(hosts)
    waited = [(there.folder / f"err.{number}").read_text().count("waiting for a free node") for number in range(3)]
    assert [0, 0, 1] == sorted(waited), "two nodes for three runs"
    assert "n2" == (there.folder / "named").read_text().strip()
    words = (there.folder / "refused").read_text()
    assert 4 == len(re.findall("(inside|requeue|allocation of) job ", words)), words


def test_ranks_follow_the_gpus_that_were_asked_for(there: LabCluster) -> None:
    """A whole node has four."""
    show = ["--prefix", "", "--", "sh", "-c", "echo $RANK $CUDA_VISIBLE_DEVICES"]
    done = there.muster("run", "--slurm", "-N", "2", "--exclusive", "--gpus-per-node", "2", *show)
    assert 0 == done.returncode, done.stderr
    assert [f"{rank} 0,1" for rank in range(4)] == sorted(done.stdout.splitlines())


def test_inside_a_batch_script_of_the_person(there: LabCluster) -> None:
    words = " ".join(there.argv("run", "--slurm", "-g", "1", str(EXAMPLE)))
    text = f"#!/bin/bash\n#SBATCH -N2 -n4 -o {there.folder}/out\nexport MUSTER_HOME='{there.home}'\n{words}\n"
    script = there.folder / "job.sh"
    script.write_text(text)
    done = there.lab.run("head", ["sbatch", "--wait", str(script)], cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, (there.folder / "out").read_text()
    assert "[0] the sum of 0 to 1 is 1, as it should be" in (there.folder / "out").read_text()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--partition", "nosuch"), "Slurm rejected the job: Invalid partition name specified"),
        (("--slurm-opt", "time=soon"), "Slurm rejected the job: Invalid --time specification"),
        (("--gpus-per-node", "9"), "Slurm rejected the job: Requested node configuration is not available"),
        (("--nodelist", "n77"), "Slurm rejected the job: Invalid node name specified"),
        (("--time", "2", "--signal-before", "120s"), "ranks would get the signal as soon as the job starts"),
        (("--signal-before", "1d"), "Slurm sends signals at most 65535s before the time limit"),
        (("--slurm-opt", "qoss=high"), "sbatch has no option `--qoss`"),
        (("--slurm-opt", "ntasks=4"), "muster sets this option of sbatch itself"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(there: LabCluster, option: tuple[str, ...], says: str) -> None:
    done = there.muster("run", "--slurm", "-g", "1", *option, str(EXAMPLE))
    assert 2 == done.returncode
    assert says in done.stderr
    assert "hint: " in done.stderr
    assert [] == list((there.home / "runs").iterdir())


def test_from_the_login_node(there: LabCluster) -> None:
    """Detached; listed, queried, attached to, ended, while it is pending and while it runs."""
    whole = ["--exclusive", "-N", "3", "-g", "1", there.script(TICK), "10000", "0.05"]
    secret = ["--env", "API_KEY=nobody reads this"]
    assert 0 == there.muster("run", "--slurm", "-d", "--name", "first", *secret, *whole).returncode
    assert 0 == there.muster("run", "--slurm", "-d", "--name", "second", *whole).returncode
    states = until(lambda: {line.split()[1]: line for line in there.muster("ps").stdout.splitlines()[1:]}, "two runs")
    assert "pending" in states["second"]
    assert "submitted 20" in there.muster("show", "second").stdout
    lines = [("logs", "-f", "first", "--rank", "0"), ("wait", "first"), ("logs", "-f", "second")]
    follows = [there.start(*line) for line in lines]
    assert 124 == there.muster("wait", "second", "--timeout", "1s").returncode
    assert 0 == there.muster("kill", "second").returncode
    assert 137 == there.muster("wait", "second").returncode
    assert "stopped before it started: it was cancelled (CANCELLED)" in there.muster("show", "second").stdout
    first = next(path for path in (there.home / "runs").iterdir() if '"first"' in (path / "job.json").read_text())
    until(lambda: list(first.glob("attempt_0/*.out")), "the first one runs")

    def tell_stacks() -> bool:
        text = there.muster("stacks", "first").stdout
        heads = re.findall(r"^ranks? ([0-9,-]+)\b.*:$", text, re.M)
        return "script.py" in text and [0, 1, 2] == sorted(rank for head in heads for rank in unfold(head))

    until(tell_stacks, "each rank says where it is")
    now = json.loads(there.muster("show", "first", "--json").stdout)["now"]
    assert [(0, 0), (1, 1), (2, 2)] == [(rank["rank"], rank["node"]) for rank in now["ranks"]], now
    process = there.start("attach", "first")
    until(lambda: "step" in there.said(), "it shows lines")
    there.kill("head", "muster attach first$", signal.SIGTERM)
    assert 0 == process.wait(timeout=120)
    texts = [path.read_bytes() for path in first.rglob("*") if path.is_file()]
    assert not [text for text in texts if b"nobody reads this" in text]
    assert "(hidden)" in (first / "environment.json").read_text()
    done = there.muster("kill", "first")
    assert (0, True) == (done.returncode, "terminated" in done.stdout), done.stderr
    assert [0, 137, 0] == [process.wait(timeout=120) for process in follows], there.said(1)
    shown = [line for line in there.said(0).splitlines() if line.startswith("[")]
    out, err = (
        [f"[0] {line}" for line in (first / "attempt_0" / f"rank_00000.{stream}").read_text().splitlines()]
        for stream in ("out", "err")
    )
    # a rank that is asked to end a moment after its peer tells that it has lost it, on stderr
    assert (out, err) == ([line for line in shown if line not in err], [line for line in shown if line in err])
    assert "its ranks were never started" in there.said(2)
    there.nothing_left()


def test_scancel_from_outside_ends_a_waiting_caller(there: LabCluster) -> None:
    """Ranks that would save on a warning, and request a restart, do not matter there."""
    text = "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n" + TICK
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(text), "10000", "0.05")
    there.steps(2, 3)
    there.lab.run("head", ["scancel", "--user=root"])
    assert 137 == process.wait(timeout=120), there.said()
    assert "the job was cancelled" in there.said()
    assert "\nlogs: muster logs" in there.said(), "the report comes although the connection broke"
    assert "killed" in there.muster("ps").stdout
    there.nothing_left()


def test_scancel_of_a_run_that_may_come_again_is_the_end_too(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "--requeue", "5", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(1, 3)
    there.lab.run("head", ["scancel", "--user=root"])
    assert 137 == process.wait(timeout=120), there.said()
    until(lambda: not queue(there), "the job is over")
    assert 1 == len(list(there.run.glob("attempt_*")))


def test_slurmctld_may_be_away_for_a_while(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "150", "0.1")
    there.steps(2, 3)
    # a killed one forgets what it has not saved yet, and ends the job when it returns
    began, state = time.time(), Path(there.lab.folder.slurm, "state", "job_state")
    until(lambda: state.stat().st_mtime > began, "slurmctld has written down that the job runs")
    there.lab.fault("slurmctld-down")
    there.steps(2, 100)
    there.lab.clear()
    assert 0 == process.wait(timeout=120), there.said()


def test_a_total_of_ranks_is_distributed_by_slurm(there: LabCluster) -> None:
    """More than a node has cores: Slurm puts eight there and the rest on the next one."""
    show = ["--", "sh", "-c", "echo $RANK of $WORLD_SIZE on $(hostname), Slurm: $SLURM_PROCID of $SLURM_NTASKS"]
    done = there.muster("run", "--slurm", "-n", "10", "--prefix", "", *show)
    assert 0 == done.returncode, done.stderr
    places = sorted(done.stdout.splitlines(), key=lambda line: int(line.split()[0]))
    assert [f"{rank} of 10 on {'n1' if rank < 8 else 'n2'}, Slurm: {rank} of 10" for rank in range(10)] == places


def test_a_total_of_gpus_is_distributed_by_slurm(there: LabCluster) -> None:
    """Six in a cluster with four per node; each rank sees all that its node has, by the requested names."""
    show = ["--", "sh", "-c", "echo $LOCAL_RANK $CUDA_VISIBLE_DEVICES"]
    named = ["--output", "%x-%j.%2t.out", "--error", "%x.err", "--name", "six"]
    done = there.muster("run", "--slurm", "--gpus", "6", "--prefix", "", *named, *show)
    assert 0 == done.returncode, done.stderr
    expected = ["0 0,1", "0 0,1,2,3", "1 0,1", "1 0,1,2,3", "2 0,1,2,3", "3 0,1,2,3"]
    assert expected == sorted(done.stdout.splitlines())
    assert expected == sorted(path.read_text().strip() for path in there.folder.glob("six-*.0[0-5].out"))
    assert "" == (there.folder / "six.err").read_text()


def test_a_job_to_which_slurm_gave_no_gpu_does_not_start(there: LabCluster) -> None:
    """A restarted slurmctld forgets the GPUs of nodes that run a job until they have registered (Slurm 22.05).

    The job's record is then the same as here: it has its request, and no GPU.
    """
    programs = there.folder / "bin"
    programs.mkdir()
    without = r"s/(JOB_GRES=gpu:toy:)[0-9]+$/\10/; s/GRES=gpu:toy:[0-9]+\(IDX:[^)]*\)/GRES=gpu:toy:0(IDX:)/"
    real = shutil.which("scontrol")
    (programs / "scontrol").write_text(f"#!/bin/sh\n{real} \"$@\" | sed -E '{without}'\n")
    (programs / "scontrol").chmod(0o755)
    setup = ("--setup", f"export PATH={shlex.quote(str(programs))}:$PATH")
    done = there.muster("run", "--slurm", "--gpus", "6", *setup, "--", "true")
    assert 125 == done.returncode, done.stderr
    job = json.loads((there.run / "job.json").read_text())["scheduler"]["job"]
    assert f"error: Slurm allocated no GPU to job {job}, which requested gres:gpu:6" in done.stderr
    assert f"look at it with `scontrol show job --details {job}`" in done.stderr


OUTPUTS = """
import os, sys, time
print("out of", os.environ["RANK"], flush=True)
sys.stdout.write("half of a line"), sys.stdout.flush()
print("err of", os.environ["RANK"], file=sys.stderr, flush=True)
for number in range(3000):
    print(f" and {os.environ['RANK']} {number} " * 4)
sys.stdout.write("no end of the line")
"""


def test_output_files_are_as_slurm_writes_them(there: LabCluster) -> None:
    """Both streams of all ranks in one file, complete lines; a file for each node; no links that `muster rm` leaves."""
    outputs = there.folder / "outputs"
    line = ["run", "--slurm", "-N", "2", "-g", "2", "-q", "--launcher", "exec", "--name", "job"]
    done = there.muster(*line, "--output", "outputs/%x-%j.out", there.script(OUTPUTS))
    assert 0 == done.returncode, done.stderr
    (file,) = outputs.iterdir()
    assert f"job-{json.loads((there.run / 'job.json').read_text())['scheduler']['job']}.out" == file.name
    lines = file.read_bytes().replace(b"no end of the line", b"").decode().splitlines()
    expected = [f"out of {rank}" for rank in range(4)] + [f"err of {rank}" for rank in range(4)]
    for rank in range(4):
        numbers = [f" and {rank} {number} " * 4 for number in range(3000)]
        expected += [f"half of a line{numbers[0]}", *numbers[1:]]
    assert sorted(expected) == sorted(lines)
    file.unlink()

    done = there.muster(*line, "--output", "outputs/%N-%a", "--error", "outputs/%3t", "--", "sh", "-c", "ls / /x; true")
    assert 0 == done.returncode, done.stderr
    assert 0 == there.muster("rm", "last").returncode
    names = ["000", "001", "002", "003", "n1-4294967294", "n2-4294967294"]
    assert names == sorted(path.name for path in outputs.iterdir())
    assert 2 == (outputs / "n1-4294967294").read_text().splitlines().count("usr")
    assert all("/x" in (outputs / name).read_text() for name in names[:4])

    own = shlex.join(there.argv(*line[:3], "1", *line[4:], "--output", f"{outputs}/%A_%a_%2t", "--", "true"))
    made_for = ["sbatch", "-W", "--array=7", "-N1", "-n1", "-o", f"{there.folder}/array.log", f"--wrap={own}"]
    env = {**there.lab.environment(), **there.env}
    done = there.lab.run("head", made_for, env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, (there.folder / "array.log").read_text()
    number = done.stdout.split()[-1]
    assert {f"{number}_7_00", f"{number}_7_01"} <= {path.name for path in outputs.iterdir()}

    done = there.muster(*line, "--output", "/proc/none/%t", "--", "true")
    assert 125 == done.returncode
    assert "cannot write /proc/none/0: No such file or directory" in done.stderr


def test_options_of_sbatch_in_muster_toml(there: LabCluster) -> None:
    (there.folder / "muster.toml").write_text('[slurm]\ncomment = "from the file"\nexclusive = true\ntime = "7"\n')
    done = there.muster("plan", "--slurm", "--time", "9", "--setup", "module load x", "train.py", cwd=str(there.folder))
    assert 2 == done.returncode  # there is no such script
    done = there.muster("plan", "--slurm", "--time", "9", "--setup", "module load x", "--", "true")
    lines = done.stdout.splitlines()
    assert {"#SBATCH --comment='from the file'", "#SBATCH --exclusive", "#SBATCH --time=9"} <= {*lines}
    assert "{ eval 'module load x'; }" in done.stdout


def test_what_is_typed_comes_before_variables_of_slurm(there: LabCluster) -> None:
    env = {"SBATCH_PARTITION": "nosuch", "SBATCH_EXPORT": "NONE", "SQUEUE_PARTITION": "nosuch", "SBATCH_WAIT": "1"}
    show = ["--", "sh", "-c", "echo $SLURM_JOB_PARTITION $MINE"]
    done = there.muster("run", "--slurm", "--partition", "spare", "--env", "MINE=here", *show, env=env)
    assert (0, "[0] spare here\n") == (done.returncode, done.stdout), done.stderr


def test_lines_of_setup_choose_the_python_and_must_not_fail(there: LabCluster) -> None:
    other = there.folder / "other"
    other.mkdir()
    (other / "python3").symlink_to(sys.executable)
    show = ["--", "sh", "-c", "echo $FROM"]
    lines = ["--setup", f"export PATH='{other}':$PATH FROM=setup"]
    done = there.muster("run", "--slurm", *lines, *show)
    assert (0, "[0] setup\n") == (done.returncode, done.stdout), done.stderr
    assert f"{other}/python3" in (there.run / "controller.json").read_text()
    done = there.muster("run", "--slurm", "--setup", "module-that-is-not-there", *show)
    assert 125 == done.returncode
    assert "--setup failed: module-that-is-not-there" in done.stderr


def test_a_directory_missing_on_nodes_is_reported_before_anything_waits(there: LabCluster) -> None:
    scratch = there.lab.folder.scratch
    done = there.muster("run", "--slurm", "-g", "1", str(EXAMPLE), env={"MUSTER_HOME": f"{scratch}/runs"})
    assert 2 == done.returncode, done.stderr
    assert f"Slurm nodes cannot write to the shared run directory {scratch}/runs" in done.stderr
    assert [] == queue(there)


def test_a_full_disk_is_reported_before_anything_waits(there: LabCluster) -> None:
    there.lab.fault("full-disk", "head")
    scratch = there.lab.folder.scratch
    done = there.muster("run", "--slurm", "-g", "1", str(EXAMPLE), env={"MUSTER_HOME": f"{scratch}/runs"})
    assert (2, True) == (done.returncode, "No space left on device" in done.stderr), done.stderr
    assert [] == queue(there)


def test_ctrl_c_leaves_and_a_second_one_cancels(there: LabCluster) -> None:
    line = ["run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "10000", "0.05"]
    first = there.start(*line)
    there.steps(2, 3)
    first_run = there.run
    there.kill("head", "muster run --slurm", signal.SIGINT)
    assert 130 == first.wait(timeout=120), "what follows it after && does not start"
    assert "continues as job" in there.said()
    assert ["RUNNING"] == queue(there)
    second = there.start("attach", first_run.name)
    until(lambda: "step" in there.said(), "it shows lines")
    there.kill("head", "muster attach", signal.SIGINT)
    assert 0 == second.wait(timeout=120), "a terminal that only watched never cancels"
    assert "continues as job" in there.said()
    assert "cancel" not in there.said()
    there.lab.run("head", ["scancel", "--user=root"])
    third = there.start(*line)
    until(lambda: "step" in there.said(), "it shows lines")
    there.kill("head", "muster run --slurm", signal.SIGINT)
    until(lambda: "to cancel it" in there.said(), "it says what a second one does")
    there.kill("head", "muster run --slurm", signal.SIGINT)
    assert 130 == third.wait(timeout=120), there.said()
    until(lambda: not queue(there), "the job is cancelled")
    there.nothing_left()


def test_a_job_that_never_starts_has_a_hint_and_who_waits_for_it_says_that_it_stays(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "-N", "9", "-g", "1", there.script(TICK), "1", "0.05")
    until(lambda: "never starts" in there.said(), "it is pending")
    run = there.run.name
    until(
        lambda: f"hint: remove it from the queue with `muster kill {run}`; `muster nodes`" in there.said(), "has a hint"
    )
    there.kill("head", "muster run --slurm", signal.SIGTERM)
    assert 143 == process.wait(timeout=120), there.said()
    assert f"muster: {run} continues as job" in there.said() and f"stop: muster kill {run}" in there.said()
    assert ["PENDING"] == queue(there)
    assert 0 == there.muster("kill", run).returncode
    assert [] == queue(there)


def test_a_controller_that_is_killed_is_told_with_what_the_ranks_wrote(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(2, 3)
    there.kill("n1", r"muster\.pyz inside", signal.SIGKILL)
    assert 125 == process.wait(timeout=120), there.said()
    assert "the controller on n1 was killed" in there.said()
    assert "[1] rank 1 step 2 " in there.said()
    until(lambda: not there.ours(), "no process is left")
    # Slurm kills the tasks at once, when their srun has ended with the controller: agents and guards may not have the
    # time to remove their files. The next agents of this user do
    left = {name for names in there.temporary().values() for name in names}
    if left:
        there.start("run", "--slurm", "-w", "n[1-2]", "-g", "1", there.script(TICK), "10000", "0.05")
        until(lambda: not left & {name for names in there.temporary().values() for name in names}, "they are removed")
        assert 0 == there.muster("kill", "last").returncode
    there.nothing_left()


def test_several_jobs_on_the_same_nodes_at_once(there: LabCluster) -> None:
    line = ["run", "--slurm", "-N", "2", "-g", "1", str(EXAMPLE)]
    started = [there.start(*line) for _ in range(4)]
    for number, process in enumerate(started):
        assert 0 == process.wait(timeout=120), there.said(number)
        assert "the sum of 0 to 1 is 1" in there.said(number)


@pytest.mark.parametrize("name", ["50%j of it's", "back\\slash %j"])
def test_a_run_directory_with_characters_that_slurm_reads(there: LabCluster, name: str) -> None:
    folder = there.folder / name
    done = there.muster(
        "run", "--slurm", "--run-dir", str(folder), "--setup", "echo set up", "--", "sh", "-c", "exit 3"
    )
    assert 3 == done.returncode, done.stderr
    (output,) = folder.glob("runs/*/slurm*.out")
    assert "set up" in output.read_text()


def test_a_job_that_ends_at_once(there: LabCluster) -> None:
    done = there.muster("run", "--slurm", "--", "sh", "-c", "echo here; exit 3")
    assert (3, "[0] here\n") == (done.returncode, done.stdout), done.stderr


def test_another_user_than_root(there: LabCluster) -> None:
    """The user may not be able to read these tests, so the program is copied to a readable place."""
    home, python = Path(there.lab.folder.homes, "ada"), shutil.which("python3", path="/usr/bin:/usr/local/bin")
    assert python is not None
    shutil.copytree(Path(muster.__file__).parent, home / "program" / "muster", dirs_exist_ok=True)
    env = {**there.lab.environment("ada"), "PYTHONPATH": str(home / "program")}
    line = [python, "-m", "muster", "run", "--slurm", "-N", "2", "--", "id", "-un"]
    done = there.lab.run("head", line, env=env, cwd=str(home), user="ada", timeout=240)
    assert (0, ["[0] ada", "[1] ada"]) == (done.returncode, sorted(done.stdout.splitlines())), done.stderr
    assert {os.stat(home).st_uid} == {path.stat().st_uid for path in (home / ".muster").rglob("*")}


def test_a_job_of_two_kinds_of_nodes_is_refused(there: LabCluster) -> None:
    env = {**there.lab.environment(), **there.env}
    made = ["salloc", "-Q", "-N1", ":", "-N1"]
    done = there.lab.run("head", [*made, *there.argv("run", "--slurm", "--", "true")], env=env, cwd=str(there.folder))
    assert 2 == done.returncode
    assert "is heterogeneous" in done.stderr


# ---- one task of Slurm per rank --------------------------------------------------------------------------------------


def test_srun_starts_the_ranks(there: LabCluster) -> None:
    """In a job submitted for other tasks: the layout is muster's, and ranks see all GPUs of their node."""
    line = ["run", "--slurm", "-g", "2", "--launcher", "srun"]
    env = {**there.lab.environment(), **there.env}
    made_for = ["salloc", "-Q", "-N2", "--ntasks-per-node=1", "--gpus-per-task=2"]
    done = there.lab.run(
        "head", [*made_for, *there.argv(*line, str(EXAMPLE))], env=env, cwd=str(there.folder), timeout=240
    )
    assert 0 == done.returncode, done.stderr
    for rank in range(4):
        assert f"rank {rank} of 4 on n{rank // 2 + 1}, local rank {rank % 2}" in done.stdout
    show = ["--prefix", "", "--", "sh", "-c", "echo $RANK $CUDA_VISIBLE_DEVICES"]
    done = there.lab.run("head", [*made_for, *there.argv(*line, *show)], env=env, cwd=str(there.folder), timeout=240)
    assert [f"{rank} 0,1" for rank in range(4)] == sorted(done.stdout.splitlines()), done.stderr
    there.nothing_left()


@pytest.mark.parametrize(("ends", "status"), [("exit 7", 7), ("kill -SEGV $$", 139)])
def test_srun_tells_who_failed_first(there: LabCluster, ends: str, status: int) -> None:
    line = ["-N", "2", "-g", "2", "--launcher", "srun", "--", "sh", "-c", f"[ $RANK = 3 ] && {ends}; sleep 600"]
    done = there.muster("run", "--slurm", *line)
    assert status == done.returncode, done.stderr
    assert "rank 3 on n2 failed first" in done.stderr
    there.nothing_left()


def test_what_srun_started_can_be_killed(there: LabCluster) -> None:
    line = ["-N", "2", "-g", "2", "--launcher", "srun", there.script(TICK), "10000", "0.05"]
    process = there.start("run", "--slurm", *line)
    there.steps(4, 2)
    assert 0 == there.muster("kill", "last").returncode
    assert 137 == process.wait(timeout=120), there.said()
    there.nothing_left()


def test_sbatch_short_options_and_options_that_its_help_does_not_list(there: LabCluster) -> None:
    """`-t` is the time limit, two named nodes are two nodes, and sbatch decides about other options."""
    short = ["-p", "main", "-J", "short names", "-t", "7", "-c", "2", "-w", "n[1-2]", "-A", "root"]
    more = ["--gpus-per-task", "1", "--mail-type", "NONE", "--slurm-opt", "hint=nomultithread"]
    show = "scontrol show job $SLURM_JOB_ID"
    done = there.muster("run", "--slurm", *short, *more, "-g", "2", "--", "sh", "-c", f"[ $RANK = 0 ] && {show}; :")
    assert 0 == done.returncode, done.stderr
    for told in ("JobName=short names", "TimeLimit=00:07:00", "Partition=main", "NumNodes=2", "TresPerNode=gres:gpu:2"):
        assert told in done.stdout, done.stdout
    assert "CPUs/Task=2" in done.stdout


def test_variables_of_a_finished_job_are_reported_as_such(there: LabCluster) -> None:
    """A shell, or a container, may outlive its job; for a live job there is no message."""
    (there.folder / "all.sh").write_text("env | grep ^SLURM_ > left\n" + shlex.join(there.argv("doctor", "--json")))
    env = {**there.lab.environment(), **there.env}
    first = there.lab.run("head", ["salloc", "-Q", "-N2", "sh", "all.sh"], env=env, cwd=str(there.folder), timeout=240)
    assert "stale" not in first.stderr and first.stdout.startswith("{"), first.stderr
    left = dict(line.split("=", 1) for line in (there.folder / "left").read_text().splitlines() if "=" in line)
    for job in (left["SLURM_JOB_ID"], "99999"):
        stale = {**left, "SLURM_JOB_ID": job}
        why = "Slurm knows no such job of yours" if job == "99999" else r"that job has ended \([A-Z]+\)"
        said = rf"stale SLURM_JOB_ID={job} in the environment: {why}\n"
        for words in (["run", "--slurm"], ["run", "--slurm", "-d"], ["doctor"]):
            done = there.muster(*words, *(["--", "true"] if words[0] == "run" else []), env=stale)
            assert 2 == done.returncode, done.stderr
            assert re.fullmatch(
                f"error: {said}hint: run `unset SLURM_JOB_ID`; then --slurm submits a job of its own\n", done.stderr
            )
    here = there.muster("run", "--", "true", env=stale)
    assert (0, True) == (here.returncode, re.search(said, here.stderr) is not None), here.stderr
