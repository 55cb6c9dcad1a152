"""Rules about the number of nodes and ranks, and about which process is which rank."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.model import Span, Word
from muster.lint.rule import ERROR, SCRIPT, Finding, Rule
from muster.lint.scene import LAUNCHERS, TORCHRUN, Launch, Scene, number

_OF_TASK = ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID")
_OF_NODES = frozenset({"SLURM_NNODES", "SLURM_JOB_NUM_NODES"})
_PER_NODE = re.compile(
    r"(N|NUM_)?(GPUS?|PROC(ESSE)?S|PROCS?|RANKS)_PER_(NODE|MACHINE)|NPROC_PER_NODE|SLURM_GPUS_(ON|PER)_NODE"
)
_HARMLESS = ("echo", "printf", ":", "[", "[[", "test")


def task_variable_in_batch(scene: Scene) -> Iterator[Finding]:
    """SLURM_PROCID and the like, expanded once in the batch script."""
    one_task = scene.is_one_node and (scene.requested("--ntasks", "--ntasks-per-node") or 1) == 1
    names = {"SLURM_NODEID"} if scene.is_one_node else set()
    seen: set[Span] = set()
    for part, command in scene.uses(scene.is_batch):
        wrong = set(part.names) & set(_OF_TASK) - names
        if part.kind == "command" or not wrong or part.span in seen:
            continue
        if one_task or (command is not None and command.name in _HARMLESS):
            continue
        seen.add(part.span)
        yield Finding(part.span, f"{sorted(wrong)[0]} is expanded by the batch shell, where it is always 0")


def unexpanded_variable(scene: Scene) -> Iterator[Finding]:
    """`\\$SLURM_PROCID` that no shell expands."""
    for launch in scene.launches:
        for word in launch.program.operands[1:]:
            match = re.search(r"\$\{?SLURM_(PROCID|NODEID|LOCALID)\}?", word.text or "")
            if match and not launch.program.has("-m"):
                yield Finding(word.span, f"`{match[0]}` is passed to the script as it is: no shell expands it")
        for option in launch.program.options:
            match = (
                re.search(r"\$\{?(SLURM_\w+|MASTER_\w+|HOSTNAME|\w*RANK)\}?", option.value.text or "")
                if option.value
                else None
            )
            is_name = option.name in ("--rdzv-id", "--role", "--log-dir")  # any text will do
            if match and launch.program.name in LAUNCHERS and option.value is not None and not is_name:
                yield Finding(
                    option.span, f"`{match[0]}` is passed to {launch.program.name} as it is: no shell expands it"
                )


def launcher_per_task(scene: Scene) -> Iterator[Finding]:
    """A launcher that srun or mpirun starts several times on each node."""
    for launch in scene.launches:
        name, step = launch.program.name, launch.step
        if name not in LAUNCHERS or step is None:
            continue
        tasks = scene.tasks_per_node(step)
        local = launch.nproc if name != "accelerate" else launch.program.value("--num-processes")
        ranks = 1 if local is None and name in TORCHRUN and launch.program.is_known else number(local)
        if tasks is not None and tasks > 1 and ranks != 1:
            each = f"{ranks} ranks" if ranks else "all ranks of the node"
            yield Finding(
                scene.place_of(launch), f"{step.name} starts {name} {tasks} times on each node, each with {each}"
            )
        elif tasks is None and _is_for_one_node(scene, launch):
            total = number(step.value("--ntasks")) or scene.requested("--ntasks") or 1
            if total > 1 and ranks != 1 and step.name == "srun":
                yield Finding(scene.place_of(launch), f"srun starts {name} {total} times, each with ranks of its own")
        elif name == "deepspeed" and tasks in (None, 1) and not launch.program.has("--no-ssh", "--no-ssh-check"):
            nodes = scene.nodes_of(launch)
            if step.name == "srun" and nodes is not None and nodes > 1 and not launch.program.has("--node-rank"):
                yield Finding(
                    scene.place_of(launch),
                    f"each of {nodes} tasks starts deepspeed, which starts the ranks of all nodes",
                )


def _is_for_one_node(scene: Scene, launch: Launch) -> bool:
    """True for `torchrun --standalone` or `--nnodes=1` in a job that does not say how many nodes it has."""
    nodes = launch.program.value("--nnodes")
    alone = number(nodes) == 1 or (
        nodes is None and launch.program.is_known and not launch.program.has("--rdzv-endpoint")
    )
    return launch.program.name in TORCHRUN and alone and scene.nodes is None


def launcher_on_one_node(scene: Scene) -> Iterator[Finding]:
    """A job of several nodes that starts its ranks on the first only."""
    if not scene.script.is_batch:
        return
    spread = any(launch.step or launch.command.shell.kind in ("remote", "file") for launch in scene.launches)
    others = any(
        command.program("srun", "ssh", "pdsh", "clush", "mpirun", "ray") and scene.is_spread(command)
        for command in scene.commands
    )
    if spread or others:
        return
    for launch in scene.launches:
        if launch.program.name == "deepspeed" or not launch.command.shell.is_batch:
            continue
        nodes, tasks = scene.nodes or 1, scene.requested("--ntasks-per-node") or 1
        total = max(scene.requested("--ntasks") or 1, nodes * tasks)
        if nodes > 1 or (launch.program.name == "python" and total > 1):
            what = f"{nodes} nodes" if nodes > 1 else f"{total} tasks"
            yield Finding(
                scene.place_of(launch), f"the job has {what}, and {launch.program.name} runs once, on the first node"
            )


def nodes_disagree(scene: Scene) -> Iterator[Finding]:
    """--nodes of Slurm and --nnodes or --num_machines of a launcher that differ."""
    for launch in scene.launches:
        if launch.program.name not in LAUNCHERS:
            continue
        value = launch.program.value("--nnodes", "--num-machines", "--num-nodes")
        nodes = scene.nodes_of(launch) if launch.program.name != "deepspeed" else scene.nodes
        option = launch.program.option("--nnodes", "--num-machines", "--num-nodes")
        if nodes is None or (launch.step is not None and launch.step.name == "mpirun"):
            continue
        if option is None or value is None:
            if nodes > 1 and _is_alone(scene, launch):
                yield Finding(
                    scene.place_of(launch),
                    f"srun starts it on {nodes} nodes, and without --nnodes each node has a job of its own",
                )
            continue
        least, most = _range(value)
        if least is not None and most is not None and not least <= nodes <= most:
            yield Finding(
                option.span, f"{option.name} is {value.text}, and the job has {nodes} node{'s' * (nodes != 1)} here"
            )
    for command in scene.commands:
        srun = command.program("srun")
        wide = number(srun.value("--nodes")) if srun else None
        if srun and wide and scene.nodes and wide > scene.nodes and command.shell.is_batch:
            option = srun.option("--nodes")
            assert option is not None
            yield Finding(option.span, f"srun wants {wide} nodes of a job that has {scene.nodes}")


def _is_alone(scene: Scene, launch: Launch) -> bool:
    """True if srun starts a torchrun without any number of nodes."""
    step = launch.step
    if step is None or step.has("--nodelist") or launch.command.loop or launch.program.name not in TORCHRUN:
        return False
    return launch.program.is_known and not scene.is_set("PET_NNODES")


def _range(value: Word) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", value.text or "")
    return (int(match[1]), int(match[2] or match[1])) if match else (None, None)


def is_multi_node(scene: Scene, value: Word | None) -> bool:
    """True if a number of nodes is certainly more than one."""
    count = number(value)
    if count is not None:
        return count > 1
    return bool(value is not None and value.names & _OF_NODES and (scene.nodes or 0) > 1)


def accelerate_processes_per_node(scene: Scene) -> Iterator[Finding]:
    """--num_processes of accelerate with the number of one node."""
    for launch in scene.launches:
        option = launch.program.option("--num-processes")
        machines = launch.program.value("--num-machines")
        if launch.program.name != "accelerate" or option is None or option.value is None:
            continue
        if not is_multi_node(scene, machines):
            continue
        count, nodes = number(option.value), number(machines) or scene.nodes
        if count is not None and nodes:
            per_node = scene.gpus_per_node
            if count % nodes:
                yield Finding(option.span, f"--num_processes is {count}, which {nodes} machines cannot share evenly")
            elif per_node and count == per_node and nodes > 1:
                yield Finding(
                    option.span,
                    f"--num_processes is {count}, the GPUs of one node; it counts all {count * nodes} ranks",
                )
        elif count is None and _is_per_node(option.value):
            yield Finding(
                option.span, f"--num_processes is `{option.value.shown}`, of one node; it counts the ranks of all"
            )


def _is_per_node(value: Word) -> bool:
    only = value.only
    return only is not None and only.kind in ("variable", "default") and bool(_PER_NODE.fullmatch(only.name))


def nproc_counts_all_nodes(scene: Scene) -> Iterator[Finding]:
    """--nproc-per-node with the number of ranks of all nodes."""
    for launch in scene.launches:
        option = launch.program.option("--nproc-per-node")
        nodes = number(launch.program.value("--nnodes")) or scene.nodes
        if option is None or option.value is None or not nodes or nodes < 2:
            continue
        count, gpus, names = number(option.value), scene.gpus_per_node, option.value.names
        if count is not None and gpus and count == gpus * nodes:
            yield Finding(
                option.span, f"--nproc-per-node is {count}, the ranks of all {nodes} nodes; each node has {gpus} GPUs"
            )
        elif count is None and names & {"WORLD_SIZE", "SLURM_NTASKS", *_OF_NODES}:
            text = option.value.shown
            if "/" not in text:
                yield Finding(option.span, f"--nproc-per-node is `{text}`, which counts all {nodes} nodes")


def _visible(launch: Launch) -> int | None:
    """Return how many GPUs CUDA_VISIBLE_DEVICES before the command names; None without one that is known."""
    own = [item.value for item in launch.command.assignments if item.name == "CUDA_VISIBLE_DEVICES"]
    text = own[-1].text if own and own[-1] is not None else None
    return text.count(",") + 1 if text and re.fullmatch(r"[0-9]+(,[0-9]+)*", text) else None


def more_ranks_than_gpus(scene: Scene) -> Iterator[Finding]:
    """More ranks on a node than GPUs that were requested for it."""
    for launch in scene.launches:
        option = launch.program.option("--nproc-per-node", "--num-gpus")
        count, gpus = number(option.value) if option else None, scene.gpus_per_node
        visible = _visible(launch)
        if option and count and visible and count > visible:
            seen = f"{visible} GPU{'s' * (visible != 1)}"
            yield Finding(option.span, f"{count} ranks on each node, and CUDA_VISIBLE_DEVICES names {seen}")
            continue
        nodes = number(launch.program.value("--nnodes")) or scene.nodes or 1
        if launch.program.name == "accelerate":
            option = launch.program.option("--num-processes")
            machines = number(launch.program.value("--num-machines")) or scene.nodes or 1
            total = number(option.value) if option else None
            if option and total and gpus and machines == 1 and total > gpus:
                yield Finding(option.span, f"{total} ranks, and the job has {gpus} GPU{'s' * (gpus != 1)}")
        elif option and count and gpus and count > gpus and not (nodes > 1 and count == gpus * nodes):
            yield Finding(
                option.span, f"{count} ranks on each node, and the job has {gpus} GPU{'s' * (gpus != 1)} there"
            )


def node_rank_missing(scene: Scene) -> Iterator[Finding]:
    """Static rendezvous of several nodes without the number of the node."""
    for launch in scene.launches:
        program = launch.program
        if program.name not in (*TORCHRUN, "accelerate") or not program.is_known:
            continue
        if not is_multi_node(scene, program.value("--nnodes", "--num-machines")):
            continue
        backend = program.value("--rdzv-backend")
        static = backend is None or backend.text == "static"
        option = "--machine_rank" if program.name == "accelerate" else "--node-rank"
        if program.name == "accelerate" and program.has("--config-file"):
            continue
        named = program.has("--node-rank", "--machine-rank", "--standalone")
        if static and not named and not scene.is_set("PET_NODE_RANK") and not scene.is_set("PET_RDZV_BACKEND"):
            yield Finding(scene.place_of(launch), f"without {option} and --rdzv-backend=c10d each node is node 0")


def _is_sent_to_each_host(launch: Launch) -> bool:
    """True for a launcher of several nodes that a loop starts over ssh, with the same number each time."""
    option = launch.program.option("--node-rank", "--machine-rank")
    several = number(launch.program.value("--nnodes", "--num-machines"))
    in_loop = any(block.kind in ("for", "while", "until") for block in launch.command.blocks)
    constant = option is not None and number(option.value) is not None
    return constant and in_loop and launch.command.shell.kind == "remote" and several is not None and several > 1


def node_rank_constant(scene: Scene) -> Iterator[Finding]:
    """The same number for all nodes."""
    for launch in scene.launches:
        option = launch.program.option("--node-rank", "--machine-rank")
        nodes, step = scene.nodes_of(launch), launch.step
        if option is not None and _is_sent_to_each_host(launch):
            yield Finding(option.span, f"each host of the loop gets the rank {number(option.value)}")
        if option is None or step is None or step.name != "srun" or step.has("--nodelist") or launch.command.loop:
            continue
        if number(option.value) is not None and nodes is not None and nodes > 1 and launch.program.name in LAUNCHERS:
            yield Finding(option.span, f"srun starts {nodes} launchers, and all have the rank {number(option.value)}")


_JOB = (
    "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=4\nexport OMP_NUM_THREADS=8\n"
)
_HOST = 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'
_C10D = '--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))"'
_STATIC = '--master-addr="$head" --master-port=$((20000 + SLURM_JOB_ID % 10000))'
_ACCELERATE = '--main_process_ip="$head" --main_process_port=$((20000 + SLURM_JOB_ID % 10000))'

RULES = (
    Rule(
        "task-variable-in-batch",
        ERROR,
        SCRIPT,
        task_variable_in_batch,
        "`$SLURM_NODEID`, `$SLURM_PROCID` or `$SLURM_LOCALID` expanded in the batch script, where it is 0",
        "The batch script runs once, on the first node, and expands the variable before srun starts the tasks: all "
        "get 0. The job hangs in the rendezvous, or all ranks take the same GPU.",
        "Let each task expand it: `srun bash -c 'torchrun --node-rank=$SLURM_NODEID …'`, with single quotes; or use "
        "`--rdzv-backend=c10d`, which needs no number.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} --node-rank=$SLURM_NODEID train.py\n",
        f"{_JOB}{_HOST}export head\nsrun bash -c 'torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} "
        f"--node-rank=$SLURM_NODEID train.py'\n",
    ),
    Rule(
        "unexpanded-variable",
        ERROR,
        SCRIPT,
        unexpanded_variable,
        "an escaped or single-quoted `$SLURM_…` that reaches a launcher without a shell",
        "srun starts the program directly. Only a shell turns `$SLURM_NODEID` into a number.",
        "Put a shell between them: `srun bash -c '…'`.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} --node-rank=\\$SLURM_NODEID train.py\n",
        f'{_JOB}{_HOST}srun bash -c "torchrun --nnodes=2 --nproc-per-node=4 --master-addr=$head '
        f'--master-port=$((20000 + SLURM_JOB_ID % 10000)) --node-rank=\\$SLURM_NODEID train.py"\n',
    ),
    Rule(
        "launcher-per-task",
        ERROR,
        SCRIPT,
        launcher_per_task,
        "torchrun, accelerate or deepspeed started once per task, with several tasks per node",
        "Each task is a launcher that starts the ranks of a whole node (deepspeed: of all nodes). There are more "
        "ranks than GPUs, and ports collide.",
        "Set `--ntasks-per-node=1` for a launcher, or start `python` directly with one task per rank. Start "
        "deepspeed once, outside of srun, or with `--no_ssh` and `--node_rank`.",
        f"{_JOB.replace('node=1', 'node=4', 1)}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_C10D} train.py\n",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_C10D} train.py\n",
    ),
    Rule(
        "launcher-on-one-node",
        ERROR,
        SCRIPT,
        launcher_on_one_node,
        "a job of several nodes or tasks that starts its ranks without srun",
        "Without srun, ssh or mpirun a command runs once, on the first node. A launcher there waits for the other "
        "nodes until it times out; python trains with one rank.",
        "Write `srun` before the command.",
        f"{_JOB}{_HOST}torchrun --nnodes=2 --nproc-per-node=4 {_C10D} train.py\n",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_C10D} train.py\n",
    ),
    Rule(
        "nodes-disagree",
        ERROR,
        SCRIPT,
        nodes_disagree,
        "`--nodes`, `--nnodes` and `--num_machines` that disagree",
        "With too few nodes the rendezvous waits until it times out; nodes that are too many are turned away or "
        "train on their own.",
        "Take the number from Slurm: `--nnodes=$SLURM_NNODES`.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=4 --nproc-per-node=4 {_C10D} train.py\n",
        f"{_JOB}{_HOST}srun torchrun --nnodes=$SLURM_NNODES --nproc-per-node=4 {_C10D} train.py\n",
    ),
    Rule(
        "accelerate-processes-per-node",
        ERROR,
        SCRIPT,
        accelerate_processes_per_node,
        "`--num_processes` of accelerate with the number of one node",
        "`--num_processes` counts the ranks of all machines; accelerate divides it by `--num_machines`. GPUs stay "
        "idle.",
        "Multiply: `--num_processes=$((SLURM_NNODES * 4))`.",
        f"{_JOB}{_HOST}export head\nsrun bash -c 'accelerate launch --num_machines=2 --num_processes=4 "
        f"--machine_rank=$SLURM_NODEID {_ACCELERATE} train.py'\n",
        f"{_JOB}{_HOST}export head\nsrun bash -c 'accelerate launch --num_machines=2 --num_processes=8 "
        f"--machine_rank=$SLURM_NODEID {_ACCELERATE} train.py'\n",
    ),
    Rule(
        "nproc-counts-all-nodes",
        ERROR,
        SCRIPT,
        nproc_counts_all_nodes,
        "`--nproc-per-node` with the number of ranks of all nodes",
        "torchrun starts that many ranks on each node: several share a GPU, or `invalid device ordinal` ends them.",
        "Give the number of GPUs of one node: `--nproc-per-node=4`, or `gpu`.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=8 {_C10D} train.py\n",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=gpu {_C10D} train.py\n",
    ),
    Rule(
        "more-ranks-than-gpus",
        ERROR,
        SCRIPT,
        more_ranks_than_gpus,
        "more ranks on a node than GPUs requested for it",
        "Ranks share a GPU, which NCCL rejects (`Duplicate GPU detected`), or `invalid device ordinal` ends them.",
        "Request as many GPUs as there are ranks, or use `--nproc-per-node=gpu`.",
        "#!/bin/bash\n#SBATCH --gres=gpu:4\nexport OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=8 "
        "train.py\n",
        "#!/bin/bash\n#SBATCH --gres=gpu:a100:8\nexport OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=8 "
        "train.py\n",
    ),
    Rule(
        "node-rank-missing",
        ERROR,
        SCRIPT,
        node_rank_missing,
        "several nodes without `--node-rank` and without `--rdzv-backend=c10d`",
        "The default rendezvous is static: node numbers are not negotiated, and the default number is 0. All nodes "
        "claim the same ranks, and the job hangs. `--rdzv-endpoint` alone does not change the backend.",
        "Add `--rdzv-backend=c10d`, or give each node its number.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} train.py\n",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_C10D} train.py\n",
    ),
    Rule(
        "node-rank-constant",
        ERROR,
        SCRIPT,
        node_rank_constant,
        "the same `--node-rank` on all nodes",
        "srun or a loop over hosts starts the same command on each node, so that all have this number. The job hangs.",
        "Let each task expand it: `srun bash -c 'torchrun --node-rank=$SLURM_NODEID …'`; or count in the loop.",
        f"{_JOB}{_HOST}srun torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} --node-rank=0 train.py\n",
        f"{_JOB}{_HOST}for i in 0 1; do srun -N1 -n1 --relative=$i torchrun --nnodes=2 --nproc-per-node=4 {_STATIC} "
        f"--node-rank=$i train.py & done\nwait\n",
    ),
)
