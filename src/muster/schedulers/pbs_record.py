"""PBS as a `Scheduler`: which of its functions answers which question."""

from __future__ import annotations

from functools import partial

from muster.schedulers import pbs_env, pbs_jobs, pbs_request
from muster.schedulers._shared import ask, check_inside, failed_steps, job_id, terms
from muster.schedulers.scheduler import Machines, Remedies, Scheduler, SignalRules, Task

SCHEDULER = Scheduler(
    title="PBS",
    request=pbs_request.request,
    script=pbs_request.batch_script,
    submit=lambda request, script: ask(pbs_request.submit(request, script), job_id),
    submit_env=pbs_env.submit_env,
    publishes_env=True,
    jobs=lambda: ask(pbs_jobs.mine(), pbs_jobs.jobs),
    states=pbs_jobs.STATES,
    ends=pbs_jobs.ENDS,
    cancel=lambda job: ("qdel", job),
    allocation=pbs_env.allocation,
    step=pbs_env.step,
    task=Task(pbs_env.HOST, unset=pbs_env.HOST + "_NONE", program="pbs_tmrsh"),
    terms=terms,
    check_inside=partial(check_inside, "pbs"),
    refused=pbs_request.refused,
    outputs=pbs_request.OUTPUTS,
    final=lambda job: ask(pbs_jobs.one(job), pbs_jobs.final_state),
    record=lambda job: ask(pbs_jobs.one(job), pbs_jobs.record_of),
    failed_steps=failed_steps,
    signals=SignalRules(kill_wait=10.0, tells_limit=False),
    machines=Machines(
        ask(pbs_jobs.all_nodes(), pbs_jobs.nodes),
        ask(pbs_jobs.all_nodes(), pbs_jobs.used_gpus),
        ask(pbs_jobs.everything(), pbs_jobs.queue),
        Remedies(
            "check the PBS server with `qstat -B`",
            "compare `resources_available.ngpus` of `pbsnodes -v HOST` with the GPUs of the node",
            "see `pbsnodes -v {node}`",
        ),
    ),
    waits=True,
    interactive="qsub -I",
    down="check the PBS server with `qstat -B`",
    login_node="run this on a login node of the cluster",
    no_cluster="pbs.conf|PBS_SERVER|default server",
)
