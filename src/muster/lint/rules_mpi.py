"""Rules about mpirun."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.model import Program
from muster.lint.rule import ERROR, SCRIPT, WARNING, Finding, Rule
from muster.lint.rules_environment import READ
from muster.lint.scene import Scene, passed


def mpirun_export(scene: Scene) -> Iterator[Finding]:
    """Variables that Open MPI does not pass on to other hosts."""
    for command in scene.commands:
        mpirun = command.program("mpirun")
        if mpirun is None or not mpirun.is_known or not scene.starts_training(command):
            continue
        if not mpirun.has("--hosts", "--hostfile") or not is_open_mpi(scene, mpirun) or _one_host(mpirun):
            continue
        given = {word.start.partition("=")[0] for word in passed(mpirun)}
        for item in scene.assignments:
            earlier = item.span.start < command.span.start and item.exported and not item.temporary
            if earlier and READ.fullmatch(item.name) and item.name not in given and item.shell == command.shell:
                given.add(item.name)
                yield Finding(
                    mpirun.word.span, f"{item.name} is set here and not on the other hosts: `-x {item.name}` is missing"
                )


def _one_host(mpirun: Program) -> bool:
    hosts = mpirun.value("--hosts")
    return hosts is not None and hosts.text is not None and "," not in hosts.text


def is_open_mpi(scene: Scene, mpirun: Program) -> bool:
    """True if the options or the modules are not those of MPICH, Intel MPI or MVAPICH."""
    if mpirun.has(
        "--genv", "--genvall", "--genvlist", "--envall", "--envlist", "--env", "--iface", "--launcher", "--rmk"
    ):
        return False
    written = mpirun.word.shown
    if "hydra" in written or any(
        option.name == "--hostfile" and scene.script.source.text[option.span.start : option.span.start + 3] == "-f "
        for option in mpirun.options
    ):
        return False
    modules = " ".join(
        word.shown
        for command in scene.commands
        if command.name in ("module", "ml", "source", ".")
        for word in command.argv
    )
    return not re.search(r"mpich|impi|intel-?mpi|intel-oneapi-mpi|mvapich|oneapi", modules, re.IGNORECASE)


def mpirun_binding(scene: Scene) -> Iterator[Finding]:
    """Open MPI, which binds each rank to one core or a few."""
    if scene.is_set("OMPI_MCA_hwloc_base_binding_policy") and not scene.has_unknown_source:
        return
    if any(
        item.name in ("PRTE_MCA_hwloc_default_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy")
        for item in scene.assignments
    ):
        return
    for command in scene.commands:
        mpirun = command.program("mpirun")
        if (
            mpirun is None
            or not mpirun.is_known
            or not scene.starts_training(command)
            or not is_open_mpi(scene, mpirun)
        ):
            continue
        if mpirun.word.shown.rpartition("/")[2] != "mpirun" and not mpirun.has(
            "--x", "--mca", "--hostfile", "--map-by"
        ):
            continue
        mapped = mpirun.value("--map-by")
        mca = any(
            option.name == "--mca" and option.value and "binding" in option.value.shown for option in mpirun.options
        )
        to_core = mpirun.option("--bind-to-core", "--bind-to")
        if to_core is not None and to_core.value is not None and to_core.value.text not in ("core", "hwthread"):
            to_core = None
        if not mca and to_core is None and mpirun.has("--bind-to"):
            continue
        several = mpirun.has("--cpus-per-rank", "--cpus-per-proc", "--rankfile", "--cpu-set", "--cpu-list")
        if to_core is not None and several:
            continue
        if (
            mpirun.has(
                "--bind-to-none",
                "--bind-to-socket",
                "--rankfile",
                "--cpu-set",
                "--cpu-list",
            )
            or mca
        ):
            continue
        if mapped is not None and re.search(r"PE=", mapped.shown, re.IGNORECASE):
            continue
        if to_core is not None:
            yield Finding(to_core.span, "each rank and its threads share one core: `--bind-to none` is missing")
            continue
        yield Finding(mpirun.word.span, "mpirun binds ranks to single cores or NUMA nodes: `--bind-to none` is missing")


_MPI = "#!/bin/bash\nexport HF_HOME=/scratch/hf\nmpirun -np 8 -H n1:4,n2:4 -bind-to none"

RULES = (
    Rule(
        "mpirun-export",
        ERROR,
        SCRIPT,
        mpirun_export,
        "an exported variable that Open MPI does not pass to other hosts",
        "Open MPI starts ranks on other hosts over ssh, with the environment of a login there. Only variables named "
        "with `-x` go along.",
        "Add `-x NAME` for each.",
        f"{_MPI} python train.py\n",
        f"{_MPI} -x HF_HOME python train.py\n",
    ),
    Rule(
        "mpirun-binding",
        WARNING,
        SCRIPT,
        mpirun_binding,
        "mpirun of Open MPI without `--bind-to none`",
        "Open MPI binds each rank to one core (up to two ranks) or a NUMA node. Data loaders and threads of a rank "
        "share that core.",
        "Add `--bind-to none`, or `--map-by slot:PE=8` for eight cores per rank.",
        "#!/bin/bash\nmpirun -np 8 python train.py\n",
        "#!/bin/bash\nmpirun -np 8 --bind-to none python train.py\n",
    ),
)
