"""Rules about the shell itself: quoting, loops, heredocs, and how environments are activated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from muster.lint.model import Command, Expansion, Part, Script, Span, Word
from muster.lint.rule import ERROR, NOTE, SCRIPT, WARNING, Edit, Finding, Rule
from muster.lint.scene import TORCHRUN, Scene

_NODELISTS = frozenset({"SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_NODELIST"})
_KILLED = re.compile(r"python|torchrun|deepspeed|accelerate|\btrain|\.py\b|torch|\bray\b", re.IGNORECASE)
_DATA = (".json", ".yaml", ".yml", ".toml", ".cfg", ".conf", ".txt", ".ini", "hostfile", "hosts", ".hosts")
_TYPOGRAPHIC = {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u00a0": " "}
_DASHES = re.compile(r"(?:^|(?<=[\s]))[\u2013\u2014\u2212](?=[A-Za-z])")
_HOOK = re.compile(r"conda\.sh|mamba\.sh|bashrc|bash_profile|\.profile|/profile|bin/activate|conda/activate|zshrc")
_CONDA = re.compile(r"conda|mamba|python|forge", re.IGNORECASE)


def unquoted_variable(scene: Scene) -> Iterator[Finding]:
    """Variables that are split or expanded as a pattern where that is wrong."""
    yield from _unquoted(scene, _why_quote)
    for command in scene.commands:
        for before, word in zip(command.words, command.words[1:]):
            for part in word.expansions:
                value = _with_spaces(scene, part) if part.shell.number == command.shell.number else ""
                if value and _is_one_argument(command, before, word):
                    begin, end = part.span
                    edits = (Edit(Span(begin, begin), '"'), Edit(Span(end, end), '"'))
                    message = (
                        f'{part.source} without quotes becomes {len(value.split())} arguments: its value is "{value}"'
                    )
                    yield Finding(part.span, message, () if command.shell.number else edits)


_ONE_PATH = frozenset({"cd", "pushd", "mkdir", "rm", "rmdir", "touch", "source", ".", "ls", "cat", "cp", "mv"})
_ONE_VALUE = re.compile(
    r"-J|--?(\w+[-_])*(name|dir|directory|root|notes?|title|description|comment|prompt|message|project|output|out)",
    re.IGNORECASE,
)
"""Options with one value, which is a name, a text or a path."""


def _with_spaces(scene: Scene, part: Expansion) -> str:
    """The value of a variable if it has spaces and is no list of options, and each assignment gives the same."""
    if part.quoted or part.kind != "variable":
        return ""
    values = {item.value.text if item.value is not None else None for item in scene.script.assigned(part.name)}
    value = values.pop() if len(values) == 1 else None
    if value is None or len(value.split()) < 2 or any(word[0] in "-{[" or "=" in word for word in value.split()):
        return ""
    return value


def _is_one_argument(command: Command, before: Word, word: Word) -> bool:
    """True if a word with a variable is meant as one argument: with other text, of cd, or of `--name`."""
    if command.name in ("echo", "printf", "[[", "export", "declare", "local", "readonly", "test", "[", "for", "eval"):
        return False
    if len(word.parts) > 1 and not re.search(r"[\s,:;]", "".join(_literal(part) for part in word.parts)):
        return True
    if len(word.parts) > 1:
        return False
    return command.name in _ONE_PATH or bool(before.text and _ONE_VALUE.fullmatch(before.text))


def _literal(part: Part) -> str:
    return "" if isinstance(part, Expansion) else part.text


def unquoted_nodelist(scene: Scene) -> Iterator[Finding]:
    """Node lists that are expanded as a pattern."""
    return _unquoted(scene, _why_quote_nodelist)


def _unquoted(scene: Scene, why: Callable[[Command, str, Expansion], str]) -> Iterator[Finding]:
    for command in scene.commands:
        text = scene.script.source.text[command.span.start : command.span.end]
        unknown = {part.span for word in command.argv for part in word.expansions}
        for word in command.words:
            for part in word.expansions:
                if part.quoted or part.shell.number != command.shell.number:
                    continue
                if part.kind == "array" and _is_plain(scene, part.name):
                    continue
                if part.kind == "variable" and part.span not in unknown:
                    continue  # its value is known
                message = why(command, text, part)
                if message:
                    begin, end = part.span
                    alone = len(word.parts) == 1
                    edits = (
                        (Edit(Span(begin, begin), '"'), Edit(Span(end, end), '"'))
                        if alone and not command.shell.number
                        else ()
                    )
                    yield Finding(part.span, message, edits)


def _is_plain(scene: Scene, array: str) -> bool:
    """True if no element of an array can be split or matches files."""
    items = [word for item in scene.script.assigned(array) for word in item.items]
    return bool(items) and all(
        not part.quoted if isinstance(part, Expansion) else not re.search(r"[\s*?\[]", part.text)
        for word in items
        for part in word.parts
    )


def _why_quote_nodelist(command: Command, text: str, part: Expansion) -> str:
    if part.kind == "variable" and part.name in _NODELISTS:
        return f"${part.name} is a pattern such as n[1-4]: a file named n1 in the directory replaces it"
    return ""


def _why_quote(command: Command, text: str, part: Expansion) -> str:
    if part.kind == "array" or (part.kind == "variable" and part.name in ("@", "*") and command.name != "shift"):
        return f"{part.source} without quotes splits arguments at spaces"
    if command.name == "[" and part.kind == "variable" and not command.shell.number:
        if re.match(rf"\[ +-n +{re.escape(part.source)} +\]", text):
            return f"`[ -n {part.source} ]` is true if the variable is empty"
        if re.match(rf"\[ +{re.escape(part.source)} +(=|==|!=) ", text):
            return f"`[ {part.source} = … ]` is a syntax error if the variable is empty"
    return ""


def array_in_string(scene: Scene) -> Iterator[Finding]:
    """`bash -c "… ${ARGS[@]} …"`, which passes only the first element."""
    for command in scene.commands:
        for at, word in enumerate(command.words):
            before = command.words[at - 1].text if at else ""
            script = bool(re.fullmatch(r"-[a-z]*c", before or "")) and any(
                program.name == "bash" for program in command.programs
            )
            if not script or len(word.parts) < 2:
                continue
            for part in word.expansions:
                if (
                    part.quoted
                    and part.shell.number == command.shell.number
                    and (part.kind == "array" or part.name == "@")
                ):
                    text = part.source
                    fixed = text.replace("[@]", "[*]") if part.kind == "array" else text.replace("@", "*")
                    yield Finding(
                        part.span,
                        f"`{text}` in a longer string becomes several arguments, and `-c` takes the first only",
                        (Edit(part.span, fixed),) if not command.shell.number else (),
                    )


def kills_all_python(scene: Scene) -> Iterator[Finding]:
    """`pkill -f python`."""
    for command in scene.commands:
        last = command.programs[-1] if command.programs else None
        words = [word.shown for word in command.argv]
        if last is None:
            continue
        names = [program.name for program in command.programs]
        if "pkill" in names or "killall" in names:
            at = words.index(next(word for word in words if word.rpartition("/")[2] in ("pkill", "killall")))
            given = words[at + 1 :]
            limited = any(re.match(r"-(P|g|s|t|-parent|-pgroup|-session|-ns)", word) for word in given)
            if not limited and any(_KILLED.search(word) for word in given if not word.startswith("-")):
                yield Finding(
                    command.span, "this kills every process of yours with that name on the host, also of other jobs"
                )
        elif last.name == "kill" and any(_finds_python(part) for word in command.argv for part in word.expansions):
            yield Finding(
                command.span, "this kills every process of yours with that name on the host, also of other jobs"
            )
        elif (
            last.name == "kill"
            and command.programs[0].name == "xargs"
            and command.piped_from in ("awk", "grep", "pgrep", "cut", "tr")
        ):
            line = scene.script.source.line(scene.script.source.place(command.span.start)[0])
            if re.search(r"(ps |pgrep).*(python|torch|train)", line):
                yield Finding(
                    command.span, "this kills every process of yours with that name on the host, also of other jobs"
                )


def _finds_python(part: Expansion) -> bool:
    """`$(pgrep -f python)`, `$(ps aux | grep python | …)`."""
    finds = any(command.name in ("pgrep", "ps", "pidof") for command in part.commands)
    words = (word.shown for command in part.commands for word in command.argv[1:])
    return finds and any(_KILLED.search(word) for word in words)


def _activates(command: Command) -> bool:
    name, words = command.name, [word.shown for word in command.argv]
    if name in ("conda", "mamba", "micromamba") and words[1:2] == ["activate"]:
        return True
    return name in ("source", ".") and len(words) > 1 and bool(re.search(r"(^|/)activate$", words[1]))


def conda_without_hook(scene: Scene) -> Iterator[Finding]:
    """`conda activate` in a shell that has no such function."""
    for script in scene.script.scripts():
        if script.shell.kind in ("remote", "file") or _is_login(script):
            continue
        ready = False
        for command in script.commands:
            words = " ".join(word.shown for word in command.argv)
            hook = command.name in ("source", ".", "eval") and (
                _HOOK.search(words) or "hook" in words or "activate" in words
            )
            unknown = command.name in ("source", ".") or (command.name in ("module", "ml") and _CONDA.search(words))
            if (
                hook
                or unknown
                or (command.name in script.functions and _sets_up(script, command.name))
                or "conda.sh" in words
            ):
                ready = True
            if (
                not ready
                and command.words
                and command.words[0].text in ("conda", "mamba", "micromamba")
                and words.split()[1:2] == ["activate"]
            ):
                yield Finding(
                    command.span,
                    f"`{command.words[0].text} activate` is a function of interactive shells; a script does not have "
                    f"it",
                )
                ready = True


def _sets_up(script: Script, function: str) -> bool:
    return any(
        command.function == function and command.name in ("source", ".", "eval", "module")
        for command in script.commands
    )


def _is_login(script: Script) -> bool:
    if re.search(r"\s(-\w*[li]\w*|--login)\b", script.shebang):
        return True
    last = script.shell.launchers[-1] if script.shell.launchers else None
    return last is not None and last.name == "bash" and last.has("-l", "-i", "--login")


def module_after_activate(scene: Scene) -> Iterator[Finding]:
    """`module load` behind the activation of an environment."""
    for script in scene.script.scripts():
        active: Command | None = None
        for command in script.commands:
            words = [word.shown for word in command.argv]
            if _activates(command):
                active = command
            elif words[:2] in (["conda", "deactivate"], ["deactivate"]) or words[:1] == ["deactivate"]:
                active = None
            loads = (command.name == "module" and words[1:2] in (["load"], ["add"], ["switch"], ["swap"])) or (
                command.name == "ml" and len(words) > 1 and words[1] not in ("list", "avail", "purge", "-t")
            )
            if loads and active is not None and command.function == active.function:
                line = scene.script.source.place(active.span.start)[0]
                yield Finding(command.span, f"this puts its directories before those of the environment of line {line}")


def torch_distributed_launch(scene: Scene) -> Iterator[Finding]:
    """The deprecated launcher."""
    for launch in scene.launches:
        program = launch.program
        if program.name != "torch.distributed.launch":
            continue
        yield Finding(
            program.word.span, "torch.distributed.launch is deprecated; it passes --local-rank as an argument"
        )


def local_rank_argument(scene: Scene) -> Iterator[Finding]:
    """`--local_rank=0` for the script of torchrun."""
    for launch in scene.launches:
        if launch.program.name not in (*TORCHRUN, "accelerate"):
            continue
        operands = launch.program.operands
        for at, word in enumerate(operands[1:], 1):
            match = re.match(r"--local[-_]rank(=|$)", word.start)
            value = (
                (word.text or "").partition("=")[2]
                if match and match[1]
                else (operands[at + 1].text if match and at + 1 < len(operands) else None)
            )
            if match and value is not None and re.fullmatch(r"\d+", value):
                yield Finding(
                    word.span, f"all ranks get the local rank {value}: {launch.program.name} sets LOCAL_RANK for each"
                )


def heredoc_literal_variable(scene: Scene) -> Iterator[Finding]:
    """A quoted heredoc with variables of the script, for a file that nobody expands."""
    read = {
        option.value.shown
        for launch in scene.launches
        for option in launch.program.options
        if option.name in ("--config-file", "--hostfile") and option.value is not None
    }
    for script in scene.script.scripts():
        own = {item.name for item in script.assignments}
        for heredoc in script.heredocs:
            target = heredoc.target or ""
            if not heredoc.literal or not target.endswith(_DATA):
                continue
            for match in re.finditer(r"\$\{?([A-Za-z_]\w*)\}?", heredoc.body.text or ""):
                if match[1] in own or match[1].startswith("SLURM_") or target in read:
                    first = heredoc.body.parts[0]
                    start = first.at if not isinstance(first, Expansion) else first.span.start
                    at = start + match.start()
                    yield Finding(
                        Span(at, at + len(match[0])),
                        f"`{match[0]}` is written to {target} as it is: the delimiter of the heredoc is quoted",
                    )
                    break


def heredoc_expanded_early(scene: Scene) -> Iterator[Finding]:
    """SLURM variables of a job, expanded while its script is written."""
    submits = any(command.program("sbatch") for command in scene.commands)
    for script in scene.script.scripts():
        for inner in script.nested:
            reader = inner.shell.launchers[-1].name if inner.shell.launchers else ""
            if reader not in ("", "sbatch") or inner.shell.kind not in ("batch", "file"):
                continue
            is_job = bool(inner.directives or reader or submits)
            if script.shell.kind != "script" or scene.is_run_by_srun or not is_job:
                continue
            seen: set[Span] = set()
            for command in inner.everything():
                for word in command.words:
                    for part in word.expansions:
                        names = [name for name in part.names if name.startswith("SLURM_")]
                        early = part.shell.number == script.shell.number and part.kind in (
                            "variable",
                            "default",
                            "command",
                            "arithmetic",
                        )
                        if names and early and part.span not in seen:
                            seen.add(part.span)
                            yield Finding(
                                part.span,
                                f"{names[0]} is expanded while the job script is written, when there is no job",
                            )


def typographic_character(scene: Scene) -> Iterator[Finding]:
    """Dashes and quotes of a word processor."""
    source = scene.script.source
    comments = [comment.span for comment in scene.script.comments if not comment.text.startswith("#SBATCH")]
    for command in (*scene.commands,):
        if command.shell.number or command.name in ("echo", "printf", "cat"):
            continue
        for word in command.words:
            text = source.text[word.span.start : word.span.end]
            if text[:1] in ("'", '"') or any(span.start <= word.span.start < span.end for span in comments):
                continue
            if dash := re.match("-?([\u2013\u2014\u2212])(?=[A-Za-z])", text):
                dashes = "--" if len(text.partition("=")[0]) > 2 else "-"
                yield Finding(
                    word.span,
                    f"`{dash[1]}` is a dash of a word processor, not a hyphen",
                    (Edit(Span(word.span.start, word.span.start + dash.end()), dashes),),
                )
            elif re.search("[\u201c\u201d\u2018\u2019]", text) and not re.search("[\"']", text):
                edits = tuple(
                    Edit(Span(word.span.start + at, word.span.start + at + 1), _TYPOGRAPHIC[letter])
                    for at, letter in enumerate(text)
                    if letter in _TYPOGRAPHIC
                )
                yield Finding(
                    word.span, "these are quotes of a word processor: the shell takes them for letters", edits
                )
    for item in scene.script.directives:
        text = source.text[item.span.start : item.span.end]
        match = re.search("[\u2013\u2014\u2212]", text)
        if match and match.start() == len(text) - len(text.lstrip("#SBATCH ")):
            yield Finding(item.span, "the line has a dash of a word processor instead of `--`")


_ONE = "#!/bin/bash\n"
RULES = (
    Rule(
        "unquoted-variable",
        WARNING,
        SCRIPT,
        unquoted_variable,
        "a variable without quotes where its value is split or matches files",
        "The shell splits the value at spaces and replaces `[1-4]`, `*` and `?` by names of files in the directory.",
        'Write `"$@"`, `"${ARGS[@]}"`, `"$NAME"`.',
        f"{_ONE}python train.py $@\n",
        f'{_ONE}python train.py "$@"\n',
        True,
    ),
    Rule(
        "unquoted-nodelist",
        NOTE,
        SCRIPT,
        unquoted_nodelist,
        "a node list without quotes",
        "The shell takes `n[1-4]` as a pattern: it replaces it by the files n1 to n4 if the directory has them.",
        'Write `"$SLURM_JOB_NODELIST"`.',
        f"{_ONE}scontrol show hostnames $SLURM_JOB_NODELIST\n",
        f'{_ONE}scontrol show hostnames "$SLURM_JOB_NODELIST"\n',
        True,
    ),
    Rule(
        "array-in-string",
        ERROR,
        SCRIPT,
        array_in_string,
        '`bash -c "… ${ARGS[@]} …"`',
        "In a string, `[@]` makes several arguments of it. `bash -c` runs the first; the others become $0, $1, and "
        "so on: all arguments but the first are lost.",
        "Write `${ARGS[*]}`, or `$*` for `$@`.",
        f'{_ONE}srun bash -c "python train.py ${{ARGS[@]}}"\n',
        f'{_ONE}srun bash -c "python train.py ${{ARGS[*]}}"\n',
        True,
    ),
    Rule(
        "kills-all-python",
        ERROR,
        SCRIPT,
        kills_all_python,
        "`pkill -f python` and the like",
        "It kills every process of yours with that name on the host: other jobs, notebooks, editors.",
        "Kill what the script has started: `kill $!`, `kill 0`, `scancel`, or `muster clean`.",
        f"{_ONE}pkill -9 -f python\n",
        f"{_ONE}python train.py &\nkill $!\nwait\n",
    ),
    Rule(
        "conda-without-hook",
        ERROR,
        SCRIPT,
        conda_without_hook,
        "`conda activate` in a script, without the function of conda",
        "Only interactive shells have the function. In a script: `CondaError: Run 'conda init' before 'conda "
        "activate'`, and the script goes on with another Python.",
        'Write `source "$(conda info --base)/etc/profile.d/conda.sh"` before it, or call the Python of the '
        "environment by its path.",
        f"{_ONE}conda activate train\npython train.py\n",
        f'{_ONE}eval "$(conda shell.bash hook)"\nconda activate train\npython train.py\n',
    ),
    Rule(
        "module-after-activate",
        WARNING,
        SCRIPT,
        module_after_activate,
        "`module load` after an environment was activated",
        "A module puts its own python and libraries before those of the environment in PATH and LD_LIBRARY_PATH.",
        "Load modules first, then activate.",
        f"{_ONE}source venv/bin/activate\nmodule load cuda/12.4\npython train.py\n",
        f"{_ONE}module load cuda/12.4\nsource venv/bin/activate\npython train.py\n",
    ),
    Rule(
        "torch-distributed-launch",
        WARNING,
        SCRIPT,
        torch_distributed_launch,
        "`python -m torch.distributed.launch`",
        "It is deprecated in favour of torchrun, and passes `--local-rank` to the script, which scripts for torchrun "
        "do not know.",
        'Use torchrun; read `os.environ["LOCAL_RANK"]` in the script.',
        f"{_ONE}export OMP_NUM_THREADS=8\npython -m torch.distributed.launch --nproc_per_node=4 train.py\n",
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --nproc_per_node=4 train.py\n",
    ),
    Rule(
        "local-rank-constant",
        ERROR,
        SCRIPT,
        local_rank_argument,
        "`--local_rank=0` for the script of torchrun or accelerate",
        "All ranks of a node get the same number, and with it the same GPU.",
        'Leave it out; read `os.environ["LOCAL_RANK"]` in the script.',
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=4 train.py --local_rank=0\n",
        f"{_ONE}export OMP_NUM_THREADS=8\ntorchrun --standalone --nproc-per-node=4 train.py --rank-file=0\n",
    ),
    Rule(
        "heredoc-literal-variable",
        ERROR,
        SCRIPT,
        heredoc_literal_variable,
        "a heredoc with a quoted delimiter that writes variables to a configuration or a host file",
        "With `<<'EOF'` nothing is expanded. The file contains `$GPUS`, and no shell reads it later.",
        "Write `<<EOF` without quotes.",
        f"{_ONE}GPUS=4\ncat >hostfile <<'EOF'\nn1 slots=$GPUS\nEOF\n",
        f"{_ONE}GPUS=4\ncat >hostfile <<EOF\nn1 slots=$GPUS\nEOF\n",
    ),
    Rule(
        "heredoc-expanded-early",
        ERROR,
        SCRIPT,
        heredoc_expanded_early,
        "`$SLURM_…` in an unquoted heredoc that is the script of a job",
        "It is expanded when the script is written, on the login node, where it is empty.",
        "Quote the delimiter, `<<'EOF'`, or escape the variable, `\\$SLURM_JOB_ID`.",
        f"{_ONE}sbatch <<EOF\n#!/bin/bash\n#SBATCH --nodes=1\nsrun python train.py --id $SLURM_JOB_ID\nEOF\n",
        f"{_ONE}sbatch <<EOF\n#!/bin/bash\n#SBATCH --nodes=1\nsrun python train.py --id \\$SLURM_JOB_ID\nEOF\n",
    ),
    Rule(
        "typographic-character",
        ERROR,
        SCRIPT,
        typographic_character,
        "dashes and quotes of a word processor in a command",
        "`–nodes` is not an option, and “a b” are two words. Text that is copied from a web page or a PDF has them.",
        "Type them again: `--`, `\"`, `'`.",
        f"{_ONE}srun \u2013nodes=2 hostname\n",
        f"{_ONE}srun --nodes=2 hostname\n",
        True,
    ),
)
