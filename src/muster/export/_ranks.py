"""How a rank learns its number from srun, Open MPI or MPICH, in the names that torch reads."""

from __future__ import annotations

_NAMES = {
    "srun": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpich": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS"),
}


def rank_lines(starter: str, uniform: bool) -> list[str]:
    """Return the lines of a script that becomes its arguments, with torch's variables set; `uniform`: all nodes have
    the same number of ranks."""
    rank, local, world, here = _NAMES[starter]
    lines = [
        f"export RANK=${rank} WORLD_SIZE=${world} LOCAL_RANK=${local} LOCAL_WORLD_SIZE=${here}",
        *(["export GROUP_RANK=$((RANK / LOCAL_WORLD_SIZE))"] if uniform else []),
        'exec "$@"',
    ]
    return lines
