"""Parts that all manifests for Kubernetes have in common."""

from __future__ import annotations

import re
from typing import Any

from muster.core.model import ENDING, GRACE
from muster.errors import InvalidRequest
from muster.export._shell import command, quote
from muster.export._yaml import Block
from muster.export.wanted import Wanted

Manifest = dict[str, Any]

PORT = 29400
"""The rendezvous port: a pod has its own network, where no other run can have it."""


def name_of(wanted: Wanted, longest: int) -> str:
    """Return the name of the job as a DNS label (RFC 1035)."""
    name = re.sub(r"[^a-z0-9]+", "-", wanted.name.lower()).strip("-")
    if not name or not name[0].isalpha():
        name = f"run-{name}".rstrip("-")
    return name[:longest].rstrip("-")


def image_of(wanted: Wanted) -> str:
    """Return the container image. Raises `InvalidRequest` without one."""
    if not wanted.image:
        raise InvalidRequest("a pod needs a container image", "add `--image IMAGE`, with torch and your code in it")
    return wanted.image


def environment(wanted: Wanted) -> list[Manifest]:
    """Return the entries for `env`; a secret is a reference to a Secret of the cluster."""
    job = wanted.job
    found: list[Manifest] = [{"name": name, "value": _literal(value)} for name, value in wanted.open_env.items()]
    if job.grace != GRACE:
        found.append({"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(round(job.grace))})
    if job.signals_to_handle != ",".join(ENDING):
        found.append({"name": "TORCHELASTIC_SIGNALS_TO_HANDLE", "value": job.signals_to_handle})
    if not wanted.threads_chosen:
        cpus = wanted.batch.get("cpus-per-task")
        each = len(wanted.nodes[0].ranks)
        if cpus.isdigit():
            found.append({"name": "OMP_NUM_THREADS", "value": str(max(1, int(cpus) // each))})
    secret = f"{name_of(wanted, 50)}-secrets"
    found += [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in wanted.secrets]
    return found


def _literal(value: str) -> str:
    """Return a value in which Kubernetes expands nothing: `$(NAME)` would be a variable."""
    return value.replace("$(", "$$(")


def secrets_note(wanted: Wanted) -> list[str]:
    """Return the comment that tells how to create the Secret."""
    if not wanted.secrets:
        return []
    literals = " ".join(f'--from-literal={name}="${name}"' for name in wanted.secrets)
    return [
        "# Secrets are not written into this file; create them once:",
        f"#   kubectl create secret generic {name_of(wanted, 50)}-secrets {literals}",
    ]


def resources(wanted: Wanted) -> Manifest:
    """Return the resources of one node."""
    batch = wanted.batch
    limits: Manifest = {}
    gpus = (batch.get("gpus-per-node") or batch.get("gres").replace("gpu:", "", 1)).rpartition(":")[2]
    if gpus.isdecimal() and int(gpus):
        limits["nvidia.com/gpu"] = int(gpus)
    if batch.get("cpus-per-task").isdigit():
        limits["cpu"] = int(batch.get("cpus-per-task"))
    if batch.get("mem"):
        limits["memory"] = _memory(batch.get("mem"))
    return {"limits": limits, "requests": dict(limits)} if limits else {}


def _memory(text: str) -> str:
    """Return 64Gi from Slurm's 64G; Slurm's units are powers of two, and its default is MB."""
    found = re.fullmatch(r"(\d+)([KMGT]?)[Bb]?", text.upper().removesuffix("B"))
    return f"{found[1]}{found[2] or 'M'}i" if found else text


def shell(wanted: Wanted, *groups: list[str]) -> list[Any]:
    """Return a container's command: a shell that enters the directory, runs the setup lines and becomes torchrun."""
    lines = [f"cd -- {quote(wanted.job.cwd)}", *wanted.job.setup, command(["exec", *groups[0]], *groups[1:])]
    text = "\n".join(lines)
    # Kubernetes expands $(NAME) here; the shell's own $(…) must reach it
    return ["bash", "-ec", Block(text.replace("$(", "$$("))]


def python_of(wanted: Wanted) -> str:
    """Return the interpreter in the image: the chosen one, or the first on PATH."""
    return wanted.job.python if wanted.job.python_named else "python"
