"""The command line of muster for a launch, and muster.toml for what a project keeps. Pure."""

from __future__ import annotations

import json
import re

from muster.adopt.adoption import Launch
from muster.adopt.values import SECRET
from muster.export._shell import quote
from muster.linux.shell import join


def groups(launch: Launch) -> list[list[str]]:
    """Return the words of the command line, quoted for a shell, in the groups in which they are shown."""
    where, ranks, env = _where(launch), _ranks(launch), []
    for name, value in launch.env:
        env.append(f"--env {quote(name if value == SECRET else f'{name}={value}')}")
    setup = [f"--setup {quote(line)}" for line in launch.setup]
    more = [f"--{name} {_option(name, value)}" if value else f"--{name}" for name, value in launch.options]
    launcher = [f"--launcher {launch.launcher}"] if launch.launcher else []
    if launch.launcher_args:
        launcher.append(f"--launcher-args {quote(join(launch.launcher_args))}")
    python = [f"--python {quote(launch.python)}"] if launch.python else []
    cwd = [f"--cwd {_path(launch.cwd)}"] if launch.cwd else []
    return [["muster run", *where, *ranks], [*launcher, *python, *cwd], more, env, setup, _program(launch)]


def _option(name: str, value: str) -> str:
    """Return the value of an option as it is typed; the shell expands variables in it."""
    return f'"{value}"' if "$" in value and not set(value) & set('"`!') else quote(value)


def command_line(launch: Launch) -> str:
    """Return the command line, over several lines if it is long."""
    if launch.typed:
        return launch.typed
    parts = [line for group in groups(launch)[:-1] for line in _lines(group)]
    parts.append(" ".join(groups(launch)[-1]))
    whole = " ".join(parts)
    return whole if len(whole) <= 100 else " \\\n  ".join(parts)


def _path(text: str) -> str:
    """Return a path as it is typed; the shell expands `~` and variables."""
    if re.fullmatch(r"[~$][\w./{}-]*", text):
        return text
    return f'"{text}"' if "$" in text or "`" in text else quote(text)


def _lines(group: list[str]) -> list[str]:
    lines: list[str] = []
    for word in group:
        if lines and len(lines[-1]) + len(word) < 96:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _where(launch: Launch) -> list[str]:
    if launch.scheduled:
        return ["--slurm", *([f"-N {launch.nodes}"] if launch.nodes else [])]
    words = [f"--hosts {quote(','.join(launch.hosts))}"] if launch.hosts else []
    words += [f"--hostfile {_path(launch.hostfile)}"] if launch.hostfile else []
    words += [f"--include {quote(launch.include)}"] if launch.include else []
    words += [f"--exclude {quote(launch.exclude)}"] if launch.exclude else []
    if words and launch.nodes and launch.hostfile:
        words.append(f"-N {launch.nodes}")
    return words


def _ranks(launch: Launch) -> list[str]:
    found = [f"-g {launch.each}"] if launch.each else []
    if launch.total is not None:
        found.append(f"-n {launch.total}")
    return found


def _program(launch: Launch) -> list[str]:
    words = [argument.shell for argument in launch.program]
    if any(argument.in_job for argument in launch.program):
        # these values are known only in the job: a shell expands them there
        start = {"script": ["python"], "module": ["python", "-m"], "command": []}[launch.kind]
        return ["--", "bash", "-c", quote(" ".join(["exec", *start, *words]))]
    return {"script": [], "module": ["-m"], "command": ["--"]}[launch.kind] + words


def in_toml(launch: Launch) -> str:
    """Return a muster.toml with the options of a cluster and of a project; empty if there are few."""
    table: dict[str, object] = {}
    if launch.scheduled:
        table["slurm"] = True
    if launch.hostfile:
        table["hostfile"] = launch.hostfile
    for name, value in launch.options:
        key = name.replace("-", "_")
        if name in ("slurm-opt", "env", "mount"):
            table.setdefault(key, [])
            items = table[key]
            assert isinstance(items, list)
            items.append(value)
        elif name not in ("name", "output", "error", "comment", "sweep", "detach"):
            table[key] = value or True
    setup = list(launch.setup)
    if setup:
        table["setup"] = setup
    known = [name if value == SECRET else f"{name}={value}" for name, value in launch.env]
    if known:
        own = table.get("env")
        table["env"] = [*known, *(own if isinstance(own, list) else [])]
    if len(table) < 4:
        return ""
    return "\n".join(["[run]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())])
