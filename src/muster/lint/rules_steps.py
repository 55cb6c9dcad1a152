"""Rules about signals, background jobs, and what srun passes to its tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.model import Command, Option, Program, Script, Span, Word
from muster.lint.rule import ERROR, SCRIPT, WARNING, Edit, Finding, Rule
from muster.lint.rules_sbatch import batch_scripts
from muster.lint.scene import Launch, Scene, number

_NUMBERS = {"1": "HUP", "2": "INT", "3": "QUIT", "10": "USR1", "12": "USR2", "14": "ALRM", "15": "TERM", "18": "CONT"}
_QUICK = frozenset(
    [
        "echo",
        "printf",
        "hostname",
        "date",
        "nvidia-smi",
        "mkdir",
        "rm",
        "cp",
        "mv",
        "ls",
        "cat",
        "cd",
        "ip",
        "free",
        "df",
        "rsync",
        "tar",
        "module",
        "export",
        "source",
        ".",
        "conda",
        "sleep",
        "env",
        "printenv",
        "true",
        ":",
        "trap",
        "wait",
        "scontrol",
        "squeue",
        "set",
        "ulimit",
        "head",
        "awk",
        "sed",
        "grep",
        "touch",
        "chmod",
        "kill",
        "pwd",
        "which",
        "uname",
    ]
)


_BY_LOCAL_RANK = re.compile(
    r"set_device\([^)]*(local_?rank|LOCAL_RANK|SLURM_LOCALID)|cuda:\{[^}]*local_rank|device_ids=\[\w*\.?local_rank"
)


def _signal(text: str) -> str:
    name = text.upper()
    name = name[3:] if name.startswith("SIG") else name
    return _NUMBERS.get(name, name)


def _traps(script: Script) -> Iterator[tuple[Command, set[str]]]:
    """The traps of a shell with their signals, without those that reset or ignore."""
    for command in script.commands:
        words = [word for word in command.argv[1:] if word.text != "--"]
        if command.name == "trap" and len(words) > 1 and (words[0].text or "x") not in ("", "-", "-l", "-p"):
            yield command, {_signal(word.text or "") for word in words[1:]}


def _is_long(scene: Scene, command: Command) -> bool:
    """True if a command runs as long as the job: a launcher, a script, srun."""
    if scene.starts_training(command):
        return True
    last = command.programs[-1].name if command.programs else ""
    if command.program("srun", "mpirun") is not None:
        if last == "bash":
            return not command.programs[-1].has("-c") or scene.starts_training(command)
        return last not in _QUICK
    return False


def signal_not_trapped(scene: Scene) -> Iterator[Finding]:
    """`--signal` without `B:` where the batch shell has the trap, and with it where the ranks need it."""
    for script in batch_scripts(scene):
        option = script.directive("--signal")
        text = option.value.text if option and option.value else None
        match = re.fullmatch(r"(?:([BR]+):)?([A-Za-z0-9]+)(?:@\d+)?", text or "")
        if option is None or match is None:
            continue
        name, to_shell = _signal(match[2]), "B" in (match[1] or "")
        trapped = any(name in signals for _, signals in _traps(script))
        steps = any(command.program("srun", "mpirun") and _is_long(scene, command) for command in script.commands)
        forwards = any(
            command.name in ("scancel", "kill") or (command.name == "exec" and _is_long(scene, command))
            for command in script.everything()
        )
        if trapped and not to_shell and not _trapped_inside(script, name):
            yield Finding(option.span, f"SIG{name} goes to the tasks of srun only; the trap of this script needs `B:`")
        elif to_shell and not trapped and steps and not forwards:
            yield Finding(
                option.span, f"`B:` sends SIG{name} to the batch shell only, which has no trap for it and dies"
            )


def _trapped_inside(script: Script, name: str) -> bool:
    return any(name in signals for inner in script.nested for _, signals in _traps(inner))


def trap_without_wait(scene: Scene) -> Iterator[Finding]:
    """A trap that bash runs only when the foreground command has ended."""
    for script in batch_scripts(scene):
        if any(command.name == "wait" for command in script.commands):
            continue
        option = script.directive("--signal")
        asked = re.sub(r".*:|@.*", "", option.value.text or "") if option and option.value else ""
        for trap, signals in _traps(script):
            real = signals & ({"USR1", "USR2", "TERM", "ALRM", "CONT"} | ({_signal(asked)} if asked else set()))
            if not real or "EXIT" in signals or "0" in signals:
                continue
            foreground = [
                command
                for command in script.commands
                if not command.background
                and not command.subshell
                and command.span.start > trap.span.start
                and _is_long(scene, command)
            ]
            if foreground and not any(command.background and _is_long(scene, command) for command in script.commands):
                line = scene.script.source.place(foreground[0].span.start)[0]
                yield Finding(
                    trap.span,
                    f"bash runs the trap for SIG{sorted(real)[0]} only when the command of line {line} has ended",
                )


def background_without_wait(scene: Scene) -> Iterator[Finding]:
    """A step in the background of a batch script that ends."""
    for script in batch_scripts(scene):
        started = [command for command in script.commands if command.background and _is_long(scene, command)]
        started = [command for command in started if command.shell.number == script.shell.number]
        if not started:
            continue
        last = started[-1]
        after = [command for command in script.commands if command.span.start > last.span.start]
        waits = any(
            command.name in ("wait", "tail", "while", "fg")
            or (command.name == "sleep" and not _is_short(command))
            or (not command.background and _is_long(scene, command))
            for command in after
        )
        loops = any(command.loop in ("while", "until") and not command.background for command in after)
        unknown = any(not command.background and command.programs and not command.name for command in after)
        if not waits and not loops and not unknown:
            yield Finding(last.span, "the batch script ends while this runs, and Slurm kills it")


def _is_short(command: Command) -> bool:
    """True for `sleep 30`, which gives the steps time to start and not to end."""
    seconds = number(command.argv[1]) if len(command.argv) == 2 else None
    return seconds is not None and seconds <= 300


def cpus_per_task_not_passed(scene: Scene) -> Iterator[Finding]:
    """`--cpus-per-task` of the job, which srun does not inherit."""
    for script in batch_scripts(scene):
        option = script.directive("--cpus-per-task")
        count = number(option.value) if option else None
        if option is None or count == 1 or scene.is_set("SRUN_CPUS_PER_TASK"):
            continue
        for command in script.everything():
            srun = command.program("srun")
            if srun is None or not srun.is_known or not _is_long(scene, command) or command.shell.kind != "batch":
                continue
            bind = srun.value("--cpu-bind")
            if srun.has("--cpus-per-task", "--cpus-per-gpu") or (bind and (bind.text or "") in ("none", "no")):
                continue
            if srun.has("--exclusive", "--whole"):
                continue
            at = srun.word.span.end
            direct = scene.script.source.text[srun.word.span.start : at] == "srun"
            edits = (Edit(Span(at, at), " --cpus-per-task=$SLURM_CPUS_PER_TASK"),) if direct else ()
            yield Finding(srun.word.span, f"srun does not inherit --cpus-per-task={count or '…'} from the job", edits)


def gpus_per_task_local_rank(scene: Scene) -> Iterator[Finding]:
    """One GPU per task, and a rank that takes the GPU of its local rank."""
    for launch in scene.launches:
        step = launch.step
        if (
            step is None
            or step.name != "srun"
            or launch.program.name != "python"
            or (scene.tasks_per_node(step) or 2) < 2
        ):
            continue
        option = step.option("--gpus-per-task") or scene.script.directive("--gpus-per-task")
        bind = step.value("--gpu-bind") or _value(scene.script.directive("--gpu-bind"))
        if option is None or number(option.value) != 1 or (bind is not None and bind.text == "none"):
            continue
        path = launch.program.operands[0].text if launch.program.operands else None
        text = scene.text_of(path) if path else None
        sharing = step.value("--gres-flags") or _value(scene.script.directive("--gres-flags"))
        if text is None and not (sharing is not None and "allow-task-sharing" in sharing.shown):
            place = _local_id_as_local_rank(launch, scene)
            if place is not None:
                yield Finding(place, "each task sees one GPU, number 0; a script that takes that of LOCAL_RANK fails")
        if text and _takes_gpu_of_local_rank(text):
            yield Finding(
                option.span, f"each task sees one GPU, number 0; {path} takes the GPU with the number of its local rank"
            )


def _local_id_as_local_rank(launch: Launch, scene: Scene) -> Span | None:
    """Return where a task passes its number on the node to a script as its local rank."""
    words = [(word.span, word.shown) for word in launch.command.argv]
    here = [item for item in scene.assignments if item.exported and item.shell.number == launch.command.shell.number]
    assigned = (*launch.command.assignments, *(item for item in here if not item.temporary))
    words += [(item.span, f"{item.name}={item.value.shown}") for item in assigned if item.value]
    for at, (span, shown) in enumerate(words):
        before = words[at - 1][1] if at else ""
        if re.fullmatch(r"(LOCAL_RANK|--local[-_]rank)=\$\{?SLURM_LOCALID\}?", shown):
            return span
        if re.fullmatch(r"--local[-_]rank", before) and re.fullmatch(r"\$\{?SLURM_LOCALID\}?", shown):
            return span
    return None


def _takes_gpu_of_local_rank(text: str) -> bool:
    """Return whether a Python script uses its local rank as the number of a GPU, also by a variable of another name."""
    names = re.findall(r"^\s*(\w+)\s*=[^=].*\b(?:SLURM_LOCALID|LOCAL_RANK)\b", text, re.MULTILINE)
    used = (rf"(set_device|\.device|\.cuda)\([^)]*\b{name}\b|cuda:\{{\s*{name}\b" for name in names)
    return bool(_BY_LOCAL_RANK.search(text)) or any(re.search(pattern, text) for pattern in used)


def _value(option: Option | None) -> Word | None:
    return option.value if option else None


def ray_start_without_block(scene: Scene) -> Iterator[Finding]:
    """`ray start` as a step that ends at once."""
    for command in scene.commands:
        if not _starts_ray(command) or not (command.program("srun") or command.shell.kind == "step"):
            continue
        if any(word.text == "--block" for word in command.argv):
            continue
        inner = scene.inner.get(command.shell.number)
        later = inner.commands if inner is not None and command.shell.kind == "step" else ()
        if not any(
            other.span.start > command.span.start and other.name in ("sleep", "wait", "tail", "python", "while")
            for other in later
        ):
            yield Finding(
                _ray(command).word.span,
                "the step ends at once, and Slurm kills the daemons that it started: `--block` is missing",
            )


def ray_without_stop(scene: Scene) -> Iterator[Finding]:
    """`ray start` without `ray stop`."""
    stops = any(
        "ray" in [program.name for program in command.programs] and any(word.text == "stop" for word in command.argv)
        for command in scene.commands
    )
    for command in scene.commands if not stops else ():
        under = command.program("srun") or command.shell.kind == "step"
        if _starts_ray(command) and not under and not any(word.text == "--block" for word in command.argv):
            yield Finding(_ray(command).word.span, "nothing stops the daemons that `ray start` leaves")


def _starts_ray(command: Command) -> bool:
    program = command.program("ray")
    return program is not None and program.operands[:1] != () and program.operands[0].text == "start"


def _ray(command: Command) -> Program:
    found = command.program("ray")
    assert found is not None
    return found


def ssh_reads_stdin(scene: Scene) -> Iterator[Finding]:
    """ssh or srun in a `while read` loop, which reads the rest of the list."""
    for command in scene.commands:
        if (
            not command.loop_stdin
            or command.background
            or command.piped_from not in ("", "cat", "scontrol", "while", "tail", "sort", "grep", "awk")
        ):
            continue
        if any(item.operator.lstrip("0") in ("<", "<<", "<<<", "<&") for item in command.redirects):
            continue
        ssh, srun = command.program("ssh"), command.program("srun", "mpirun")
        if ssh is not None and not ssh.has("-n", "-f"):
            at = ssh.word.span.end
            direct = scene.script.source.text[ssh.word.span.start : at] == "ssh"
            edits = (Edit(Span(at, at), " -n"),) if direct else ()
            yield Finding(
                ssh.word.span, "ssh reads the rest of the list from stdin: the loop ends after one host", edits
            )
        elif srun is not None and srun.name == "srun":
            given = srun.value("--input")
            if given is None or given.text not in ("none", "0"):
                yield Finding(
                    srun.word.span, "srun reads the rest of the list from stdin: the loop ends after one line"
                )


_ONE = "#!/bin/bash\n#SBATCH --nodes=1\n"
_CPU = "#!/bin/bash\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=8\n"
_TRAP = "trap 'touch stop' USR1\nsrun python train.py --resume &\nwait\n"
_RAY = "#!/bin/bash\n#SBATCH --nodes=2\nhead=$(hostname)\n"

RULES = (
    Rule(
        "signal-not-trapped",
        ERROR,
        SCRIPT,
        signal_not_trapped,
        "`--signal` without `B:` for a trap of the batch script, or with `B:` for the ranks",
        "Without `B:` only the tasks of srun get the signal; with it only the batch shell does, and not what it has "
        "started. The handler never runs.",
        "Write `--signal=B:USR1@300` for a trap in the batch script, `--signal=USR1@300` for a handler in Python "
        "under srun.",
        f"{_ONE}#SBATCH --signal=USR1@120\n{_TRAP}",
        f"{_ONE}#SBATCH --signal=B:USR1@120\n{_TRAP}",
    ),
    Rule(
        "trap-without-wait",
        ERROR,
        SCRIPT,
        trap_without_wait,
        "a trap for a signal while the ranks run in the foreground",
        "bash runs a trap after the foreground command, so that the signal is handled when training has ended or was "
        "killed.",
        "Start the command in the background and wait for it: `srun … & wait`, with a second `wait` after the trap.",
        f"{_ONE}#SBATCH --signal=B:USR1@120\ntrap 'touch stop' USR1\nsrun python train.py --resume\n",
        f"{_ONE}#SBATCH --signal=B:USR1@120\n{_TRAP}",
    ),
    Rule(
        "background-without-wait",
        ERROR,
        SCRIPT,
        background_without_wait,
        "srun or a launcher in the background, without `wait`",
        "When the batch script ends, the job ends: Slurm kills all steps.",
        "Add `wait` at the end of the script.",
        f"{_ONE}srun python train.py &\necho started\n",
        f"{_ONE}srun python train.py &\necho started\nwait\n",
    ),
    Rule(
        "cpus-per-task-not-passed",
        WARNING,
        SCRIPT,
        cpus_per_task_not_passed,
        "`#SBATCH --cpus-per-task` that srun does not get",
        "Since Slurm 22.05 srun does not inherit it: each task is bound to one core, with all its data loaders.",
        "Add `--cpus-per-task=$SLURM_CPUS_PER_TASK` to srun, or `export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK`.",
        f"{_CPU}srun python train.py\n",
        f"{_CPU}export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\nsrun python train.py\n",
        True,
    ),
    Rule(
        "gpus-per-task-local-rank",
        ERROR,
        SCRIPT,
        gpus_per_task_local_rank,
        "`--gpus-per-task=1` with `set_device(local_rank)`",
        "Each task sees only its own GPU, as number 0. From the second task on: `invalid device ordinal`.",
        "Use `--gpus-per-node` instead, or device 0 in each rank.",
        "#!/bin/bash\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-task=1\ncat >t.py "
        "<<'EOF'\ntorch.cuda.set_device(local_rank)\nEOF\nsrun python t.py\n",
        "#!/bin/bash\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4\ncat >t.py "
        "<<'EOF'\ntorch.cuda.set_device(local_rank)\nEOF\nsrun python t.py\n",
    ),
    Rule(
        "ray-start-without-block",
        ERROR,
        SCRIPT,
        ray_start_without_block,
        "`ray start` under srun without `--block`",
        "`ray start` returns when its daemons run. The step is over, and Slurm kills what is left of it.",
        "Write `srun … ray start --block … &`.",
        f"{_RAY}srun ray start --address=$head:6379 &\nsleep 20\npython train.py\n",
        f"{_RAY}srun ray start --block --address=$head:6379 &\nsleep 20\npython train.py\n",
    ),
    Rule(
        "ray-without-stop",
        WARNING,
        SCRIPT,
        ray_without_stop,
        "`ray start` without `ray stop`",
        "The daemons go on after the script, hold the port, and the next run connects to them.",
        "Add `ray stop`, in a trap on EXIT so that it also runs after a failure.",
        "#!/bin/bash\nray start --head --port=6379\npython train.py\n",
        "#!/bin/bash\ntrap 'ray stop' EXIT\nray start --head --port=6379\npython train.py\nray stop\n",
    ),
    Rule(
        "ssh-reads-stdin",
        ERROR,
        SCRIPT,
        ssh_reads_stdin,
        "ssh or srun in a `while read` loop",
        "It inherits the stdin of the loop and reads the other lines: only the first host is visited.",
        "Write `ssh -n`, `srun --input=none`, or `</dev/null` behind the command.",
        '#!/bin/bash\nwhile read -r host; do\n  ssh "$host" uptime\ndone <hosts\n',
        '#!/bin/bash\nwhile read -r host; do\n  ssh -n "$host" uptime\ndone <hosts\n',
        True,
    ),
)
