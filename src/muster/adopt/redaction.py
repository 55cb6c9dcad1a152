"""No secret of a script in what is said about it. What is a secret decides `muster.core.env_forwarding`. Pure."""

from __future__ import annotations

import re
import shlex

from muster.adopt.adoption import Adoption, Argument, Launch, Remark
from muster.adopt.values import SECRET
from muster.core.env_forwarding import REDACTED, is_secret, redact_argv, secrets_in, without_secrets

_WHY = "a secret: set {} where you start muster"
_PART = 4
"""A remark shows the beginning of a line: so many characters of a secret at its end are hidden too."""


def redacted(adoption: Adoption, source: str) -> Adoption:
    """Return what was understood of a script without its secrets; the line names variables in their place."""
    values = secrets_in(source)
    launches, remarks = [], []
    for launch in adoption.launches:
        launch, said = _launch(launch, values)
        launches.append(launch)
        remarks += said
    return adoption._replace(
        launches=tuple(launches),
        changed=tuple(_remark(remark, values) for remark in (*adoption.changed, *remarks)),
        unused=tuple(_remark(remark, values) for remark in adoption.unused),
        unknown=tuple(_remark(remark, values) for remark in adoption.unknown),
    )


def _hidden(text: str, values: tuple[str, ...]) -> str:
    text = without_secrets(text, values)
    for value in values:
        for count in range(len(value) - 1, _PART - 1, -1):
            if text.endswith(value[:count]):
                return text[:-count] + REDACTED
    return text


def _remark(remark: Remark, values: tuple[str, ...]) -> Remark:
    return remark._replace(text=_hidden(remark.text, values), says=without_secrets(remark.says, values))


def _launch(launch: Launch, values: tuple[str, ...]) -> tuple[Launch, list[Remark]]:
    remarks: list[Remark] = []
    program: list[Argument] = []
    env = dict(launch.env)
    before = ""
    for argument in launch.program:
        word = _word(argument.shell)
        option = word.partition("=")[0] if word.startswith("-") and "=" in word else before
        if "$" not in argument.shell and REDACTED in "".join([*redact_argv([before, word]), _hidden(word, values)]):
            name = _variable(option, word, env, values)
            start = f"{option}=" if option and word.startswith(f"{option}=") else ""
            argument = Argument(f'{start}"${name}"', argument.in_job)
            if any(other.in_job for other in launch.program):
                env.setdefault(name, SECRET)
            remarks.append(Remark(launch.line, option, _WHY.format(name)))
        program.append(argument)
        before = word if word.startswith("-") and "=" not in word else ""
    for name, value in env.items():
        if value != SECRET and (is_secret(name, value) or _hidden(value, values) != value):
            env[name] = SECRET
            remarks.append(Remark(launch.line, name, _WHY.format(name)))
    setup = tuple(_setup(line, values) for line in launch.setup)
    for line, old in zip(setup, launch.setup):
        if line != old:
            remarks.append(Remark(launch.line, line, "a secret in a line of --setup: put it into a file that it reads"))
    return launch._replace(
        program=tuple(program),
        env=tuple(env.items()),
        setup=setup,
        launcher_args=tuple(_hidden(word, values) for word in launch.launcher_args),
        options=tuple((name, _hidden(value, values)) for name, value in launch.options),
        cwd=_hidden(launch.cwd, values),
        typed=without_secrets(launch.typed, values),
    ), remarks


_FROM_ELSEWHERE = re.compile(r"export \w+=[\"']?[$`]")
"""`export WANDB_API_KEY=$(cat key)` has no secret in it."""


def _setup(line: str, values: tuple[str, ...]) -> str:
    if not _FROM_ELSEWHERE.match(line):
        return _hidden(line, values)
    for value in values:
        line = line.replace(value, REDACTED)
    return line


def _word(shell: str) -> str:
    try:
        words = shlex.split(shell)
    except ValueError:
        return shell
    return words[0] if len(words) == 1 else shell


def _variable(option: str, word: str, env: dict[str, str], values: tuple[str, ...]) -> str:
    """Return the name of the variable that takes the place of a secret: of the option, in capitals."""
    name = option.strip("-").replace("-", "_").upper()
    return name if name.isidentifier() else "SECRET"
