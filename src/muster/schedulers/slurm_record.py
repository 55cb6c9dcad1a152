"""Slurm as a `Scheduler`: which of its functions answers which question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, TypeVar

from muster.config.record import Options
from muster.schedulers import (
    slurm_accounting,
    slurm_batch,
    slurm_env,
    slurm_jobs,
    slurm_nodes,
    slurm_patterns,
    slurm_request,
    slurm_step,
)
from muster.schedulers._shared import job_id
from muster.schedulers.scheduler import (
    Allocation,
    Answer,
    Arrays,
    Ask,
    FileNames,
    Final,
    JobGpus,
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
    """Return a question that is answered on stdout."""
    return Ask(argv, lambda answer: read(answer.out))


def _jobs() -> Ask[dict[str, JobStatus]]:
    return _ask(slurm_jobs.queue(), lambda out: {job: _status(seen) for job, seen in slurm_jobs.queued(out).items()})


def _status(seen: slurm_jobs.SqueueRow) -> JobStatus:
    return JobStatus(
        seen.job,
        seen.name,
        seen.state,
        seen.hosts,
        seen.reason,
        slurm_jobs.why_pending(seen),
        delayed=seen.reason == "BeginTime",
        hopeless=seen.reason.strip("()").partition(",")[0] in slurm_jobs.NEVER,
    )


def _job_now(job: str, cluster: str, everybody: bool) -> Ask[JobStatus | None]:
    def read(answer: Answer) -> JobStatus | None:
        seen = slurm_jobs.queued(answer.out).get(job)
        if seen is None and answer.code != 0 and not slurm_jobs.no_such_job(answer.err):
            raise LookupError
        return None if seen is None else _status(seen)

    # `--clusters` needs accounting, so it is omitted for the default cluster
    return Ask(slurm_jobs.queue(job, cluster, everybody), read)


def _final(job: str) -> Ask[Final]:
    return _ask(slurm_jobs.past(job), lambda out: Final(slurm_jobs.past_state(out), slurm_jobs.cancelled_by(out)))


def _refused(err: str) -> Refusal:
    words, hint = slurm_batch.refused(err)
    return Refusal(words, hint, slurm_batch.unknown_option(err))


def _record(job: str) -> Ask[JobRecord | None]:
    return Ask(slurm_jobs.record(job), lambda answer: slurm_jobs.record_of(answer.out) if answer.code == 0 else None)


def _gpus(job: str, tasks: Mapping[str, int]) -> Ask[JobGpus | None]:
    def read(answer: Answer) -> JobGpus | None:
        if answer.code != 0 or "JobId=" not in answer.out:
            return None
        return JobGpus(slurm_step.gpus_there(answer.out, tasks), slurm_step.gpus_requested(answer.out))

    return Ask(slurm_step.details(job), read)


def _left_over(found: Allocation) -> tuple[str, str]:
    return f"SLURM_JOB_ID={found.job} in the environment", "unset SLURM_JOB_ID"


_MINUTES = 10
"""Requirements that select the nodes doctor checks."""


def _hold(nodes: int, options: Options, command: Sequence[str]) -> tuple[str, ...]:
    partition, gpus = options.value(DOCTOR.partition), options.value(DOCTOR.gpus_per_node)
    wanted = [f"partition={partition}"] if partition is not None else []
    wanted += [f"gpus-per-node={gpus}"] if gpus is not None else []
    wanted += options.value(DOCTOR.slurm_opt)
    wanted += [] if any(option.startswith("time=") for option in wanted) else [f"time={_MINUTES}"]
    return slurm_batch.salloc_argv(nodes, wanted, command)


def _submit(request: Request, script: str) -> Ask[str]:
    return _ask(slurm_batch.submit(request, script), job_id)


SCHEDULER = Scheduler(
    title="Slurm",
    request=slurm_request.request,
    complete=slurm_batch.checked_version,
    script=slurm_batch.batch_script,
    submit=_submit,
    jobs=_jobs,
    states=slurm_jobs.STATES,
    ends=slurm_jobs.ENDS,
    cancel=slurm_batch.cancel,
    allocation=slurm_env.allocation,
    step=slurm_step.step,
    task=Task("SLURMD_NODENAME", "SLURM_STEP_ID", slurm_env.OF_AGENTS, "srun"),
    terms=slurm_request.terms,
    check_inside=slurm_request.check_inside,
    nodelist=RUN.nodelist.key,
    refused=_refused,
    options_known=_ask(slurm_batch.help_of_sbatch(), slurm_batch.options_of_sbatch),
    trial=slurm_batch.probe_argv,
    clean=slurm_env.clean_env,
    submit_env=slurm_env.for_sbatch,
    exported=slurm_env.exported,
    outputs=slurm_batch.OUTPUTS,
    cluster=lambda env: env.get("SLURM_CLUSTER_NAME", ""),
    cluster_asked=_ask(slurm_jobs.configuration(), slurm_jobs.name_of_cluster),
    job_now=_job_now,
    left_over=_left_over,
    final=_final,
    requeue=slurm_batch.requeue,
    refuses_requeue=slurm_batch.refuses_requeue,
    start_now=slurm_batch.start_now,
    restarts=lambda job: _ask(slurm_step.details(job), slurm_step.restarts),
    recorded=lambda job, since: _ask(slurm_accounting.used(job, since), slurm_accounting.recorded),
    granted=lambda job: _ask(slurm_step.details(job), slurm_step.granted),
    record=_record,
    gpus=_gpus,
    gpus_claimed=slurm_env.gpus_claimed,
    cpus=slurm_env.cpus_by_host,
    failed_steps=slurm_step.ended_tasks,
    signals=SignalRules(
        warning=slurm_batch.WARNING,
        beside=("CONT",),
        kill_wait=slurm_jobs.KILL_WAIT,
        asked_kill_wait=_ask(slurm_jobs.configuration(), slurm_jobs.kill_wait),
        stopped_by=slurm_jobs.why_ended,
    ),
    variables=TaskVariables(
        of_rank=slurm_env.environment_of_rank,
        of_node=slurm_env.environment_of_node,
        layout=slurm_env.LAYOUT_OF_TASKS,
        of_job=slurm_env.of_the_job,
    ),
    file_names=FileNames(slurm_patterns.names_of_job, slurm_patterns.names_of_task, slurm_patterns.fill_pattern),
    divides=True,
    arrays=Arrays(
        lambda env: env.get("SLURM_ARRAY_TASK_ID", ""),
        lambda env: env.get("SLURM_ARRAY_JOB_ID", ""),
        slurm_batch.array_task,
    ),
    waits=True,
    machines=Machines(
        _ask(slurm_nodes.machines(), slurm_nodes.nodes),
        _ask(slurm_nodes.in_use(), slurm_nodes.used_gpus),
        _ask(slurm_nodes.everybody(), slurm_nodes.jobs),
        Remedies(
            "run `scontrol ping`; slurmctld may be down",
            "compare gres.conf on the node with `scontrol show node`",
            "see `scontrol show node {node}`",
        ),
        _ask(slurm_nodes.groups(), slurm_nodes.partitions),
    ),
    naming_nodes="; request nodes with --slurm-opt nodelist=n[1-3]",
    interactive="salloc",
    shell=slurm_step.shell,
    hold=_hold,
    down="check slurmctld with `scontrol ping`",
    no_cluster="configuration source",
)
