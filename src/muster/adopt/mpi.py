"""How mpirun is told about ranks, in the terms of muster. Pure."""

from __future__ import annotations

import re

from muster.adopt.adoption import Launch, ranks_on
from muster.adopt.launcher import MEETING, Place, Read, dropped, unread
from muster.adopt.values import SECRET, Scope, number, passed_on, text
from muster.lint.model import Program, Word


def _of_mpirun(word: str) -> list[str]:
    """Return an option of one letter as mpirun knows it: `-d 8`, and not `--d=8`."""
    short = re.fullmatch(r"-(-\w)(?:=(.*))?", word)
    return [piece for piece in short.groups() if piece is not None] if short else [word]


def mpirun(program: Program, launch: Launch, place: Place) -> Read:
    """Read mpirun, of Open MPI or MPICH."""
    scope = place.scope
    total = number(program.value("--np", "-np", "--n", "-n"), scope)
    env: list[tuple[str, str]] = list(launch.env)
    changed = []
    for option in program.options:
        if option.name in ("--x", "-x", "--genv", "--env") and option.value is not None:
            name, value = passed_on(option.value, scope)
            if name == "PATH":
                changed.append("-x PATH: not taken over; ranks have the PATH of their node, and the Python of --python")
            if name in (*MEETING, "PATH"):
                continue
            if value == SECRET and name in dict(env):
                continue  # the script has set it
            if value is None:
                changed.append(f"{option.value.shown}: its value is known only to the shell that starts it: add --env")
            else:
                env = [*((key, old) for key, old in env if key != name), (name, value)]
    hosts = tuple(item for item in text(program.value("--hosts", "--host"), scope).split(",") if item)
    each = number(program.value("--npernode", "--N", "--ppn"), scope)
    ppr = re.fullmatch(r"ppr:(\d+):node", text(program.value("--map-by"), scope))
    each = int(ppr[1]) if ppr else each
    slots = [host for host in hosts if ":" in host]
    if hosts and not slots and each is None:
        # without a number a name is one slot; named twice, two
        hosts = tuple(f"{host}:{hosts.count(host)}" for host in dict.fromkeys(hosts))
    read: tuple[str, ...] = (
        "--np",
        "-np",
        "--n",
        "-n",
        "--x",
        "-x",
        "--genv",
        "--env",
        "--hosts",
        "--host",
        "--hostfile",
        "--machinefile",
    )
    read = (*read, "--npernode", "--N", "--ppn", "--map-by", "--bind-to", "--wdir", "--output-filename", "--tag-output")
    read = (
        *read,
        "--allow-run-as-root",
        "--genvall",
        "--genvlist",
        "--oversubscribe",
        "--report-bindings",
        "--rank-by",
    )
    listed = text(program.value("--genvlist"), scope)
    env += [(name, SECRET) for name in listed.split(",") if name and name not in (*MEETING, *dict(env))]
    left = ("--rank-by", *(() if text(program.value("--bind-to"), scope) == "none" else ("--bind-to",)))
    changed += dropped(program, left, scope)
    if program.has("--output-filename"):
        changed.append("--output-filename: muster always writes the output of each rank to files of its own")
    if program.has("--map-by") and not ppr and text(program.value("--map-by"), scope) not in ("slot", ":OVERSUBSCRIBE"):
        changed.append(f"--map-by {text(program.value('--map-by'), scope)}: muster fills one host after the other")
    found = launch._replace(
        launcher="mpirun",
        launcher_args=tuple(piece for word in unread(program, read) for piece in _of_mpirun(word)),
        env=tuple(env),
        hosts=hosts,
        hostfile=text(program.value("--hostfile", "--machinefile"), scope),
        total=total if each is None or not hosts else None,
        each=str(each) if each else "",
        cwd=_directory(program.value("--wdir"), scope) or launch.cwd,
        port=next((item[12:] for item in _texts(program, scope) if item.startswith("MASTER_PORT=")), launch.port),
    )
    if place.request:
        nodes = place.request.node_count
        per = each or place.request.tasks_per_node
        found = found._replace(
            nodes=nodes, total=None if per else total or place.request.task_count, each=str(per or "")
        )
    if total is not None and total == sum(map(ranks_on, hosts)):
        found = found._replace(total=None)
    return Read(found, program.operands, tuple(changed))


def _texts(program: Program, scope: Scope) -> list[str]:
    given = [text(option.value, scope) for option in program.options if option.value is not None]
    return [re.sub(r"^(\w+) ", r"\1=", value) for value in given]  # `-genv NAME VALUE`


def _directory(word: Word | None, scope: Scope) -> str:
    found = text(word, scope)
    return "" if found in ("", "$PWD", "$(pwd)", "`pwd`", ".", "$SLURM_SUBMIT_DIR", "${SLURM_SUBMIT_DIR}") else found
