"""The output of the schedulers' commands: any text, and any JSON, gives a result, or one sentence."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Callable

import pytest
from fuzzing import any_text, near, result_or_sentence, spoilt
from hypothesis import example, given
from hypothesis import strategies as st
from scheduler_samples import recorded

from muster.config.values import limit_of
from muster.schedulers import (
    SCHEDULERS,
    _shared,
    flux_jobs,
    flux_request,
    get_scheduler,
    lsf_env,
    lsf_jobs,
    lsf_request,
    pbs_jobs,
    sge_accounting,
    sge_batch,
    sge_env,
    sge_jobs,
    sge_nodes,
    sge_request,
    slurm_accounting,
    slurm_batch,
    slurm_env,
    slurm_jobs,
    slurm_nodes,
    slurm_patterns,
    slurm_step,
    slurm_values,
)
from muster.schedulers._shared import job_id

SCONTROL = (
    "JobId=7 JobName=x\n   JobState=RUNNING Reason=None StartTime=2026-11-27T00:05:09 EndTime=Unknown PreemptTime=None "
    "SubmitTime=2026-11-27T00:05:08 Partition=all Priority=4294901757 Restarts=1\n   NodeList=n[1-2]\n"
    "     Nodes=n1 CPU_IDs=0-3 Mem=2048 GRES=gpu:toy:2(IDX:0-1)\n     Nodes=n2 CPU_IDs=0-1 Mem=0 GRES=\n"
    "   TresPerNode=gres:gpu:2\n   TRES=cpu=8,mem=64000M,node=2,gres/gpu=2\n"
)
SQUEUE = (
    "7|RUNNING|None|n[1-2]|2026-11-27T00:05:09|1:00|7|a|b\n8|PENDING|(Resources)|(null)|N/A|UNLIMITED|8_[1-3%2]|x\n"
    "7|ann|all*|RUNNING|2|gres:gpu:2|0:09|1:00:00|None|n[1-2]|2026-11-27T00:05:09|train\n"
)
SINFO = (
    "n1|all*|idle~|64|512000|gpu:a100:4(S:0-1),gpu:2|0/64/0/64|none\nn2|all|drained*|8+|N/A|(null)|1/2|bad disk\n"
    "all*|up|infinite|1:00:00|1-infinite|2|n[1-2]\nn1   gpu:toy:2(IDX:0-1)\n"
)
SACCT = (
    "7|COMPLETED|2026-11-27T00:05:09|61|2||00:05.434|||cpu=8,mem=64000M,gres/gpu=2|n[1-2]\n"
    "7.0|CANCELLED by 1000|Unknown|61|2|2|2-01:02:03|308240K|n1|cpu=8|n[1-2]\n7.batch||||||||||None assigned\n"
)
CONFIG = "KillWait                = 30 sec\nClusterName             = far\nnotify                0:2:0\n"
SAID = (
    "srun: error: n2: task 1: Exited with exit code 3\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED AT "
    "2026-11-27T00:05:09 DUE TO TIME LIMIT ***\nsbatch: error: Invalid partition name specified: x\n12;far\n"
)

READERS: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    **{
        f"scontrol {read.__name__}": (read, (SCONTROL, CONFIG))
        for read in (
            slurm_jobs.record_of,
            slurm_jobs.kill_wait,
            slurm_jobs.name_of_cluster,
            slurm_step.gpus_there,
            slurm_step.granted,
            slurm_step.gpus_requested,
            slurm_step.restarts,
        )
    },
    "squeue": (lambda out: [slurm_jobs.why_pending(row) for row in slurm_jobs.queued(out).values()], (SQUEUE,)),
    "squeue of all": (slurm_nodes.jobs, (SQUEUE,)),
    "sinfo nodes": (slurm_nodes.nodes, (SINFO,)),
    "sinfo gpus": (slurm_nodes.used_gpus, (SINFO,)),
    "sinfo partitions": (slurm_nodes.partitions, (SINFO,)),
    "sacct": (slurm_accounting.recorded, (SACCT,)),
    "sacct state": (lambda out: (slurm_jobs.past_state(out), slurm_jobs.cancelled_by(out)), (SACCT,)),
    "slurmstepd": (lambda said: slurm_jobs.why_ended(said, None), (SAID,)),
    "srun": (slurm_step.ended_tasks, (SAID,)),
    "sbatch refuses": (slurm_batch.refused, (SAID,)),
    "sbatch option": (slurm_batch.unknown_option, (SAID,)),
    "sbatch --help": (slurm_batch.options_of_sbatch, (SAID, "  -N, --nodes=NN  x\n")),
    "time limit": (limit_of, ("2-12:30:00", "5:30", "90", "UNLIMITED")),
    "time": (slurm_values.time_of, ("2026-11-27T00:05:09", "0001-01-01T00:00:00", "9999-12-31T23:59:59")),
    "GRES": (slurm_values.gpus_of, ("gpu:3090:4(S:0-1),gpu:2",)),
    "qstat jobs": (sge_jobs.jobs, (recorded("sge/jobs.xml"),)),
    "qstat -j": (sge_jobs.record_of, (recorded("sge/running.xml"), recorded("sge/pending.xml"))),
    "qstat nodes": (sge_nodes.nodes, (recorded("sge/everything.xml"),)),
    "qstat gpus": (sge_nodes.used_gpus, (recorded("sge/everything.xml"),)),
    "qstat queue": (sge_nodes.queue, (recorded("sge/everything.xml"), recorded("sge/jobs.xml"))),
    "qacct": (
        lambda out: sge_jobs.final_state(out, "7"),
        (recorded("sge/deleted_running.txt"), recorded("sge/deleted_pending.txt")),
    ),
    "qconf": (sge_jobs.kill_wait, (CONFIG,)),
    "qconf -sp": (sge_request.parallel_environments, (recorded("sge/parallel_environments.txt"),)),
    "qsub refuses": (sge_batch.refused, (SAID, "Unable to run job: job rejected: x.\nExiting.\n")),
    "pe_hostfile": (sge_env.hosts_in, ("n1 4 all.q@n1 UNDEFINED\nn2 2 all.q@n2 <NULL>\n",)),
    "qrsh": (sge_env.failed_steps, (SAID,)),
    "PBS qstat": (pbs_jobs.jobs, (recorded("pbs/jobs.txt"),)),
    "PBS record": (pbs_jobs.record_of, (recorded("pbs/jobs.txt"),)),
    "PBS final": (pbs_jobs.final_state, (recorded("pbs/jobs.txt"),)),
    "PBS queue": (pbs_jobs.queue, (recorded("pbs/jobs.txt"),)),
    "PBS nodes": (pbs_jobs.nodes, (recorded("pbs/nodes.txt"),)),
    "PBS gpus": (pbs_jobs.used_gpus, (recorded("pbs/jobs.txt"),)),
    "LSF": (lsf_jobs.records, ('{"RECORDS": [{"JOBID": "7", "STAT": "RUN"}]}', '{"RECORDS": 3}', '{"a": ' * 9999)),
    "Flux": (flux_jobs.records, ('{"jobs": [{"id": 7}]}', '{"jobs": 3}', '{"id": 7}', "[" * 9999)),
    "LSF bsub": (lsf_request.submitted, ("Job <12> is submitted to queue <normal>.\n", "Request accepted\n")),
    "LSF bsub refuses": (lsf_request.refused, ("nosuch: No such queue. Job not submitted.\n",)),
    "LSF hosts": (
        lambda out: lsf_env.allocation({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": out}),
        ("h01 8 h02 4 ",),
    ),
    "Flux batch": (flux_request.submitted, ("ƒvCwZjB3\n",)),
    "Flux batch refuses": (flux_request.refused, ("flux-batch: ERROR: [Errno 22] Invalid queue 'x' specified\n",)),
    "Flux resource list": (
        lambda out: (flux_jobs.nodes(out), flux_jobs.used_gpus(out)),
        ("free|gpu,debug|2|96|8|n[1-2]\nallocated|gpu|1|16|4|n2\ndown||0|0|0|\n",),
    ),
    "qacct used": (sge_accounting.recorded, (recorded("sge/deleted_running.txt"),)),
    "sizes": (_shared.megabytes, ("256gb", "16384kb", "23.5G")),
    "numbers": (_shared.number, ("12",)),
    "seconds": (_shared.seconds_of, ("1:00:00", "::30")),
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_output_gives_a_result_or_one_sentence(name: str, data: st.DataObject) -> None:
    read, samples = READERS[name]
    out = data.draw(near(*samples))
    result_or_sentence(lambda: read(out))


BJOBS, BHOSTS = json.loads(recorded("lsf/jobs.json")), json.loads(recorded("lsf/hosts.json"))
FLUX_JOBS = {
    "jobs": [
        {
            "id": 7,
            "name": "train",
            "username": "ann",
            "state": "RUN",
            "queue": "gpu",
            "nnodes": 2,
            "urgency": 16,
            "nodelist": "n[1-2]",
            "t_submit": 1000.5,
            "t_run": 1001.5,
            "expiration": 4601.5,
            "runtime": 65.3,
            "duration": 3600.0,
            "annotations": {"sched": {"t_estimate": 5000.0}},
            "exception": {"type": "cancel"},
        },
        {"id": 8, "state": "SCHED", "annotations": {"sched": {"t_estimate": 5000.0, "reason_pending": "no"}}},
        {"id": 9, "state": "DEPEND", "dependencies": ["after-success=7"]},
        {"id": 10, "state": "INACTIVE", "result": "TIMEOUT", "annotations": {}},
    ]
}
JSON_READERS: dict[str, tuple[Callable[[str], Any], Any]] = {
    **{
        f"LSF {read.__name__}": (read, BJOBS)
        for read in (lsf_jobs.jobs, lsf_jobs.record_of, lsf_jobs.final_state, lsf_jobs.queue)
    },
    **{f"LSF {read.__name__}": (read, BHOSTS) for read in (lsf_jobs.nodes, lsf_jobs.used_gpus)},
    **{
        f"Flux {read.__name__}": (read, FLUX_JOBS)
        for read in (flux_jobs.jobs, flux_jobs.record_of, flux_jobs.final_state, flux_jobs.queue)
    },
}


@pytest.mark.parametrize("name", JSON_READERS)
@given(data=st.data())
def test_any_json_gives_a_result_or_one_sentence(name: str, data: st.DataObject) -> None:
    read, document = JSON_READERS[name]
    result_or_sentence(partial(read, json.dumps(data.draw(spoilt(document)))))


WRONG: tuple[Any, ...] = (None, "", "-", "x", 0, -1, 10**400, 1e300, float("nan"), [], [3], {}, {"a": 1}, True)


@pytest.mark.parametrize("name", JSON_READERS)
def test_each_value_may_be_missing_or_wrong(name: str) -> None:
    """Each field of each record, and of what is in it: absent, and of every type."""
    read, document = JSON_READERS[name]
    (rows,) = (rows for rows in document.values() if isinstance(rows, list))
    for row in rows:
        owners = [row, *(value for value in row.values() if isinstance(value, dict))]
        for owner in [*owners, *(value["sched"] for value in owners if "sched" in value)]:
            for key, value in list(owner.items()):
                del owner[key]
                result_or_sentence(partial(read, json.dumps(document)))
                for owner[key] in WRONG:
                    result_or_sentence(partial(read, json.dumps(document)))
                owner[key] = value


NUMBERS = ("9" * 5000, "9" * 400, "²", "٣", "1.2.3", "...", "-", "1e999", "")


@pytest.mark.parametrize("name", READERS)
def test_numbers_that_python_refuses_give_a_result_or_one_sentence(name: str) -> None:
    """int and float raise for thousands of digits, for `²`, which is a digit for str.isdigit, and for `1.2.3`."""
    read, samples = READERS[name]
    for sample in samples:
        for found in list(re.finditer("[0-9]+(\\.[0-9]+)?", sample[:3000]))[:60]:
            for number in NUMBERS:
                out = sample[: found.start()] + number + sample[found.end() :]
                result_or_sentence(partial(read, out))


def test_a_number_of_tasks_for_a_million_nodes_does_not_fill_the_memory() -> None:
    assert len(slurm_env.tasks_per_node({"SLURM_TASKS_PER_NODE": "2(x99999999999)"})) < 10_000_000


@given(near("12;far\n", "a site's own text\n12.server\n"))
@example("")  # IndexError in the first version: sbatch succeeded and printed nothing
@example("-p\n")  # no option for the command that cancels the job
def test_any_answer_to_a_submission_gives_an_id_or_one_sentence(out: str) -> None:
    found = result_or_sentence(lambda: job_id(out))
    assert found is None or not found.startswith("-")


ENVIRONMENT = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2,04]",
    "SLURM_TASKS_PER_NODE": "2(x3),1",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_HET_SIZE": "1",
    "SLURM_JOB_CPUS_PER_NODE": "8(x2),4",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_GPUS_ON_NODE": "2",
    "SLURM_JOB_GPUS": "0,1",
    "SLURM_STEP_ID": "0",
    "SLURM_ARRAY_TASK_ID": "3",
    "JOB_ID": "7",
    "PE_HOSTFILE": "/dev/null",
    "NSLOTS": "4",
    "PBS_JOBID": "7.server",
    "PBS_NODEFILE": "/dev/null",
    "PBS_ENVIRONMENT": "PBS_BATCH",
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@given(changed=st.dictionaries(st.sampled_from(sorted(ENVIRONMENT)), near("n[1-2]", "2(x3),1", "0,1"), max_size=3))
def test_any_environment_gives_an_allocation_or_one_sentence(scheduler: str, changed: dict[str, str]) -> None:
    env = {**ENVIRONMENT, **changed}
    record = get_scheduler(scheduler)
    found = result_or_sentence(lambda: record.allocation(env))
    if found is not None:
        result_or_sentence(lambda: record.cpus(env, found.hosts))
    for read in (record.clean, record.submit_env, record.exported, record.cluster, record.gpus_claimed):
        result_or_sentence(partial(read, env))
    slurm_patterns.names_of_job(env)
    slurm_env.for_sbatch(env)


@given(near("%x-%j.%t.out", "%5j%%%A_%a", "%u%N%n"), st.dictionaries(st.sampled_from("xjtNnuAa"), any_text))
def test_any_pattern_of_a_file_name_is_filled(pattern: str, values: dict[str, str]) -> None:
    result_or_sentence(lambda: slurm_patterns.fill_pattern(pattern, values))
