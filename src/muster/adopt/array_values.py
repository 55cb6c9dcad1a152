"""`${VALUES[$SLURM_ARRAY_TASK_ID]}` of a job array: a sweep over the values that the script lists. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from muster.adopt.adoption import Argument, Launch, Remark
from muster.adopt.values import Scope, resolved
from muster.lint.model import Assignment

_ELEMENT = re.compile(r"\$\{(\w+)\[\$?\{?SLURM_ARRAY_TASK_ID\}?\]\}")
_SETS = re.compile(r"export (\w+)=(.*)")
_PLAIN = re.compile(r"[\w./+-]+")
_INDEX = re.compile(r"(\d+)(?:-(\d+))?")
_QUOTED = re.compile(r'"\$\{\w+\[[^]]*\]\}"')


def with_values(launch: Launch, assigned: Sequence[Assignment], scope: Scope) -> tuple[Launch, list[Remark]]:
    """Return the launch with `--sweep` in place of `--array`, if all values that its tasks take are known."""
    options = dict(launch.options)
    listed, _, at_once = options.get("array", "").partition("%")
    texts = [*(word.shell for word in launch.program), *launch.setup, *(value for _, value in launch.env)]
    names = list(dict.fromkeys(name for text in texts for name in _ELEMENT.findall(text)))
    tasks = _tasks(listed)
    if len(names) != 1 or not tasks or any("SLURM_ARRAY_TASK_ID" in _ELEMENT.sub("", text) for text in texts):
        return launch, []
    array = next((item for item in reversed(assigned) if item.name == names[0] and item.items), None)
    items = [resolved(word, scope).text for word in array.items] if array is not None else []
    if len(items) <= max(tasks):
        return launch, []
    values = [value for value in (items[task] for task in tasks) if value]
    name = next(
        (item.name for item in assigned if item.value and _ELEMENT.fullmatch(item.value.shown)), names[0]
    ).lower()
    if len(values) != len(tasks):
        return launch, []
    env, setup = list(launch.env), []
    for line in launch.setup:
        match = _SETS.fullmatch(line) if _ELEMENT.search(line) else None
        rest = _marked(match[2], name) if match else ""
        if match and not set(rest) & set("$`'\""):
            env.append((match[1], rest))
        elif match or _ELEMENT.search(line):
            return launch, []  # a line for a shell cannot have a value of the sweep
        else:
            setup.append(line)
    sweep = ",".join(values) if all(map(_PLAIN.fullmatch, values)) else json.dumps(values, ensure_ascii=False)
    program = [_argument(word, name) for word in launch.program]
    others = [(key, value) for key, value in launch.options if key != "array"]
    changed = launch._replace(
        program=tuple(program),
        env=tuple((key, _marked(value, name)) for key, value in env),
        setup=tuple(setup),
        options=(("sweep", f"{name}={sweep}"), *others),
    )
    says = f"--array={listed} takes values of ${names[0]}: the line has them as a sweep, a task of an array for each"
    if at_once:
        says += f"; %{at_once}: not taken over"
    return changed, [Remark(launch.line, "", says)]


def _argument(word: Argument, name: str) -> Argument:
    shell = _marked(word.shell, name)
    if shell == word.shell:
        return word
    plain = not set(shell) & set("$`")
    return Argument(
        f"'{shell}'" if plain and "'" not in shell and '"' not in shell else shell, word.in_job and not plain
    )


def _marked(text: str, name: str) -> str:
    text = _QUOTED.sub(lambda found: found[0][1:-1], text)
    return _ELEMENT.sub(f"{{{name}}}", text)


def _tasks(listed: str) -> list[int]:
    """Return the numbers of `0-3,7`; nothing for another form."""
    found: list[int] = []
    for piece in listed.split(",") if listed else ():
        match = _INDEX.fullmatch(piece)
        if not match or int(match[2] or match[1]) - int(match[1]) > 1000:
            return []
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
