"""Slurm as one of the schedulers: which of its functions answers which question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, TypeVar

from muster.config.record import Options
from muster.schedulers import slurm, slurm_request
from muster.schedulers.scheduler import (
    Allocation,
    Answer,
    Ask,
    FileNames,
    Final,
    JobRecord,
    JobStatus,
    Machines,
    Refusal,
    Remedies,
    Request,
    Scheduler,
    SignalRules,
    Task,
    TaskVariables,
)
from muster.schedulers.slurm_options import DOCTOR, RUN

T = TypeVar("T")


def _ask(argv: Sequence[str], read: Callable[[str], T]) -> Ask[T]:
    """A question that is answered on stdout."""
    return Ask(argv, lambda answer: read(answer.out))


def _jobs() -> Ask[dict[str, JobStatus]]:
    return _ask(slurm.queue(), lambda out: {job: _status(seen) for job, seen in slurm.queued(out).items()})


def _status(seen: slurm.JobStatus) -> JobStatus:
    return JobStatus(
        seen.job,
        seen.name,
        seen.state,
        seen.hosts,
        seen.reason,
        slurm.why_pending(seen),
        delayed=seen.reason == "BeginTime",
        hopeless=seen.reason.strip("()").partition(",")[0] in slurm.NEVER,
    )


def _job_now(job: str, cluster: str, everybody: bool) -> Ask[JobStatus | None]:
    def read(answer: Answer) -> JobStatus | None:
        seen = slurm.queued(answer.out).get(job)
        if seen is None and answer.code != 0 and not slurm.no_such_job(answer.err):
            raise LookupError
        return None if seen is None else _status(seen)

    # `--clusters` needs accounting, so it is left out for the default cluster
    return Ask(slurm.queue(job, cluster, everybody), read)


def _final(job: str) -> Ask[Final]:
    return _ask(slurm.past(job), lambda out: Final(slurm.past_state(out), slurm.cancelled_by(out)))


def _refused(err: str) -> Refusal:
    words, hint = slurm.refused(err)
    return Refusal(words, hint, slurm.unknown_option(err))


def _record(job: str) -> Ask[JobRecord | None]:
    return Ask(slurm.record(job), lambda answer: slurm.record_of(answer.out) if answer.code == 0 else None)


def _gpus(job: str, tasks: Mapping[str, int]) -> Ask[dict[str, int]]:
    return _ask(slurm.details(job), lambda out: slurm.gpus_there(out, tasks))


def _left_over(found: Allocation) -> tuple[str, str]:
    return f"SLURM_JOB_ID={found.job} in the environment", "unset SLURM_JOB_ID"


_MINUTES = 10
"""For which nodes are asked for by the doctor."""


def _hold(nodes: int, options: Options, command: Sequence[str]) -> tuple[str, ...]:
    partition, gpus = options.value(DOCTOR.partition), options.value(DOCTOR.gpus_per_node)
    wanted = [f"partition={partition}"] if partition is not None else []
    wanted += [f"gpus-per-node={gpus}"] if gpus is not None else []
    wanted += options.value(DOCTOR.slurm_opt)
    wanted += [] if any(option.startswith("time=") for option in wanted) else [f"time={_MINUTES}"]
    return slurm.salloc_argv(nodes, wanted, command)


def _submit(request: Request, script: str) -> Ask[str]:
    return _ask(slurm.submit(request, script), slurm.submitted)


SCHEDULER = Scheduler(
    title="Slurm",
    request=slurm_request.request,
    script=slurm.batch_script,
    submit=_submit,
    jobs=_jobs,
    states=slurm.STATES,
    ends=slurm.ENDS,
    cancel=slurm.cancel,
    allocation=slurm.allocation,
    step=slurm.step,
    task=Task("SLURMD_NODENAME", "SLURM_STEP_ID", slurm.OF_AGENTS, "srun"),
    terms=slurm_request.terms,
    check_inside=slurm_request.check_inside,
    nodelist=RUN.nodelist.key,
    refused=_refused,
    options_known=_ask(slurm.help_of_sbatch(), slurm.options_of_sbatch),
    trial=slurm.probe_argv,
    clean=slurm.clean_env,
    submit_env=slurm.for_sbatch,
    exported=slurm.exported,
    outputs=slurm.OUTPUTS,
    cluster=lambda env: env.get("SLURM_CLUSTER_NAME", ""),
    cluster_asked=_ask(slurm.configuration(), slurm.name_of_cluster),
    job_now=_job_now,
    left_over=_left_over,
    final=_final,
    requeue=slurm.requeue,
    refuses_requeue=slurm.refuses_requeue,
    start_now=slurm.start_now,
    restarts=lambda job: _ask(slurm.details(job), slurm.restarts),
    record=_record,
    gpus=_gpus,
    cpus=slurm.cpus_by_host,
    failed_steps=slurm.ended_tasks,
    signals=SignalRules(
        warning=slurm.WARNING,
        beside=("CONT",),
        kill_wait=slurm.KILL_WAIT,
        asked_kill_wait=_ask(slurm.configuration(), slurm.kill_wait),
        stopped_by=slurm.why_ended,
    ),
    variables=TaskVariables(
        of_rank=slurm.environment_of_rank,
        of_node=slurm.environment_of_node,
        layout=slurm.LAYOUT_OF_TASKS,
        of_job=slurm.of_the_job,
    ),
    file_names=FileNames(slurm.names_of_job, slurm.names_of_task, slurm.fill_pattern),
    machines=Machines(
        _ask(slurm.machines(), slurm.nodes),
        _ask(slurm.in_use(), slurm.used_gpus),
        _ask(slurm.everybody(), slurm.jobs),
        Remedies(
            "`scontrol ping`; slurmctld may be down",
            "gres.conf there, and `scontrol show node`",
            "`scontrol show node {node}`",
        ),
    ),
    naming_nodes="; --slurm-opt nodelist=n[1-3]",
    interactive="salloc",
    hold=_hold,
    down="is slurmctld up? `scontrol ping`",
)
