"""LSF as a `Scheduler`: which of its functions answers which question."""

from __future__ import annotations

from functools import partial

from muster.schedulers import lsf_env, lsf_jobs, lsf_request
from muster.schedulers._shared import ask, check_inside, failed_steps, terms
from muster.schedulers.scheduler import Machines, Remedies, Scheduler, SignalRules, Task

SCHEDULER = Scheduler(
    title="LSF",
    request=lsf_request.request,
    script=lsf_request.batch_script,
    submit=lambda request, script: ask(lsf_request.submit(request, script), lsf_request.submitted),
    submit_env=lsf_env.submit_env,
    jobs=lambda: ask(lsf_jobs.mine(), lsf_jobs.jobs),
    states=lsf_jobs.STATES,
    ends=lsf_jobs.ENDS,
    cancel=lambda job: ("bkill", job),
    allocation=lsf_env.allocation,
    step=lsf_env.step,
    task=Task(lsf_env.HOST, unset=lsf_env.HOST + "_NONE", program="blaunch"),
    terms=terms,
    check_inside=partial(check_inside, "lsf"),
    nodelist="nodelist",
    refused=lsf_request.refused,
    outputs=lsf_request.OUTPUTS,
    final=lambda job: ask(lsf_jobs.one(job), lsf_jobs.final_state),
    record=lambda job: ask(lsf_jobs.one(job), lsf_jobs.record_of),
    failed_steps=failed_steps,
    # SIGUSR2 comes at the time limit, and SIGINT and SIGTERM, 10 s apart, from bkill
    signals=SignalRules(stop="USR2", beside=("CONT", "INT"), kill_wait=10.0, tells_limit=False),
    machines=Machines(
        ask(lsf_jobs.all_hosts(), lsf_jobs.nodes),
        ask(lsf_jobs.all_hosts(), lsf_jobs.used_gpus),
        ask(lsf_jobs.everything(), lsf_jobs.queue),
        Remedies(
            "check mbatchd with `badmin showstatus`",
            "compare `bhosts -gpu` with the GPUs of the host",
            "see `bhosts -l {node}`",
        ),
    ),
    waits=True,
    interactive="bsub -Is bash",
    down="check LSF with `lsid` and `badmin showstatus`",
    login_node="run this on a submission host of the cluster",
    no_cluster="lsf.conf|LSF_ENVDIR|ls_initdebug",
)
