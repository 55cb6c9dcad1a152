"""Grid Engine as a `Scheduler`: which of its functions answers which question."""

from __future__ import annotations

from functools import partial

from muster.schedulers import sge_accounting, sge_batch, sge_env, sge_jobs, sge_nodes, sge_request
from muster.schedulers._shared import ask, check_inside, job_id
from muster.schedulers.scheduler import (
    Ask,
    Final,
    JobRecord,
    JobStatus,
    Machines,
    Remedies,
    Request,
    Scheduler,
    SignalRules,
    Task,
)


def _jobs() -> Ask[dict[str, JobStatus]]:
    return ask(sge_jobs.queue("$user"), sge_jobs.jobs)


def _final(job: str) -> Ask[Final]:
    return ask(sge_jobs.final(job), lambda out: sge_jobs.final_state(out, job))


def _record(job: str) -> Ask[JobRecord | None]:
    return ask(sge_jobs.record(job), sge_jobs.record_of)


def _submit(request: Request, script: str) -> Ask[str]:
    return ask(sge_batch.submit(request, script), job_id)


SCHEDULER = Scheduler(
    title="Grid Engine",
    request=sge_request.request,
    complete=sge_request.complete,
    script=sge_batch.batch_script,
    submit=_submit,
    submit_env=sge_env.submit_env,
    publishes_env=True,
    jobs=_jobs,
    states=sge_jobs.STATES,
    ends=sge_jobs.ENDS,
    cancel=sge_batch.cancel,
    allocation=sge_env.allocation,
    step=sge_env.step,
    task=Task(sge_env.HOST, unset=sge_env.HOST + "_NONE", program="qrsh"),
    terms=sge_request.terms,
    check_inside=partial(check_inside, "sge"),
    refused=sge_batch.refused,
    outputs=sge_request.OUTPUTS,
    final=_final,
    recorded=lambda job, since: ask(sge_accounting.used(job, since), sge_accounting.recorded),
    record=_record,
    failed_steps=sge_env.failed_steps,
    signals=SignalRules(
        stop="USR2",
        beside=("CONT",),
        kill_wait=sge_jobs.KILL_WAIT,
        asked_kill_wait=ask(sge_jobs.configuration(), sge_jobs.kill_wait),
        tells_limit=False,
    ),
    machines=Machines(
        ask(sge_nodes.everything(), sge_nodes.nodes),
        ask(sge_nodes.everything(), sge_nodes.used_gpus),
        ask(sge_nodes.everything(), sge_nodes.queue),
        Remedies(
            "check sge_qmaster with `qping -info $(cat $SGE_ROOT/$SGE_CELL/common/act_qmaster) 6444 qmaster 1`",
            "compare `complex_values` of `qconf -se HOST` with the GPUs of the node",
            "see `qhost -q -h {node}` and `qstat -explain E`",
        ),
    ),
    waits=True,
    interactive="qrsh",
    down="check sge_qmaster with `qstat`",
    login_node="run this on a submit host of the cluster",
    no_cluster="act_qmaster|SGE_ROOT|cell directory",
)
