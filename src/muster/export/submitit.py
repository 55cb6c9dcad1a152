"""`muster export submitit`: a Python program that submits one task per rank to Slurm with submitit."""

from __future__ import annotations

from muster.errors import InvalidRequest
from muster.export._shell import header, joined
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the program."""
    job, batch = wanted.job, wanted.batch
    if job.setup:
        raise InvalidRequest(
            "--setup: submitit starts the interpreter that submits the job, without a shell before it",
            "activate the environment before you start the program, and leave out --setup",
        )
    each = wanted.each("submitit")
    cpus = batch.get("cpus-per-task")
    options: dict[str, object] = {"job_name": wanted.name, "nodes": len(wanted.nodes), "ntasks_per_node": each}
    if cpus.isdigit():
        options["cpus_per_task"] = max(1, int(cpus) // each)
    more = {name: value for name, value in batch.options if name not in ("cpus-per-task", "time", "mem")}
    options.update({name.replace("-", "_"): value for name, value in more.items() if value and name in _KNOWN})
    rest = {name: value for name, value in more.items() if name not in _KNOWN or not value}
    for name in ("time", "mem"):
        if batch.get(name):
            options[name] = batch.get(name)
    if not batch.get("time"):
        options["time"] = 60
    if rest:
        options["additional_parameters"] = {name.replace("-", "_"): value or True for name, value in rest.items()}
    of = job.program
    command = [*{"script": ["python"], "module": ["python", "-m"], "command": []}[of.kind], *of.argv]
    words = [repr(word) if word != "python" or place else "sys.executable" for place, word in enumerate(command)]
    lines = ["#!/usr/bin/env python3", *header(wanted, "one task of submitit per rank")]
    lines += ["# Needs submitit. Prints the id of the job, and waits for it.", ""]
    lines += ["import os", "import subprocess", "import sys", "", "import submitit", ""]
    lines += [f"COMMAND = [{', '.join(words)}]", f"DIRECTORY = {job.cwd!r}"]
    lines += ["# set for each rank; everything else comes from the environment of this program"]
    lines += ["ENVIRONMENT = {", *(f"    {name!r}: {value!r}," for name, value in wanted.open_env.items()), "}"]
    if wanted.secrets:
        lines += ["# secrets are not written into this file: set them where you start it"]
        lines += [f"SECRETS = {list(wanted.secrets)!r}"]
    lines += [f"SLURM = {_dict(options)}", "", ""]
    lines += _BODY.splitlines()
    if wanted.secrets:
        at = lines.index("def main():") + 1
        lines[at:at] = [
            "    missing = [name for name in SECRETS if name not in os.environ]",
            "    if missing:",
            "        sys.exit(f\"set {', '.join(missing)} before you start this program\")",
        ]
    return joined(lines)


_KNOWN = (
    *("partition", "account", "qos", "constraint", "comment", "exclusive", "gres", "gpus-per-node", "nodelist"),
    *("dependency", "exclude", "mem-per-cpu", "mem-per-gpu", "cpus-per-gpu"),
)
"""Options of sbatch that submitit's executor knows by name."""


def _dict(options: dict[str, object]) -> str:
    return "{\n" + "".join(f"    {name!r}: {value!r},\n" for name, value in options.items()) + "}"


_BODY = '''def rank():
    """Run one rank: submitit calls this in each task, after it was sent there."""
    # RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, the same port in all tasks
    submitit.helpers.TorchDistributedEnvironment().export(overwrite=True)
    os.chdir(DIRECTORY)
    code = subprocess.run(COMMAND, env={**os.environ, **ENVIRONMENT}).returncode
    if code:
        raise RuntimeError(f"exit status {code}")


def main():
    executor = submitit.SlurmExecutor(folder="submitit_logs")
    executor.update_parameters(**SLURM)
    job = executor.submit(rank)
    print(f"job {job.job_id}", flush=True)
    job.results()  # raises the exception of the task that failed


if __name__ == "__main__":
    main()'''
