"""Flux as a `Scheduler`: which of its functions answers which question."""

from __future__ import annotations

from functools import partial

from muster.schedulers import flux_env, flux_jobs, flux_request
from muster.schedulers._shared import ask, check_inside, failed_steps, terms
from muster.schedulers.scheduler import Machines, Remedies, Scheduler, SignalRules, Task

SCHEDULER = Scheduler(
    title="Flux",
    request=flux_request.request,
    script=flux_request.batch_script,
    submit=lambda request, script: ask(flux_request.submit(request, script), flux_request.submitted),
    submit_env=flux_env.submit_env,
    jobs=lambda: ask(flux_jobs.mine(), flux_jobs.jobs),
    states=flux_jobs.STATES,
    ends=flux_jobs.ENDS,
    cancel=lambda job: flux_jobs.outside("cancel", job),
    allocation=flux_env.allocation,
    ask_allocation=flux_env.ask_allocation,
    step=flux_env.step,
    task=Task(flux_env.HOST, unset=flux_env.HOST + "_NONE", program="flux exec"),
    terms=terms,
    check_inside=partial(check_inside, "flux"),
    refused=flux_request.refused,
    outputs=flux_request.OUTPUTS,
    final=lambda job: ask(flux_jobs.one(job), flux_jobs.final_state),
    record=lambda job: ask(flux_jobs.one(job), flux_jobs.record_of),
    failed_steps=failed_steps,
    signals=SignalRules(beside=("CONT", "HUP"), kill_wait=5.0, tells_limit=False),
    machines=Machines(
        ask(flux_jobs.all_nodes(), flux_jobs.nodes),
        ask(flux_jobs.all_nodes(), flux_jobs.used_gpus),
        ask(flux_jobs.everything(), flux_jobs.queue),
        Remedies(
            "check the brokers with `flux overlay status`",
            "compare `flux resource list` with the GPUs of the node",
            "see `flux resource status` and `flux overlay status`",
        ),
    ),
    waits=True,
    interactive="flux alloc",
    down="check Flux with `flux uptime` and `flux overlay status`",
    login_node="run this on a login node of the cluster",
    no_cluster="FLUX_URI|Unable to connect",
)
