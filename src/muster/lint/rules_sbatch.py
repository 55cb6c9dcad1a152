"""Rules about `#SBATCH` lines and about what sbatch accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.model import Script, Span
from muster.lint.rule import ERROR, NOTE, SCRIPT, WARNING, Edit, Finding, Rule
from muster.lint.scene import LAUNCHERS, Scene
from muster.lint.syntaxes import SBATCH

_MISSPELLED = re.compile(r"#(SBTACH|SBACTH|SABTCH|SBATH|SBACH|SBATCHS|BATCH|SBATC|sbatch|Sbatch|SLURM)\s+-", re.ASCII)
_JOB = re.compile(r"%[0-9]*[jAJ]")
_MASTER, _TASK = re.compile(r"%[0-9]*A"), re.compile(r"%[0-9]*[aj]")
_PROGRESS = re.compile(r"resume|checkpoint|ckpt|save[-_]?(steps|every|interval|freq)|restart|preempt", re.IGNORECASE)
_NAMES = frozenset(
    [
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "cpus-per-task",
        "gres",
        "gpus",
        "gpus-per-node",
        "gpus-per-task",
        "job-name",
        "output",
        "error",
        "time",
        "mem",
        "partition",
        "account",
        "qos",
        "signal",
        "requeue",
        "exclusive",
        "nodelist",
        "exclude",
        "array",
        "constraint",
        "mail-user",
        "mail-type",
        "chdir",
        "export",
    ]
)
"""Long options of sbatch."""
_LONG = 4 * 3600
"""Seconds: a job with a shorter time limit is repeated rather than resumed."""


def batch_scripts(scene: Scene) -> Iterator[Script]:
    """The scripts that sbatch reads: the file itself, and heredocs for sbatch."""
    for script in scene.script.scripts():
        if script.is_batch and (script is scene.script or script.directives):
            yield script


def sbatch_space(scene: Scene) -> Iterator[Finding]:
    """`# SBATCH`, which is a comment."""
    for script in scene.script.scripts():
        if not script.is_batch:
            continue
        given = {item.option.name for item in script.directives}
        for comment in script.comments:
            match = re.match(r"#[ \t]+SBATCH[ \t]+(-\S*)", comment.text)
            if match:
                name = match[1].partition("=")[0]
                name = SBATCH.short.get(name[1:2], name) if not name.startswith("--") else name
                edits: tuple[Edit, ...] = ()
                if name not in given:
                    at = comment.span.start + 1
                    edits = (Edit(Span(at, comment.span.start + comment.text.index("SBATCH")), ""),)
                yield Finding(
                    Span(comment.span.start, comment.span.start + match.end(0) - len(match[1])),
                    f"`# SBATCH {match[1]}` is a comment: with a space, sbatch does not read the line",
                    edits,
                )


def sbatch_misspelled(scene: Scene) -> Iterator[Finding]:
    """`#SBTACH` and the like."""
    for script in batch_scripts(scene):
        for comment in script.comments:
            match = _MISSPELLED.match(comment.text)
            if match and scene.script.source.place(comment.span.start)[1] == 1:
                at = comment.span.start
                word = Span(at + 1, at + 1 + len(match[1]))
                yield Finding(
                    Span(at, word.end),
                    f"`#{match[1]}` is a comment: sbatch reads `#SBATCH` only",
                    (Edit(word, "SBATCH"),),
                )


def sbatch_after_command(scene: Scene) -> Iterator[Finding]:
    """`#SBATCH` behind the first command."""
    for script in batch_scripts(scene):
        for item in script.directives:
            if not item.effective:
                yield Finding(item.span, f"sbatch ignores `{item.option.name}` here: a command stands before this line")


def sbatch_indented(scene: Scene) -> Iterator[Finding]:
    """`#SBATCH` that does not begin its line."""
    source = scene.script.source
    for comment in scene.script.comments if scene.script.is_batch else ():
        line, column = source.place(comment.span.start)
        before = source.line(line)[: column - 1]
        if column > 1 and not before.strip() and re.match(r"#SBATCH\s+-", comment.text):
            edit = Edit(Span(comment.span.start - len(before), comment.span.start), "")
            early = not any(command.span.start < comment.span.start for command in scene.script.commands)
            yield Finding(
                Span(comment.span.start, comment.span.start + len("#SBATCH")),
                "sbatch reads `#SBATCH` only at the beginning of a line",
                (edit,) if early else (),
            )


def sbatch_variable(scene: Scene) -> Iterator[Finding]:
    """A variable in a `#SBATCH` line."""
    for script in batch_scripts(scene):
        for item in script.directives:
            text = "".join(getattr(part, "text", "") for part in item.option.value.parts) if item.option.value else ""
            match = re.search(r"\$\{?[A-Za-z_]\w*\}?|\$\(", text)
            if match and item.effective and item.option.name != "--wrap":
                yield Finding(
                    item.option.span,
                    f"`{match[0]}` is not expanded in `#SBATCH {item.option.name}`: sbatch is no shell",
                )


def sbatch_single_hyphen(scene: Scene) -> Iterator[Finding]:
    """`-nodes=2` for `--nodes=2`."""
    for script in batch_scripts(scene):
        for comment in script.comments:
            match = re.match(r"#SBATCH\s+(-([a-z][a-z-]{2,}))(?=[=\s])", comment.text)
            if match and match[2] in _NAMES:
                at = comment.span.start + match.start(1)
                yield Finding(
                    Span(at, at + len(match[1])),
                    f"`{match[1]}` is read as the short option `{match[1][:2]}` with the value `{match[1][2:]}`",
                    (Edit(Span(at, at), "-"),),
                )


def no_shebang(scene: Scene) -> Iterator[Finding]:
    """A batch script without `#!`."""
    script = scene.script
    if script.is_batch and script.directives and not script.shebang:
        text = script.source.text
        blank = len(text) - len(text.lstrip("\n"))
        if text.lstrip("\n").startswith("#!"):
            message, edit = "`#!` is not in the first line", Edit(Span(0, blank), "")
        else:
            message, edit = "there is no `#!` line", Edit(Span(0, 0), "#!/bin/bash\n")
        yield Finding(Span(0, 1), f"{message}: sbatch rejects the script", (edit,))


def dos_line_ends(scene: Scene) -> Iterator[Finding]:
    """Lines that end with CR LF."""
    text = scene.script.source.text
    first = text.find("\r\n")
    if first >= 0:
        ends = [match.start() for match in re.finditer("\r\n", text)]
        yield Finding(
            Span(first, first + 1),
            f"lines end with CR LF, as on Windows ({len(ends)} of {scene.script.source.lines})",
            tuple(Edit(Span(at, at + 1), "") for at in ends),
        )


def output_overwritten(scene: Scene) -> Iterator[Finding]:
    """A log file without the job id in its name."""
    for script in batch_scripts(scene):
        mode = script.directive("--open-mode")
        if mode and mode.value and (mode.value.text or "").startswith("a"):
            continue
        for item in script.directives:
            value = item.option.value.text if item.option.value else None
            if not item.effective or item.option.name not in ("--output", "--error") or not value:
                continue
            known = value not in ("/dev/null", "none") and "$" not in value
            if known and script.directive("--array") and _MASTER.search(value) and not _TASK.search(value):
                yield Finding(item.option.span, f"all tasks of the array write to the same file `{value}`")
            elif not _JOB.search(value) and known:
                yield Finding(item.option.span, f"each job writes to the same file `{value}` and truncates it")


def time_limit_without_signal(scene: Scene) -> Iterator[Finding]:
    """A long job that is not told that its time is up."""
    for script in batch_scripts(scene):
        limit = script.directive("--time")
        seconds = _seconds(limit.value.text or "") if limit and limit.value else None
        if limit is None or seconds is None or seconds < _LONG or script.directive("--signal"):
            continue
        starts = any(launch.step or launch.program.name in LAUNCHERS for launch in scene.launches)
        words = (word.shown for command in scene.commands for word in command.argv)
        traps = any(command.name == "trap" for command in scene.commands)
        if starts and not traps and not any(_PROGRESS.search(word) for word in words) and not _names_progress(scene):
            yield Finding(
                limit.span, f"after {limit.value.text if limit.value else ''} the ranks are killed without time to save"
            )


def _names_progress(scene: Scene) -> bool:
    return any(_PROGRESS.search(item.name) for item in scene.assignments)


def _seconds(text: str) -> int | None:
    """The seconds of a time limit of Slurm: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`."""
    days, dash, rest = text.partition("-")
    fields = (rest if dash else days).split(":")
    if not all(field.isdigit() for field in fields) or (dash and not days.isdigit()):
        return None
    values = [int(field) for field in fields]
    if dash:
        values = [*values, 0, 0][:3]
        return int(days) * 86400 + values[0] * 3600 + values[1] * 60 + values[2]
    if len(values) == 1:
        return values[0] * 60
    return values[0] * 60 + values[1] if len(values) == 2 else values[0] * 3600 + values[1] * 60 + values[2]


def requeue_disabled(scene: Scene) -> Iterator[Finding]:
    """`scontrol requeue` of a job that may not be requeueable."""
    for script in batch_scripts(scene):
        if script.directive("--requeue") or not script.directives:
            continue
        never = script.directive("--no-requeue")
        for command in script.everything():
            texts = [word.text for word in command.argv[:2]]
            if texts == ["scontrol", "requeue"]:
                yield Finding(
                    command.span,
                    "`--no-requeue` forbids this requeue, and scontrol still exits with 0"
                    if never
                    else "whether the job can be requeued depends on the cluster: `--requeue` is missing",
                )


RULES = (
    Rule(
        "sbatch-space",
        ERROR,
        SCRIPT,
        sbatch_space,
        "`# SBATCH` with a space",
        "sbatch reads only lines that begin with `#SBATCH`. The option is ignored, and the job runs with the defaults.",
        "Delete the space. To disable a line on purpose, write `##SBATCH`.",
        "#!/bin/bash\n#SBATCH --nodes=2\n# SBATCH --ntasks-per-node=1\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --nodes=2\n##SBATCH --ntasks-per-node=1\nsrun hostname\n",
        True,
    ),
    Rule(
        "sbatch-misspelled",
        ERROR,
        SCRIPT,
        sbatch_misspelled,
        "`#SBTACH` and other misspellings of `#SBATCH`",
        "To sbatch the line is a comment. The option is ignored.",
        "Write `#SBATCH`.",
        "#!/bin/bash\n#SBATCH --nodes=1\n#SBTACH --partition=gpu\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --partition=gpu\nsrun hostname\n",
        True,
    ),
    Rule(
        "sbatch-after-command",
        ERROR,
        SCRIPT,
        sbatch_after_command,
        "`#SBATCH` after the first command",
        "sbatch stops reading options at the first line that is neither blank nor a comment.",
        "Move the line above the first command.",
        "#!/bin/bash\n#SBATCH --nodes=1\nset -e\n#SBATCH --mem=64G\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --mem=64G\nset -e\nsrun hostname\n",
    ),
    Rule(
        "sbatch-indented",
        ERROR,
        SCRIPT,
        sbatch_indented,
        "`#SBATCH` with spaces before it",
        "sbatch reads only lines that begin with `#SBATCH`. The option is ignored.",
        "Delete the spaces.",
        "#!/bin/bash\n#SBATCH --nodes=1\n  #SBATCH --mem=64G\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH   --mem=64G\nsrun hostname\n",
        True,
    ),
    Rule(
        "sbatch-variable",
        ERROR,
        SCRIPT,
        sbatch_variable,
        "a variable in a `#SBATCH` line",
        "sbatch reads the lines without a shell, so that `$NAME` stays as it is: a directory named `$HOME`, for "
        "instance.",
        "Use a pattern of sbatch (`%u`, `%x`, `%j`), or give the option on the command line of sbatch.",
        '#!/bin/bash\n#SBATCH --output="$HOME/logs/%j.out"\nsrun hostname\n',
        '#!/bin/bash\n#SBATCH --output="logs/%u-%j.out"\nsrun hostname\n',
    ),
    Rule(
        "sbatch-single-hyphen",
        ERROR,
        SCRIPT,
        sbatch_single_hyphen,
        "a long option of sbatch with one hyphen",
        "`-mem=4G` is the short option `-m` with the value `em=4G`. The job is rejected, or gets something else.",
        "Write two hyphens.",
        "#!/bin/bash\n#SBATCH -mem=64G\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --mem=64G\n#SBATCH -N 2\nsrun hostname\n",
        True,
    ),
    Rule(
        "no-shebang",
        ERROR,
        SCRIPT,
        no_shebang,
        "a batch script without `#!` in its first line",
        'sbatch rejects the script: "This does not look like a batch script".',
        "Begin the file with `#!/bin/bash`.",
        "#SBATCH --nodes=1\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --nodes=1\nsrun hostname\n",
        True,
    ),
    Rule(
        "dos-line-ends",
        ERROR,
        SCRIPT,
        dos_line_ends,
        "lines that end with CR LF",
        'sbatch rejects the script ("Batch script contains DOS line breaks"), and a shell takes the CR for a part of '
        "the "
        "last argument.",
        "Convert the file: `sed -i 's/\\r$//' FILE`.",
        "#!/bin/bash\r\n#SBATCH --nodes=1\r\nsrun hostname\r\n",
        "#!/bin/bash\n#SBATCH --nodes=1\nsrun hostname\n",
        True,
    ),
    Rule(
        "output-overwritten",
        WARNING,
        SCRIPT,
        output_overwritten,
        "a log file without the job id in its name",
        "The next job, and the same job after a requeue, truncates the file. The log of the failure is lost.",
        "Add `%j` to the name, or `%A_%a` for an array; or set `--open-mode=append`.",
        "#!/bin/bash\n#SBATCH --output=train.log\nsrun hostname\n",
        "#!/bin/bash\n#SBATCH --output=%x-%j.log\nsrun hostname\n",
    ),
    Rule(
        "time-limit-without-signal",
        NOTE,
        SCRIPT,
        time_limit_without_signal,
        "a time limit of four hours or more, without a signal before it and without checkpoints",
        "At the time limit all processes get SIGTERM and, after KillWait (30 s by default), SIGKILL. Work since the "
        "last "
        "checkpoint is lost.",
        "Add `#SBATCH --signal=USR1@300` and save a checkpoint in the handler, or save one regularly and resume from "
        "it.",
        "#!/bin/bash\n#SBATCH --time=12:00:00\nsrun python train.py\n",
        "#!/bin/bash\n#SBATCH --time=12:00:00\n#SBATCH --signal=USR1@300\nsrun python train.py\n",
    ),
    Rule(
        "requeue-disabled",
        WARNING,
        SCRIPT,
        requeue_disabled,
        "`scontrol requeue` without `#SBATCH --requeue`",
        "With `JobRequeue=0` in slurm.conf, or `--no-requeue`, the command does nothing and still exits with 0: the "
        "job "
        "ends for good.",
        "Add `#SBATCH --requeue`.",
        '#!/bin/bash\n#SBATCH --nodes=1\nsrun python train.py --resume || scontrol requeue "$SLURM_JOB_ID"\n',
        "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --requeue\n"
        'srun python train.py --resume || scontrol requeue "$SLURM_JOB_ID"\n',
    ),
)
