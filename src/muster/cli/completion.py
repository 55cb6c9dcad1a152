"""`muster completion`: shell scripts, and the words that complete a command line.

The scripts call muster each time, so that they offer the current launchers, options and runs, and stay valid once
installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from muster.cli.commands import COMMANDS
from muster.cli.commands import LAB as LAB_COMMANDS
from muster.cli.common import located, store_of
from muster.cli.help import print_command
from muster.config.command_options import COMMANDS as OPTIONS
from muster.config.command_options import LAB, CompletionOptions
from muster.config.options import FindOptions, RunOptions
from muster.config.parse import names_of, parse
from muster.config.record import Option
from muster.errors import InvalidRequest
from muster.rundir.finding import list_runs

FILES = ":files"
"""Stands for file names, which the shell completes itself."""

_NEWEST = 50
"""Maximum number of runs offered."""

_OF_RUNS = ("show", "top", "diff", "report", "logs", "attach", "wait", "kill", "why", "stacks", "rm")
"""Commands whose operand is a run."""

Fits = list[tuple[str, str]]
"""Possible words, each with its meaning."""

_BASH = """# completion of muster for bash; in ~/.bashrc: eval "$(muster completion bash)"
_muster() {
  local line current=${COMP_WORDS[COMP_CWORD]}
  [ "$current" = "=" ] && current=
  COMPREPLY=()
  while IFS= read -r line; do
    if [ "$line" = ":files" ]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
    else
      COMPREPLY+=("${line%%$'\\t'*}")
    fi
  done < <("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _muster muster
"""

_ZSH = """#compdef muster
# completion of muster for zsh; in ~/.zshrc, after compinit: eval "$(muster completion zsh)"
_muster() {
  local line
  local -a found
  for line in "${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == :files ]]; then
      _files
    elif [[ -n $line ]]; then
      found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    fi
  done
  (( $#found )) && _describe muster found
}
compdef _muster muster
"""

_FISH = """# completion of muster for fish; in ~/.config/fish/config.fish: muster completion fish | source
function __muster_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] completion words -- $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c muster -f -a '(__muster_complete)'
"""

SHELLS: Mapping[str, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the script of a shell, or the completions requested by such a script."""
    if words[:2] == ["words", "--"]:
        for word, says in fitting(words[2:], env):
            print(f"{word}\t{says}" if says else word)
        return 0
    parsed = parse(words, CompletionOptions.table, interleaved=True, command="completion")
    if parsed.options.get("help"):
        print_command("completion", COMMANDS["completion"], CompletionOptions.table, env)
        return 0
    if len(parsed.operands) != 1 or parsed.operands[0] not in SHELLS:
        raise InvalidRequest(
            f"`muster completion` requires a shell, got: {' '.join(parsed.operands) or 'nothing'}",
            f"known shells: {', '.join(SHELLS)}",
        )
    print(SHELLS[parsed.operands[0]], end="")
    return 0


def fitting(words: Sequence[str], env: Mapping[str, str]) -> Fits:
    """Return the completions of the last of these words, which follow `muster`."""
    *before, current = words or [""]
    # bash splits `--launcher=to` into three words
    if before and before[-1].startswith("--") and current == "=":
        current = ""
    elif len(before) > 1 and before[-1] == "=":
        before.pop()
    elif current.startswith("--") and "=" in current:
        name, _, value = current.partition("=")
        values = fitting([*before, name, value], env)
        return [(f"{name}={word}", says) for word, says in values if word != FILES]
    found = _there(before, current, env) if before else [(name, command.summary) for name, command in COMMANDS.items()]
    return [(word, says) for word, says in found if word == FILES or word.startswith(current)]


def _there(before: list[str], current: str, env: Mapping[str, str]) -> Fits:
    """Return the words possible there; `before` starts with the command."""
    name, *typed = before
    if name == "lab" and not typed:
        return [(word, command.summary) for word, command in LAB_COMMANDS.items()]
    record = LAB.get(typed.pop(0)) if name == "lab" else OPTIONS.get(name)
    options = record.table if record is not None else ()
    by_name = names_of(options)
    wants: Option[object] | None = None
    for word in typed:
        if wants is not None:
            wants = None
        elif word == "--" or (name in ("run", "plan") and not word.startswith("-")):
            return [(FILES, "")]  # arguments of the script
        else:
            option = by_name.get(word.replace("_", "-") if word.startswith("--") else word)
            wants = option if option is not None and option.metavar else None
    if wants is not None:
        return _values(wants)
    if current.startswith("-"):
        found = {word: option.help for option in options for word in option.names if option.group}
        return list(found.items())
    return _operands(name, before, env)


def _values(option: Option[object]) -> Fits:
    """Return the known values of an option."""
    if option is RunOptions.launcher:
        from muster.launchers import LAUNCHERS

        return [(name, launcher.says) for name, launcher in LAUNCHERS.items()]
    if option.is_path:
        return [(FILES, "")]
    return list(option.choices.items())


def _operands(name: str, before: Sequence[str], env: Mapping[str, str]) -> Fits:
    """Return the possible operands of a command."""
    if name in ("run", "plan"):
        return [(FILES, "")]
    if name == "completion":
        return [(shell, "") for shell in SHELLS]
    if name == "docs":
        from muster.cli.docs import pages

        return [(page, "") for page in pages()]
    if name == "lab" and before[1] == "fault":
        from muster.lab.faults import FAULTS

        return [("clear", "undo faults"), *((fault, row.says) for fault, row in FAULTS.items())]
    if name not in _OF_RUNS:
        return []
    newest = list_runs(store_of(located(FindOptions, {}, env), env))[::-1][:_NEWEST]
    names = dict.fromkeys(run.job.get("name", "") for run in newest)
    return [("last", "newest run"), *((word, "") for word in names if word), *((run.id, "") for run in newest)]
