"""The parts of two schemas of Kubernetes that muster writes, closed: an unknown or misspelled field is an error.

Sources: the CRDs of kubeflow/trainer at 8c0f505 (trainer.kubeflow.org/v1alpha1) and kubernetes-sigs/jobset at 08dfbdf
(jobset.x-k8s.io/v1alpha2). The whole CRDs accept what is accepted here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 1}
WHOLE: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "array", "items": TEXT}
LABEL: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50}


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object that has only these fields."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+[KMGT]i$"}]},
}
RESOURCES = fields(limits=QUANTITIES, requests=QUANTITIES)
SECRET = fields(("secretKeyRef",), secretKeyRef=fields(("key",), name=LABEL, key=TEXT))
ENV: Schema = {"type": "array", "items": fields(("name",), name=TEXT, value=TEXT, valueFrom=SECRET)}
CONTAINER = fields(
    ("name", "image"),
    name=LABEL,
    image=TEXT,
    command=TEXTS,
    env=ENV,
    resources=RESOURCES,
    ports={"type": "array", "items": fields(("containerPort",), containerPort=COUNT)},
    volumeMounts={"type": "array", "items": fields(("name", "mountPath"), name=LABEL, mountPath=TEXT)},
)
POD = fields(
    ("containers", "restartPolicy"),
    containers={"type": "array", "items": CONTAINER},
    restartPolicy={"enum": ["Never", "OnFailure"]},
    terminationGracePeriodSeconds=WHOLE,
    volumes={"type": "array", "items": fields(("name",), name=LABEL, emptyDir=fields(medium={"enum": ["", "Memory"]}))},
)
JOB = fields(
    ("template",),
    parallelism=WHOLE,
    completions=WHOLE,
    backoffLimit=WHOLE,
    activeDeadlineSeconds=COUNT,
    template=fields(("spec",), spec=POD),
)
JOBSET = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields(("name",), name=LABEL),
    spec=fields(
        failurePolicy=fields(maxRestarts=WHOLE),
        replicatedJobs={
            "type": "array",
            "items": fields(("name", "template"), name=LABEL, template=fields(("spec",), spec=JOB)),
        },
    ),
)
TRAINJOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=fields(("name",), name=LABEL),
    spec=fields(
        ("runtimeRef",),
        runtimeRef=fields(("name",), name=LABEL),
        activeDeadlineSeconds=COUNT,
        trainer=fields(
            image=TEXT, command=TEXTS, env=ENV, numNodes=COUNT, numProcPerNode=COUNT, resourcesPerNode=RESOURCES
        ),
    ),
)
