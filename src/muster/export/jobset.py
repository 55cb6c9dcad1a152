"""`muster export jobset`: a JobSet (jobset.x-k8s.io/v1alpha2), one pod per node, torchrun in each."""

from __future__ import annotations

import math

from muster.export._kubernetes import (
    PORT,
    Manifest,
    environment,
    image_of,
    name_of,
    python_of,
    resources,
    secrets_note,
    shell,
)
from muster.export._node import TORCHRUN, Place
from muster.export._shell import header, joined
from muster.export._yaml import dump
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the manifest."""
    job, nodes = wanted.job, len(wanted.nodes)
    name = name_of(wanted, 40)
    port = wanted.port or PORT
    # the pods of a JobSet have the names JOBSET-JOB-0-POD in its own subdomain
    address = f"{name}-node-0-0.{name}"
    place = Place('"$JOB_COMPLETION_INDEX"', address, str(port), python_of(wanted))
    words = TORCHRUN.words(wanted._replace(port=port), place)
    container: Manifest = {
        "name": "torchrun",
        "image": image_of(wanted),
        "command\nJOB_COMPLETION_INDEX is the number of the pod.": shell(wanted, *words),
        **({"env": env} if (env := environment(wanted)) else {}),
        "ports": [{"containerPort": port}],
        **({"resources": limits} if (limits := resources(wanted)) else {}),
        "volumeMounts\nDataLoader workers share memory, of which a pod has 64 MB otherwise.": [
            {"name": "shm", "mountPath": "/dev/shm"}
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(job.grace) + 5,
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    of_job: Manifest = {
        "parallelism\nAll pods at once, one per node; the first that fails ends the job.": nodes,
        "completions": nodes,
        "backoffLimit": 0,
        **({"activeDeadlineSeconds": math.ceil(job.timeout)} if job.timeout else {}),
        "template": {"spec": pod},
    }
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [{"name": "node", "template": {"spec": of_job}}],
        },
    }
    lines = [*header(wanted, "as a JobSet"), "# Submit it: kubectl create -f FILE"]
    return joined([*lines, *secrets_note(wanted), *dump(manifest)])
