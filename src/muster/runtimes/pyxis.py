"""Pyxis, a plugin of Slurm for containers of enroot: options of srun. By its manual; not tried."""

from __future__ import annotations

from muster.runtimes import Inside, Mount, Runtime


def task_options(inside: Inside) -> tuple[str, ...]:
    """Return the options of srun. GPUs come by enroot's own hook."""
    runs = [Mount(inside.runs, inside.runs)] if inside.runs else []
    mounts = ",".join(mount.text for mount in (*inside.mounts, *runs))
    return (f"--container-image={inside.value}", f"--container-mounts={mounts}", "--no-container-entrypoint")


RUNTIME = Runtime(
    "a container of enroot in a Slurm job, by Pyxis",
    lambda inside: "",
    has_image=True,
    task_options=task_options,
    task_option="--container-image",
    scheduler="slurm",
)
