"""`--container IMAGE`: the container runtime that a host has."""

from __future__ import annotations

from muster.config import values
from muster.config.record import LAUNCHER, Options, optional, repeated
from muster.runtimes import Inside, Runtime, apptainer, docker, mount, podman

_BY = {"podman": "run by podman", "docker": "run by Docker", "apptainer": "run by Apptainer or Singularity"}
_NAMED = {**_BY, "pyxis": "options of srun, in a Slurm job with Pyxis"}


def _runtime(value: str) -> str:
    if value not in _NAMED:
        raise ValueError(f"one of {', '.join(_NAMED)}")
    return value


def _mount(value: str) -> str:
    return mount(value).text


class ContainerOptions(Options):
    """Options of `muster run` and `muster plan`."""

    container = optional(
        ("--container",),
        "run agents and ranks in a container of this image, which needs Python 3.9 or later as `python3`",
        "IMAGE",
        values.text,
        group=LAUNCHER,
    )
    container_runtime = optional(
        ("--container-runtime",),
        "container runtime to use",
        "NAME",
        _runtime,
        "the one that the host has",
        choices=_NAMED,
        group=LAUNCHER,
    )
    mount = repeated(
        ("--mount",),
        "file or directory of the host to mount into the container, `SRC[:DST[:ro]]`, in addition to the directories "
        "of the code and of runs; repeatable",
        "MOUNT",
        _mount,
        group=LAUNCHER,
    )


def enter(inside: Inside) -> str:
    """Return shell lines that enter the container with the first runtime found.

    Only Apptainer has images that are files, or addresses with a scheme; it takes those of others with one.
    """
    image, rows = inside.value, [("podman", podman.RUNTIME), ("docker", docker.RUNTIME)]
    lines = [] if _is_for_apptainer(image) else [_if(name, row.enter(inside)) for name, row in rows]
    if lines:
        inside = inside._replace(value=f"docker://{image}")
    lines += [_if(name, apptainer.RUNTIME.enter(inside)) for name in ("apptainer", "singularity")]
    none = "echo 'no container runtime found: podman, docker, apptainer, singularity' >&2; exit 94"
    return "\nel".join([*lines, f"se\n{none}\nfi"])


def _if(program: str, lines: str) -> str:
    return f"if command -v {program} >/dev/null; then\n{lines}"


def _is_for_apptainer(image: str) -> bool:
    return "://" in image or image.endswith((".sif", ".simg", ".sqsh")) or image.startswith(("/", "./"))


RUNTIME = Runtime("a container of the runtime that a host has", enter, True, ContainerOptions)
