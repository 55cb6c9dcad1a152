"""Slurm's command lines and the parsers of its output, which was recorded from 22.05."""

from __future__ import annotations

import pytest

from muster.agent.bootstrap import shell_script
from muster.config.values import limit_of
from muster.core.hostlist import parse_nodelist
from muster.core.layout import layout
from muster.core.model import Host, Late, Rank
from muster.errors import InvalidRequest
from muster.schedulers import slurm_batch, slurm_env, slurm_jobs, slurm_nodes, slurm_patterns, slurm_step, slurm_values
from muster.schedulers._shared import job_id
from muster.schedulers.scheduler import After, Allocation, Answer, Request


def test_the_batch_script() -> None:
    options = (
        ("partition", "gpu"),
        ("time", "4:00:00"),
        ("gpus-per-node", "8"),
        ("exclusive", ""),
        ("comment", "it's"),
    )
    asked = Request("train it", 3, options, "/runs/x/slurm-%j.out", 120, "yes")
    command = ("/venv/bin/python", "-I", "/runs/x y/muster.pyz")
    text = slurm_batch.batch_script(asked, (), command)
    assert (
        text
        == """#!/bin/bash
#SBATCH --job-name='train it'
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --partition=gpu
#SBATCH --time=4:00:00
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --comment='it'"'"'s'
#SBATCH --output=/runs/x/slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:URG@120
#SBATCH --requeue

exec /venv/bin/python -I '/runs/x y/muster.pyz'
"""
    )
    line = slurm_batch.submit(asked, "/runs/x/batch.sh")
    assert "--comment=it's" in line, "SBATCH_COMMENT must not come before it"
    text = slurm_batch.batch_script(asked, ("module load cuda",), command)
    assert text.startswith("#!/bin/bash -l\n")
    assert text.endswith(shell_script(command, ("module load cuda",), False, "error: "))
    assert "python=$after" in text
    assert "python=$after" not in slurm_batch.batch_script(asked, ("module load cuda",), command, keep_python=True)


def test_an_expedited_requeue() -> None:
    """By the release notes of Slurm 25.11; older ones reject the option."""
    asked = Request("it", 1, requeue="expedite")
    assert "--requeue=expedite" == slurm_batch.options(asked)[-1]
    assert "--no-requeue" == slurm_batch.options(asked._replace(requeue=""))[-1]
    ask = slurm_batch.checked_version(asked)
    assert ask is not None and ("sbatch", "--version") == ask.argv
    for newer in ("slurm 25.11.0\n", "slurm 26.05.1-1\n", "slurm-wlm 25.11.2\n", "of the site\n"):
        assert asked == ask.read(Answer(0, newer))
    for older in ("slurm-wlm 22.05.8\n", "slurm 25.05.3\n", "slurm 24.11.11\n"):
        with pytest.raises(InvalidRequest, match=f"Slurm 25.11, and sbatch here is that of Slurm {older.split()[1]}"):
            ask.read(Answer(0, older))
    assert slurm_batch.checked_version(asked._replace(requeue="yes")) is None


def test_a_job_array_and_jobs_to_wait_for() -> None:
    asked = Request("x", 1, (), slurm_batch.output_in("/runs/x", array=True), 0, array="0-7%2")
    words = slurm_batch.options(asked)
    assert "--array=0-7%2" in words and "--output=/runs/x/slurm-%A_%a.out" in words
    assert ("12_3", "12_[1,4-6]") == (slurm_batch.array_task("12", "3"), slurm_batch.array_task("12", "1,4-6"))
    after = [After("12", "ok"), After("13", "failed")]
    assert {"dependency": "after:1,afterok:12,afternotok:13", "kill-on-invalid-dep": "yes"} == (
        slurm_batch.dependencies(after, "after:1")
    )
    assert {} == slurm_batch.dependencies([])


def test_what_sbatch_says() -> None:
    assert "12" == job_id("12\n")
    assert "12" == job_id("12;cluster\n")


@pytest.mark.parametrize(
    ("said", "words", "hinted"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "Invalid partition name specified",
            True,
        ),
        ("sbatch: error: Invalid --time specification\n", "Invalid --time specification", True),
        ("sbatch: error: Something new\n", "Something new", False),
        ("", "no error message", False),
    ],
)
def test_what_sbatch_refuses(said: str, words: str, hinted: bool) -> None:
    found, hint = slurm_batch.refused(said)
    assert (words, hinted) == (found, hint is not None)


QUEUE = """3|RUNNING||n[1-2]|2026-11-21T17:25:16|4:12|3|a name | of two
4|PENDING|Resources||2026-11-21T17:30:00|5:00|4|/tmp
5|PENDING|BeginTime||N/A|5:00|5|/tmp
6|CANCELLED|None||2026-11-21T17:20:00|INVALID|6|/tmp
7|PENDING|JobArrayTaskLimit||N/A|1:00:00|7_3|x
8|RUNNING|None|n1|2026-11-28T01:04:34|59:58|7_0|x
"""


def test_what_squeue_says() -> None:
    found = slurm_jobs.queued(QUEUE)
    assert "a name | of two" == found["3"].name
    assert ("RUNNING", ("n1", "n2")) == (found["3"].state, found["3"].hosts)
    assert "waiting for free nodes (Resources); expected start: 2026-11-21T17:30:00" == slurm_jobs.why_pending(
        found["4"]
    )
    assert "Slurm delays the restart (BeginTime)" == slurm_jobs.why_pending(found["5"])
    assert "it was cancelled" == slurm_jobs.ENDS[found["6"].state].words
    assert {} == slurm_jobs.queued("")
    assert {"3", "4", "5", "6", "7_3", "8", "7_0"} == found.keys(), "7 is no task, 8 is 7_0"


def test_an_allocation() -> None:
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]"}
    assert Allocation("7", ("n1", "n2", "n3"), 0) == slurm_env.allocation(env)
    assert Allocation("7", ("n1", "n2", "n3"), 2) == slurm_env.allocation({**env, "SLURM_RESTART_COUNT": "2"})
    assert slurm_env.allocation({}) is None
    with pytest.raises(InvalidRequest, match="heterogeneous"):
        slurm_env.allocation({**env, "SLURM_HET_SIZE": "2"})


def test_what_would_mislead_a_step_is_left_out() -> None:
    env = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/x",
        "PATH": "/bin",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": "0",
        "SLURM_GPUS_PER_TASK": "1",
        "PMI_RANK": "0",
        "PMIX_NAMESPACE": "x",
        "SLURM_STEP_ID": "0",
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_LABELIO": "1",
        "SLURM_NEW_IN_SOME_VERSION": "1",
        "SBATCH_WAIT": "1",
        "SBATCH_ACCOUNT": "lab",
        "SQUEUE_FORMAT": "%i",
        "SALLOC_PARTITION": "x",
        "SCANCEL_STATE": "PENDING",
    }
    kept = {"SLURM_JOB_ID", "SLURM_CONF", "PATH", "SLURM_JOB_NODELIST", "SLURM_GPUS_ON_NODE"}
    assert kept == set(slurm_env.clean_env(env))
    assert kept - {"SLURM_GPUS_ON_NODE"} | {"SBATCH_ACCOUNT"} == set(slurm_env.for_sbatch(env))
    asked = {"SLURM_GPUS_PER_TASK", "SLURM_LABELIO", "SLURM_NEW_IN_SOME_VERSION"}
    assert asked <= set(slurm_env.exported(env)), "ranks may have an srun of their own"
    assert not {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_NTASKS_PER_NODE"} & set(slurm_env.exported(env))


def test_ranks_are_told_what_srun_would_tell_them() -> None:
    nodes = layout([(Host("n1"), 2), (Host("n2", cpus_of_tasks=8), 2), (Host("n3"), 1)])
    found = {**slurm_env.environment_of_node(nodes[1], nodes, "7"), **slurm_env.environment_of_rank(nodes[1].ranks[1])}
    assert "2(x2),1" == found["SLURM_TASKS_PER_NODE"] == found["SLURM_STEP_TASKS_PER_NODE"]
    assert "2,3" == found["SLURM_GTIDS"]
    assert "n[1-3]" == found["SLURM_STEP_NODELIST"]
    assert ("3", "1", "1", "5", "4") == tuple(
        found[f"SLURM_{name}"] for name in ("PROCID", "LOCALID", "NODEID", "NTASKS", "CPUS_PER_TASK")
    )
    assert "SLURM_NTASKS_PER_NODE" not in found, "they are not equally many"
    nodes = layout([(Host("n1"), 4)])
    found = slurm_env.environment_of_node(nodes[0], nodes, "7")
    assert ("4", "4", "0,1,2,3") == tuple(
        found[f"SLURM_{name}"] for name in ("NTASKS_PER_NODE", "TASKS_PER_NODE", "GTIDS")
    )
    assert "SLURM_CPUS_PER_TASK" not in found
    assert "n1" == found["SLURM_STEP_NODELIST"]
    before = slurm_env.environment_of_node(nodes[0], nodes, "")
    unknown = {name for name, value in before.items() if isinstance(value, Late)}
    assert {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_CPUS_PER_TASK"} == unknown, "before there is a job"


def test_the_cpus_of_each_node() -> None:
    env = {"SLURM_JOB_CPUS_PER_NODE": "4(x2),2", "SLURM_CPUS_PER_TASK": "2"}
    assert {"n1": 4, "n2": 4, "n3": 2} == slurm_env.cpus_by_host(env, ("n1", "n2", "n3"))
    assert {} == slurm_env.cpus_by_host({"SLURM_JOB_CPUS_PER_NODE": "4"}, ("n1",))


def test_a_step_sets_every_option() -> None:
    line = slurm_step.step(("n1", "n2"), ("python", "x"), job="7")
    assert line[:5] == ["srun", "--jobid=7", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert {"--nodelist=n1,n2", "--overlap", "--mpi=none", "--export=ALL", "--input=none"} <= set(line)
    assert ["python", "x"] == line[-2:]
    assert "--input=0" in slurm_step.step(("n1",), ("python",), stdin=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ["n1"]),
        ("n[1-3,07],gpu5", ["n1", "n2", "n3", "n07", "gpu5"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_host_lists_of_slurm(text: str, expected: list[str]) -> None:
    assert expected == parse_nodelist(text)


def test_an_invalid_host_list() -> None:
    with pytest.raises(InvalidRequest, match="invalid host list"):
        parse_nodelist("n[a-b]")


SINFO = """n1|spare|idle|8|16000|gpu:toy:4|0/8/0/8|none
n1|main*|idle|8|16000|gpu:toy:4|0/8/0/8|none
n2|main*|down*|8|16000|gpu:a100:2(S:0-1),gpu:2|3/0/5/8|not responding
n3|main*|mixed|8|16000|(null)|3/5/0/8|none
"""


def test_what_sinfo_says() -> None:
    first, second, third = slurm_nodes.nodes(SINFO)
    assert (("spare", "main"), 8, {"toy": 4}, "") == (first.partitions, first.free_cores, first.gpus, first.reason)
    assert ("down*", 0, {"a100": 2, "": 2}, "not responding") == second[2:3] + second[4:5] + second[6:8]
    assert ({}, 5) == (third.gpus, third.free_cores)
    assert {"3090": 2, "": 2, "1g.10gb": 4} == slurm_values.gpus_of(
        "gpu:3090:2(IDX:0-1),gpu:1g.10gb:4(S:0),gpu:2,shard:8"
    )
    assert {"n1": {"toy": 2}, "n2": {}} == slurm_nodes.used_gpus("n1     gpu:toy:2(IDX:0-1)\nn2    (null)\n")


def test_what_squeue_says_of_everybody() -> None:
    (job,) = slurm_nodes.jobs("1|ada|main|RUNNING|2|gres:gpu:2|0:10|1:00:00|None|n[1-2]|2026-11-28T01:04:34|lr|0.1\n")
    assert ("1", "ada", 2, "gres:gpu:2", "0:10") == (job.job, job.user, job.nodes, job.gpus, job.used)
    assert ("n[1-2]", "lr|0.1") == (job.hosts, job.name)


def test_the_partitions_and_their_limits() -> None:
    first, second = slurm_nodes.partitions(
        "main*|up|infinite|1:00:00|1-infinite|3|n[1-3]\nspare|down|30:00|n/a|1-2|1|n1\n"
    )
    assert ("main", True, "infinite", 3, "n[1-3]") == (first.name, first.default, first.limit, first.nodes, first.hosts)
    assert ("spare", False, "down", "1-2") == (second.name, second.default, second.state, second.sizes)


PENDING = """JobId=12 JobName=x
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901758 Nice=0 Account=(null) QOS=(null)
   JobState=PENDING Reason=Resources Dependency=(null)
   SubmitTime=2026-11-27T00:05:09 EligibleTime=2026-11-27T00:05:09
   StartTime=2026-11-27T01:05:09 EndTime=2026-11-27T02:05:09 Deadline=N/A
   PreemptEligibleTime=2026-11-27T00:05:09 PreemptTime=None
   Partition=main AllocNode:Sid=head:12
   ReqNodeList=n1 ExcNodeList=(null)
   NodeList=(null)
"""


def test_the_record_of_a_job_that_waits_or_runs() -> None:
    found = slurm_jobs.record_of(PENDING)
    assert ("PENDING", "Resources", "main", "4294901758", ()) == (
        *(found.state, found.reason, found.partition, found.priority, found.hosts),
    )
    assert found.submitted is not None and found.start == found.submitted + 3600
    assert ("n1", "n2") == slurm_jobs.record_of(PENDING.replace("NodeList=(null)\n", "NodeList=n[1-2]\n")).hosts


HELP = """Usage: sbatch [OPTIONS(0)...] [ : [OPTIONS(N)...]] script(0) [args(0)...]

Parallel run options:
  -a, --array=indexes         job array index values
      --bb=<spec>             burst buffer specifications
  -q, --qos=qos               quality of service
      --no-requeue            if set, do not permit the job to be requeued
"""


def test_the_options_that_sbatch_lists() -> None:
    assert {"array", "bb", "qos", "no-requeue"} == slurm_batch.options_of_sbatch(HELP)


@pytest.mark.parametrize(
    ("text", "expected"), [("2(x3),1", (2, 2, 2, 1)), ("4,2", (4, 2)), ("1(x2)", (1, 1)), ("7", (7,)), ("", ())]
)
def test_tasks_of_each_node(text: str, expected: tuple[int, ...]) -> None:
    assert expected == slurm_env.tasks_per_node({"SLURM_TASKS_PER_NODE": text})


DETAILS = """   TRES=cpu=2,node=2,billing=2
     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:toy:4(IDX:0-3)
     Nodes=n[2-3] CPU_IDs=0-7 Mem=0 GRES=gpu:toy:1(IDX:0),gpu:a100:1(IDX:1)
     Nodes=n4 CPU_IDs=0 Mem=0 GRES=
"""


def test_the_gpus_that_a_job_has_on_each_node() -> None:
    assert {"n1": 4, "n2": 2, "n3": 2, "n4": 0} == slurm_step.gpus_there(DETAILS)
    assert {} == slurm_step.gpus_there("slurm_load_jobs error: Invalid job id specified")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("TresPerNode=gres:gpu:2", {"n1": 2, "n2": 2}),
        ("TresPerNode=gres:gpu:toy:1,gres:gpu:a100:2", {"n1": 3, "n2": 3}),
        ("TresPerNode=gres/gpu:toy=2", {"n1": 2, "n2": 2}),
        ("TresPerNode=gres:gpu:9", {"n1": 4, "n2": 4}),
        ("TresPerTask=gres:gpu:1", {"n1": 2, "n2": 1}),
        ("TresPerJob=gres:gpu:5", {"n1": 3, "n2": 2}),
        ("TresPerJob=gres:gpu:8", {"n1": 4, "n2": 4}),
        ("", {"n1": 4, "n2": 4}),
    ],
)
def test_gpus_are_no_more_than_were_asked_for(asked: str, expected: dict[str, int]) -> None:
    """`--exclusive --gpus-per-node 2` allocates all GPUs of the nodes, and a plain srun sees two."""
    there = f"     Nodes=n[1-2] CPU_IDs=0-7 Mem=0 GRES=gpu:toy:4(IDX:0-3)\n   {asked}\n"
    assert expected == slurm_step.gpus_there(there, {"n1": 2, "n2": 1})


@pytest.mark.parametrize(
    ("number", "each", "tasks", "expected"),
    [
        (3, 2, {"n1": 2, "n2": 1}, {"n1": 2, "n2": 1}),
        (4, 2, {"n1": 1}, {"n1": 2, "n2": 2}),
        (4, 2, {"n1": 1, "n2": 1}, {"n1": 2, "n2": 2}),
        (4, 0, {}, {"n1": 4, "n2": 4}),
        (3, 0, {"n2": 1}, {"n1": 4, "n2": 1}),
    ],
)
def test_tasks_of_a_step_do_not_count_as_those_of_its_job(
    number: int, each: int, tasks: dict[str, int], expected: dict[str, int]
) -> None:
    """In a step of one task, as the controller's or that of `srun --pty`, SLURM_TASKS_PER_NODE is 1."""
    record = f"   NumNodes=2 NumTasks={number} CPUs/Task=1\n   Socks/Node=* NtasksPerN:B:S:C={each}:0:*:* CoreSpec=*\n"
    record += "     Nodes=n[1-2] CPU_IDs=0-7 Mem=0 GRES=gpu:toy:4(IDX:0-3)\n   TresPerTask=gres:gpu:1\n"
    assert expected == slurm_step.gpus_there(record, tasks)


def test_gpus_of_a_step_are_always_requested() -> None:
    assert "--gpus-per-node=2" in slurm_step.step(("n1", "n2"), ("x",), gpus=2)
    assert "--gpus=4" in slurm_step.step(("n1",), ("x",), gpus=4)  # the only way on one of several uneven nodes
    assert "--gres=none" in slurm_step.step(("n1",), ("x",))
    assert not [word for word in slurm_step.step(("n1",), ("x",), gpus=None) if "g" in word and word.startswith("--g")]


def test_how_long_slurm_waits_before_it_kills() -> None:
    assert 5.0 == slurm_jobs.kill_wait("JobRequeue              = 1\nKillWait                = 5 sec\n")
    assert slurm_jobs.KILL_WAIT == slurm_jobs.kill_wait("")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("%x_%j_%4j_%J_%4J_%N_%4N_%n_%3n_%s", "pat.sh_1_0001_1.0_0001.0_n2_n2_1_001_0"),
        ("%t_%12t_%u_%A_%a_%h_%b_%q_%%t", "3_0000000003_root_1_4294967294_%h_%b_%q_%t"),
        ("pp%%%j", "pp%1"),
        ("trail%", "trail%"),
        (r"esc\%t_%j", "esc%t_%j"),
        (r"esc\\%t_%j", r"esc\%t_%j"),
        ("plain", "plain"),
    ],
)
def test_names_by_slurms_patterns(pattern: str, expected: str) -> None:
    """As srun of 22.05 writes them in the third task of a job of two nodes with two tasks each."""
    job = slurm_patterns.names_of_job({"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "pat.sh", "SLURM_JOB_USER": "root"})
    assert expected == slurm_patterns.fill_pattern(
        pattern, slurm_patterns.names_of_task(job, Rank(3, 1, 1, 4, 2, 2), "n2.lan", "0")
    )


def test_names_in_an_array() -> None:
    """As sbatch wrote them for `--array=3-4`: the last task has the ID of the array."""
    env = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "2", "SLURM_ARRAY_TASK_ID": "3"}
    assert "ARR_2_3_0003_5" == slurm_patterns.fill_pattern("ARR_%A_%a_%4a_%j", slurm_patterns.names_of_job(env))


def test_a_probe_runs_where_the_job_will() -> None:
    asked = Request("x", 3, (("partition", "gpu"), ("nodelist", "n1,n2,n3"), ("time", "9")))
    line = slurm_batch.probe_argv(asked, ("true",))
    assert {"--partition=gpu", "--nodes=1", "--time=1"} <= set(line)
    assert not [word for word in line if "nodelist" in word]


def test_what_accounting_says_of_an_end() -> None:
    assert "CANCELLED" == slurm_jobs.past_state("CANCELLED by 0\n")
    assert "OUT_OF_MEMORY" == slurm_jobs.past_state("OUT_OF_MEMORY\n")
    assert "" == slurm_jobs.past_state("")


def test_an_option_that_sbatch_does_not_know() -> None:
    said = "sbatch: unrecognized option '--qoss=high'\nTry \"sbatch --help\" for more information\n"
    assert "qoss" == slurm_batch.unknown_option(said)
    assert "" == slurm_batch.unknown_option("sbatch: error: Batch job submission failed: Invalid qos specification\n")


@pytest.mark.parametrize(
    ("err", "refuses"),
    [
        ("slurm_requeue error: Job/step already completing or completed", True),
        ("slurm_requeue error: Requested operation is presently disabled", True),
        ("slurm_requeue error: Job can not be altered now, try again later", False),
        ("slurm_requeue error: Unable to contact slurm controller (connect failure)", False),
    ],
)
def test_whether_asking_again_may_requeue_it(err: str, refuses: bool) -> None:
    assert refuses == slurm_batch.refuses_requeue(err)


def test_how_often_a_job_was_requeued() -> None:
    assert 2 == slurm_step.restarts("JobId=7 JobName=x\n   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0\n")
    assert 0 == slurm_step.restarts("slurm_load_jobs error: Invalid job id specified\n")


@pytest.mark.parametrize(
    ("state", "takes"),
    [
        *(("idle", True), ("mixed", True), ("allocated", True)),
        *(
            ("idle*", False),
            ("down", False),
            ("drained", False),
            ("draining", False),
            ("down*", False),
            ("maint", False),
        ),
    ],
)
def test_whether_a_node_takes_jobs(state: str, takes: bool) -> None:
    node = slurm_nodes.nodes(f"n1|main*|{state}|8|16000|gpu:toy:4|0/8/0/8|none\n")[0]
    assert takes == node.takes_jobs


def test_tasks_of_a_step_that_have_failed_are_told_while_others_still_run() -> None:
    said = """muster agent: a line of an agent
srun: error: n2: task 1: Killed
srun: error: n[4-5]: tasks 3-4: Exited with exit code 1
srun: error: Unable to create step: Invalid
"""
    assert {"n2": "Killed", "n4": "Exited with exit code 1", "n5": "Exited with exit code 1"} == slurm_step.ended_tasks(
        said
    )


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("0:30", 30),
        ("4:00:00", 14400),
        ("1-0", 86400),
        ("2-12:30", 217800),
        ("1-0:0:5", 86405),
        ("soon", None),
        ("UNLIMITED", None),
        ("", None),
    ],
)
def test_time_limits_as_slurm_reads_them(limit: str, seconds: float | None) -> None:
    assert seconds == limit_of(limit)


RECORD = """JobId=1 JobName=t.sh
   JobState={state} Reason={reason} Dependency=(null)
   StartTime=2026-11-27T00:04:04 EndTime=2026-11-27T00:05:09 Deadline=N/A
   PreemptEligibleTime=2026-11-27T00:04:04 PreemptTime={preempted}
"""
NOTE = "slurmstepd-n1: error: *** {what} ON n1 CANCELLED AT 2026-11-27T00:05:09{due} ***\n"


@pytest.mark.parametrize(
    ("said", "record", "cause"),
    [
        (NOTE.format(what="JOB 1", due=" DUE TO TIME LIMIT"), None, "time limit"),
        (NOTE.format(what="STEP 1.0", due=" DUE TO TIME LIMIT"), None, "time limit"),
        (NOTE.format(what="JOB 1", due=" DUE TO PREEMPTION"), None, "preempted"),
        (NOTE.format(what="JOB 1", due=" DUE TO JOB REQUEUE"), None, "requeued"),
        (NOTE.format(what="JOB 1", due=" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"), None, "node failure"),
        (NOTE.format(what="JOB 1", due=""), None, "cancelled"),
        ("", ("COMPLETING", "TimeLimit", "None"), "time limit"),
        (NOTE.format(what="STEP 1.0", due=""), None, ""),
        (NOTE.format(what="STEP 1.0", due=""), ("RUNNING", "None", "None"), "cancelled"),
        (NOTE.format(what="STEP 1.0", due=""), ("RUNNING", "None", "2026-11-27T00:04:30"), "preempted"),
        (NOTE.format(what="STEP 1.0", due=""), ("RUNNING", "None", "2026-11-26T00:00:00"), "cancelled"),
        ("", ("RUNNING", "None", "None"), ""),
        ("", None, ""),
    ],
)
def test_why_a_job_is_ended(said: str, record: tuple[str, str, str] | None, cause: str) -> None:
    found = None
    if record is not None:
        state, reason, preempted = record
        found = slurm_jobs.record_of(RECORD.format(state=state, reason=reason, preempted=preempted))
    assert cause == slurm_jobs.why_ended(said, found)


def test_who_cancelled_a_job() -> None:
    assert "1000" == slurm_jobs.cancelled_by("CANCELLED by 1000\n")
    assert "" == slurm_jobs.cancelled_by("CANCELLED\n")
    assert "" == slurm_jobs.cancelled_by("")


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("/runs/x", "/runs/x/slurm-%j.out"),
        ("/runs/100%j", "/runs/100%%j/slurm-%j.out"),
        ("/a\\b/%j", "/a\\\\b/%j/slurm.out"),
    ],
)
def test_where_a_batch_script_writes_whatever_the_folder_is_called(folder: str, pattern: str) -> None:
    assert pattern == slurm_batch.output_in(folder)
