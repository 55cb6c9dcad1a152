"""`muster export kubernetes`: a TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1)."""

from __future__ import annotations

import math

from muster.export._kubernetes import (
    Manifest,
    environment,
    image_of,
    name_of,
    python_of,
    resources,
    secrets_note,
    shell,
)
from muster.export._shell import Sh, header, joined
from muster.export._yaml import dump
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the manifest."""
    job, each = wanted.job, wanted.each("a TrainJob")
    of = job.program
    script = [*{"script": [], "module": ["-m"], "command": ["--no-python"]}[of.kind], *of.argv]
    more = [f"--max-restarts={job.max_restarts}"] if job.max_restarts else []
    start = [Sh(python_of(wanted)), "-m", "torch.distributed.run", *more, *job.launcher_args]
    trainer: Manifest = {
        "image": image_of(wanted),
        "numNodes": len(wanted.nodes),
        "numProcPerNode": each,
        "command\nThe runtime sets PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR and\n"
        "PET_MASTER_PORT, which torchrun reads.": shell(wanted, start, script),
    }
    if env := environment(wanted):
        trainer["env"] = env
    if limits := resources(wanted):
        trainer["resourcesPerNode"] = limits
    spec: Manifest = {
        "runtimeRef\nThe runtime that Kubeflow Trainer installs for torch.": {"name": "torch-distributed"},
        **({"activeDeadlineSeconds": math.ceil(job.timeout)} if job.timeout else {}),
        "trainer": trainer,
    }
    manifest = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name_of(wanted, 50)},
        "spec": spec,
    }
    lines = [*header(wanted, "as a TrainJob of Kubeflow Trainer"), "# Submit it: kubectl create -f FILE"]
    return joined([*lines, *secrets_note(wanted), *dump(manifest)])
