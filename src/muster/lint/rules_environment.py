"""Rules about environment variables: those left over, missing, wrong, lost on the way, or shown to everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from muster.lint.model import Assignment, Command, Literal, Program, Span, Word
from muster.lint.rule import ERROR, NOTE, SCRIPT, WARNING, Edit, Finding, Rule
from muster.lint.scene import LAUNCHERS, TORCHRUN, Launch, Scene, number, passed, pieces

_DEBUG = {
    "TORCH_DISTRIBUTED_DEBUG": ("DETAIL",),
    "NCCL_DEBUG": ("INFO", "TRACE"),
    "CUDA_LAUNCH_BLOCKING": ("1",),
    "TORCH_SHOW_CPP_STACKTRACES": (),
    "NCCL_BLOCKING_WAIT": ("1",),
    "TORCH_NCCL_BLOCKING_WAIT": ("1",),
}
_DISABLED = {"NCCL_P2P_DISABLE": ("1",), "NCCL_IB_DISABLE": ("1",), "NCCL_SHM_DISABLE": ("1",)}
READ = re.compile(
    r"MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK|LOCAL_RANK|NCCL_\w+|GLOO_\w+|TORCH_\w+|TORCHELASTIC_\w+|OMP_NUM_THREADS|"
    r"MKL_NUM_THREADS|HF_(?:HOME|TOKEN|ENDPOINT|HUB_\w+|DATASETS_\w+)|TRANSFORMERS_\w+|WANDB_\w+|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_\w+|CUDA_LAUNCH_BLOCKING|"
    r"PYTORCH_\w+|TOKENIZERS_PARALLELISM|UCX_\w+|FI_\w+|PET_\w+|ACCELERATE_\w+|DS_ACCELERATOR"
)
"""Variables that programs read from their environment."""
_UNFILTERED = ("", "sort", "tee", "cat", "less", "column", "uniq", "xargs")


def _settings(scene: Scene, table: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str, Span]]:
    for name, value, span in scene.settings(*table):
        text = (value.text or "").strip()
        if text.upper() in table[name]:
            yield name, text, span


def debug_variable(scene: Scene) -> Iterator[Finding]:
    """Debugging variables of torch, CUDA and NCCL."""
    for name, text, span in _settings(scene, _DEBUG):
        yield Finding(span, f"{name}={text} was left over from debugging")


def transport_disabled(scene: Scene) -> Iterator[Finding]:
    """NCCL without NVLink, InfiniBand or shared memory."""
    what = {
        "NCCL_P2P_DISABLE": "NVLink and PCIe",
        "NCCL_IB_DISABLE": "InfiniBand and RoCE",
        "NCCL_SHM_DISABLE": "shared memory",
    }
    for name, text, span in _settings(scene, _DISABLED):
        yield Finding(span, f"{name}={text} turns off {what[name]}")


def environment_in_log(scene: Scene) -> Iterator[Finding]:
    """`env`, `printenv` and `set` into the log."""
    for command in scene.commands:
        last = command.programs[-1] if command.programs else None
        if last is None or not _prints_all(last, command) or command.piped_to not in _UNFILTERED:
            continue
        if any(item.target is not None and item.target.text == "/dev/null" for item in command.redirects):
            continue
        captured = command.subshell and not command.piped_to and _is_captured(scene, command)
        if captured and not _is_echoed(scene, command):
            continue
        yield Finding(command.span, f"`{last.name}` writes all variables into the log, with tokens and passwords")


def _prints_all(program: Program, command: Command) -> bool:
    words = [word.text or "" for word in program.operands]
    if program.name in ("env", "printenv"):
        return not words and not program.options
    if program.name == "set":
        return len(command.argv) == 1
    if program.name in ("export", "declare", "typeset"):
        return len(command.argv) == 1 or [word.text for word in command.argv[1:]] in (["-p"], ["-x"], ["-px"], ["-xp"])
    return False


def _is_echoed(scene: Scene, command: Command) -> bool:
    """True for `echo "$(env)"`."""
    return any(
        part.commands == (command,)
        for other in scene.commands
        if other.name in ("echo", "printf")
        for word in other.words
        for part in word.expansions
    )


def _is_captured(scene: Scene, command: Command) -> bool:
    """True inside of `$(…)`, whose output goes elsewhere."""
    return any(
        command in part.commands for other in scene.commands for word in other.words for part in word.expansions
    ) or any(
        command in part.commands
        for item in scene.assignments
        for word in (item.value, *item.items)
        if word is not None
        for part in word.expansions
    )


def omp_threads_unset(scene: Scene) -> Iterator[Finding]:
    """Several ranks per node without OMP_NUM_THREADS."""
    if scene.is_set("OMP_NUM_THREADS"):
        return
    for launch in scene.launches:
        if launch.program.name in TORCHRUN and launch.program.is_known:
            nproc = launch.nproc
            if nproc is not None and number(nproc) != 1:
                yield Finding(
                    launch.program.word.span, "OMP_NUM_THREADS is not set: torchrun gives each rank one thread"
                )
                return


def omp_threads_of_node(scene: Scene) -> Iterator[Finding]:
    """The cores of all ranks of a node as the threads of each."""
    several = [
        launch
        for launch in scene.launches
        if launch.program.name in LAUNCHERS
        and number(launch.nproc) != 1
        and (launch.nproc is not None or launch.program.name == "deepspeed")
    ]
    if not several:
        return
    own = [launch.step.option("--cpus-per-task") if launch.step is not None else None for launch in several]
    cores = {number(option.value) if option else scene.requested("--cpus-per-task") for option in own}
    steps_differ = all(own) and cores != {scene.requested("--cpus-per-task")}
    for _name, value, span in scene.settings("OMP_NUM_THREADS"):
        only = value.only
        names = (
            only is not None
            and only.kind in ("variable", "default")
            and only.name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
            # the batch shell expands it to the number of the job, and srun may have one of its own
            and not (only.name == "SLURM_CPUS_PER_TASK" and steps_differ and scene.is_batch(only.shell))
        )
        if names or ((number(value) or 1) > 1 and number(value) in cores):
            yield Finding(
                span, f"OMP_NUM_THREADS={value.shown} is for all ranks of a task, and each rank takes as many threads"
            )


def half_precision_on_cpu(scene: Scene) -> Iterator[Finding]:
    """fp16 where a script trains on the CPU."""
    on_cpu = any(value.text == "cpu" for _, value, _ in scene.settings("DS_ACCELERATOR", "ACCELERATE_USE_CPU"))
    for launch in scene.launches:
        precision = launch.program.option("--mixed-precision")
        half = precision is not None and precision.value is not None and precision.value.text == "fp16"
        if launch.program.name == "accelerate" and launch.program.has("--cpu", "--use-cpu") and half and precision:
            yield Finding(precision.span, "--mixed_precision is fp16, and training runs on the CPU")
        if launch.program.name != "deepspeed" or not on_cpu:
            continue
        for word, path in _config_of(launch):
            text = scene.text_of(path) or ""
            if re.search(r'"fp16"\s*:\s*\{[^}]*"enabled"\s*:\s*true', text):
                yield Finding(word.span, f"{path} enables fp16, and DS_ACCELERATOR is cpu")


def _config_of(launch: Launch) -> Iterator[tuple[Word, str]]:
    """The configurations of DeepSpeed among the arguments of a script."""
    operands = launch.program.operands
    for at, word in enumerate(operands):
        name, equals, _ = word.start.partition("=")
        if name in ("--deepspeed", "--deepspeed_config", "--deepspeed-config"):
            value = word.after(len(name) + 1) if equals else operands[at + 1] if at + 1 < len(operands) else None
            if value is not None and value.text and value.text.endswith(".json"):
                yield value, value.text


def cuda_visible_devices(scene: Scene) -> Iterator[Finding]:
    """CUDA_VISIBLE_DEVICES by hand where Slurm assigns GPUs."""
    if not scene.has_gpus:
        return
    for item in scene.assignments:
        text = item.value.text if item.value is not None else None
        if item.name != "CUDA_VISIBLE_DEVICES" or not text or not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
            continue
        devices = [int(device) for device in text.split(",")]
        if devices != sorted(devices) and sorted(devices) == list(range(len(devices))):
            continue  # another order of all of them, so that they are near to the cores of the ranks
        if item.temporary and any(item in command.assignments and command.background for command in scene.commands):
            continue  # several programs that share the GPUs of one job
        yield Finding(item.span, f"CUDA_VISIBLE_DEVICES={text} replaces the GPUs that Slurm has assigned")


def _used(scene: Scene) -> set[str]:
    """The variables that the script reads itself."""
    words = (word for command in scene.commands for word in (*command.words, *command.argv))
    used = {name for word in words for name in word.names}
    for item in scene.assignments:
        used |= item.names
    for script in scene.script.scripts():
        for heredoc in script.heredocs:
            used |= heredoc.body.names
    return used


def not_exported(scene: Scene) -> Iterator[Finding]:
    """Variables for programs that stay in the shell."""
    exports_all = any(
        command.name == "set"
        and any((word.text or "") in ("-a", "-o allexport", "allexport") for word in command.argv[1:])
        for command in scene.commands
    )
    if exports_all or not scene.launches:
        return
    exported = {item.name for item in scene.assignments if item.exported and not item.temporary}
    exported |= {
        word.start.partition("=")[0]
        for command in scene.commands
        for program in command.programs
        for word in passed(program)
    }
    used = _used(scene)
    if any(launch.program.name in LAUNCHERS for launch in scene.launches):
        used |= {"WORLD_SIZE", "RANK", "LOCAL_RANK"}  # which launchers set
    first: dict[str, Assignment] = {}
    for item in scene.assignments:
        if READ.fullmatch(item.name) and not item.temporary and item.value is not None and item.shell.kind != "file":
            first.setdefault(item.name, item)
    for name, item in first.items():
        if name not in exported and name not in used:
            yield Finding(
                item.span, f"{name} is not exported: no program that the script starts has it", _export(scene, item)
            )


def _export(scene: Scene, item: Assignment) -> tuple[Edit, ...]:
    return (Edit(Span(item.span.start, item.span.start), "export "),) if _begins_line(scene, item.span.start) else ()


def _begins_line(scene: Scene, at: int) -> bool:
    source = scene.script.source
    line, column = source.place(at)
    return not source.line(line)[: column - 1].strip()


def not_exported_to_shell(scene: Scene) -> Iterator[Finding]:
    """A variable that another shell reads and does not have."""
    exported = {item.name for item in scene.assignments if item.exported and not item.temporary}
    for script in scene.script.nested:
        if script.shell.kind not in ("step", "script", "batch") or not script.shell.launchers:
            continue
        last = script.shell.launchers[-1]
        if last.name != "bash" or not last.has("-c"):
            continue
        own = {item.name for item in script.assignments}
        for command in script.commands:
            for word in command.words:
                for part in word.expansions:
                    if part.shell.number != script.shell.number or part.kind not in ("variable", "default"):
                        continue
                    found = [
                        item
                        for item in scene.script.assignments
                        if item.name == part.name
                        and not item.temporary
                        and item.shell.number == scene.script.shell.number
                    ]
                    if (
                        found
                        and part.name not in exported | own
                        and part.fallback is None
                        and not _given(script.shell.launchers, part.name)
                    ):
                        yield Finding(
                            part.span,
                            f"{part.name} is empty in this shell: it is not exported",
                            _export(scene, found[0]),
                        )


def _given(launchers: tuple[Program, ...], name: str) -> bool:
    return any(word.start.partition("=")[0] == name for program in launchers for word in passed(program))


def export_without_all(scene: Scene) -> Iterator[Finding]:
    """`srun --export=NAME=value`, which drops everything else."""
    for command in scene.commands:
        srun = command.program("srun")
        option = srun.option("--export") if srun else None
        if option is None or option.value is None:
            continue
        names = [word.shown.partition("=")[0] for word in pieces(option.value, ",")]
        if names and not set(names) & {"ALL", "NIL", "NONE"} and option.value.start[:1] not in ("", "$"):
            at = option.value.parts[0]
            begin = at.at if isinstance(at, Literal) else option.value.span.start
            yield Finding(
                option.span,
                f"`--export={option.value.shown}` passes only this: PATH and all other variables are missing",
                (Edit(Span(begin, begin), "ALL,"),),
            )


_JOB = "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4\n"
_RUN = "srun python train.py\n"

RULES = (
    Rule(
        "debug-variable",
        NOTE,
        SCRIPT,
        debug_variable,
        "`NCCL_DEBUG=INFO`, `TORCH_DISTRIBUTED_DEBUG=DETAIL`, `CUDA_LAUNCH_BLOCKING=1` left over",
        "They slow training down (DETAIL checks each collective on all ranks, CUDA_LAUNCH_BLOCKING serializes "
        "kernels) or write thousands of lines.",
        "Delete the line, or set it only for a run that is examined.",
        f"{_JOB}export NCCL_DEBUG=INFO\n{_RUN}",
        f"{_JOB}export NCCL_DEBUG=WARN\n{_RUN}",
    ),
    Rule(
        "transport-disabled",
        WARNING,
        SCRIPT,
        transport_disabled,
        "`NCCL_P2P_DISABLE=1`, `NCCL_IB_DISABLE=1` or `NCCL_SHM_DISABLE=1` left over",
        "NCCL works without NVLink or InfiniBand, many times slower.",
        "Delete the line; if NCCL then fails, repair the cause (`NCCL_DEBUG=INFO` names it).",
        f"{_JOB}export NCCL_IB_DISABLE=1\n{_RUN}",
        f"{_JOB}export NCCL_IB_DISABLE=0\n{_RUN}",
    ),
    Rule(
        "environment-in-log",
        WARNING,
        SCRIPT,
        environment_in_log,
        "`env`, `printenv` or `set` into the log",
        "Logs are shared and kept. HF_TOKEN, WANDB_API_KEY and passwords are in the environment.",
        "Print what is needed: `env | grep ^SLURM_ | sort`.",
        f"{_JOB}printenv\n{_RUN}",
        f"{_JOB}printenv | grep ^SLURM_\n{_RUN}",
    ),
    Rule(
        "omp-threads-unset",
        NOTE,
        SCRIPT,
        omp_threads_unset,
        "several ranks per node by torchrun, without OMP_NUM_THREADS",
        "torchrun then sets it to 1, with a warning: data loading and operations on the CPU use one core per rank.",
        "Export OMP_NUM_THREADS: the cores of the node divided by the ranks on it.",
        "#!/bin/bash\ntorchrun --standalone --nproc-per-node=4 train.py\n",
        "#!/bin/bash\nexport OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=4 train.py\n",
    ),
    Rule(
        "omp-threads-of-node",
        WARNING,
        SCRIPT,
        omp_threads_of_node,
        "`OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK` where a task has several ranks",
        "The cores of the task are shared by its ranks. Each rank starts as many threads as there are cores for all, "
        "and they slow each other down.",
        "Divide by the number of ranks: `OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 4))`.",
        "#!/bin/bash\n#SBATCH --cpus-per-task=32\nexport OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK\ntorchrun --standalone "
        "--nproc-per-node=4 train.py\n",
        "#!/bin/bash\n#SBATCH --cpus-per-task=32\nexport OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 4))\ntorchrun "
        "--standalone --nproc-per-node=4 train.py\n",
    ),
    Rule(
        "half-precision-on-cpu",
        ERROR,
        SCRIPT,
        half_precision_on_cpu,
        "fp16 where training runs on the CPU",
        "Many operations have no fp16 on a CPU, and loss scaling requires a GPU.",
        "Use bf16 or no mixed precision on a CPU.",
        "#!/bin/bash\naccelerate launch --cpu --mixed_precision=fp16 --num_processes=1 train.py\n",
        "#!/bin/bash\naccelerate launch --cpu --mixed_precision=bf16 --num_processes=1 train.py\n",
    ),
    Rule(
        "cuda-visible-devices",
        WARNING,
        SCRIPT,
        cuda_visible_devices,
        "CUDA_VISIBLE_DEVICES set by hand beside `--gres` or `--gpus`",
        "Slurm sets it to the GPUs that it has assigned. On a shared node the numbers may be those of another job, "
        "or do not exist.",
        "Delete the line.",
        f"{_JOB}export CUDA_VISIBLE_DEVICES=0,1,2,3\n{_RUN}",
        f"{_JOB}echo $CUDA_VISIBLE_DEVICES\n{_RUN}",
    ),
    Rule(
        "not-exported",
        ERROR,
        SCRIPT,
        not_exported,
        "MASTER_ADDR, NCCL_… and other variables for programs, set without export",
        "Without export it is a variable of the shell only. The ranks do not have it.",
        "Write `export` before it.",
        f"{_JOB}NCCL_SOCKET_IFNAME=eth0\n{_RUN}",
        f"{_JOB}export NCCL_SOCKET_IFNAME=eth0\n{_RUN}",
        True,
    ),
    Rule(
        "not-exported-to-shell",
        ERROR,
        SCRIPT,
        not_exported_to_shell,
        "a variable in `bash -c '…'` that is not exported",
        "With single quotes the inner shell expands the variable, and it has only what is exported. The value is "
        "empty.",
        "Export the variable, or use double quotes so that the outer shell expands it.",
        f"{_JOB}data=/scratch/data\nsrun bash -c 'python train.py --data $data'\n",
        f'{_JOB}data=/scratch/data\nsrun bash -c "python train.py --data $data"\n',
        True,
    ),
    Rule(
        "export-without-all",
        ERROR,
        SCRIPT,
        export_without_all,
        "`srun --export=NAME=value` without ALL",
        "srun passes only what is named. PATH, conda, modules and MASTER_ADDR are missing in the tasks.",
        "Write `--export=ALL,NAME=value`.",
        f"{_JOB}srun --export=NCCL_DEBUG=WARN python train.py\n",
        f"{_JOB}srun --export=ALL,NCCL_DEBUG=WARN python train.py\n",
        True,
    ),
)
