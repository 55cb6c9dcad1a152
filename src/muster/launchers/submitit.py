"""submitit submits one job with all ranks: with its local executor, or inside an allocation with its Slurm executor.

submitit's own batch script runs where it would otherwise: as a shell inside the existing job, with its srun.
"""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan, Text
from muster.launchers._external import on_head_node, own_file, shim_argv
from muster.schedulers import slurm_env, slurm_step

_DRIVER = """import os
import pathlib
import subprocess
import sys
import time

import submitit

folder, python, count, nodes, *words = sys.argv[1:]
inside = os.environ.get("SLURM_JOB_ID", "")


def rank():
    \"\"\"What each task does; the shim writes down how it ends.\"\"\"
    environment = submitit.JobEnvironment()
    print(f"task {environment.global_rank} of {environment.num_tasks}", flush=True)
    ended = subprocess.run(words)
    if ended.returncode:
        raise SystemExit(ended.returncode)


class Here(submitit.SlurmExecutor):
    \"\"\"Its batch script is run in this job, and not submitted for another one.\"\"\"

    def _make_submission_command(self, submission_file_path):
        global script
        script = submission_file_path
        return ["echo", f"Submitted batch job {inside}"]


def main():
    if inside:
        executor = Here(folder=folder)
        executor.update_parameters(nodes=int(nodes), ntasks_per_node=int(count) // int(nodes), time=60, srun_args=SRUN)
    else:
        executor = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(tasks_per_node=int(count), timeout_min=60 * 24 * 365)
    job = executor.submit(rank)
    if inside:
        text = pathlib.Path(folder, f"{job.job_id}_submission.sh")
        text = text if text.exists() else script
        return subprocess.run(["bash", str(text)]).returncode
    while not job.done():
        time.sleep(0.1)
    failed = [exception for exception in map(lambda task: task.exception(), tasks(job)) if exception]
    for exception in failed:
        print(exception, file=sys.stderr)
    return 1 if failed else 0


def tasks(job):
    return [job.task(number) for number in range(job.num_tasks)] if job.num_tasks > 1 else [job]


SRUN = [f"--jobid={inside}", *WORDS_OF_SRUN]
sys.exit(main())
"""


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command, on node 0."""
    ranks = sum(len(node.ranks) for node in nodes)
    options = slurm_step.tasks("", len(nodes), ranks, ())[2:] if job.scheduler == "slurm" else []
    driver = _DRIVER.replace("WORDS_OF_SRUN", repr(options))
    hosts = own_file("hosts", "".join(f"{node.host.name}\n" for node in nodes for _ in node.ranks))
    submit = own_file("submit.py", driver)
    words = (Late.PYTHON, submit.path, Late.FOLDER + "/submitit", Late.PYTHON, str(ranks), str(len(nodes)))
    on_slurm = job.scheduler == "slurm"
    env: dict[str, Text] = {"SLURM_HOSTFILE": hosts.path} if on_slurm else {}
    line = (*words, Late.PYTHON, *shim_argv(run_id))
    return on_head_node(job, nodes, run_id, line, [submit, hosts], slurm_env.NOT_FOR_SLURM, env, tasks=on_slurm)
