"""`muster lab …`: a practice cluster on this machine, with faults that can be injected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Callable, NamedTuple, NoReturn

from muster.cli.commands import LAB
from muster.cli.help import print_command, print_lab
from muster.config.command_options import LAB as OPTIONS
from muster.config.command_options import LabInstallOptions, LabOptions, LabStatusOptions, LabUpOptions, LabUserOptions
from muster.config.parse import from_environment, parse
from muster.config.record import Options
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.lab import config_files, requirements
from muster.lab.faults import FAULTS
from muster.lab.lab import Lab, in_words
from muster.lab.spec import HEAD, SECOND_USER, address
from muster.ui.formatting import seconds, shell_word, table


class Asked(NamedTuple):
    """The arguments after `muster lab ACTION`."""

    options: Options
    rest: list[str]
    folder: str
    env: Mapping[str, str]
    began: float


def lab(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Run `muster lab …`."""
    if not words or words[0] in ("-h", "--help", "help"):
        print_lab(env)
        return 0
    name, action = words[0], ACTIONS.get(words[0])
    if action is None:
        raise InvalidRequest(
            f"unknown command: `muster lab {name}`", did_you_mean(name, ACTIONS) or "`muster lab` lists the commands"
        )
    record = OPTIONS[name]
    parsed = parse(words[1:], record.table, interleaved=name not in ("exec", "shell"), command=f"lab {name}")
    if parsed.options.get("help"):
        print_command(f"lab {name}", LAB[name], record.table, env)
        return 0
    options = record(("argv", parsed.options), ("environment", from_environment([LabOptions.lab_dir], env)))
    return action(Asked(options, parsed.operands, options.value(LabOptions.lab_dir), env, began))


def _none(asked: Asked, name: str) -> None:
    if asked.rest:
        raise InvalidRequest(f"`muster lab {name}` takes no arguments, got: {' '.join(asked.rest)}", "leave them out")


def _up(asked: Asked) -> int:
    import time

    _none(asked, "up")
    options = asked.options
    assert isinstance(options, LabUpOptions)
    made = Lab(
        nodes=options.nodes,
        gpus=options.gpus,
        cpus=options.cpus,
        shared_home=not options.no_shared_home,
        folder=asked.folder,
        scheduler=options.scheduler,
        accounting=options.accounting,
        shared=[os.path.expanduser(path) for path in (options.share or "").split(",") if path],
    )
    there = made.state() == "up" if os.geteuid() == 0 else False
    if there and all(option is LabOptions.lab_dir for option in options.all_given()):
        made = Lab.found(asked.folder)  # whatever its size
    else:
        there = not made.up()
    took = "" if there else f" ({seconds(time.monotonic() - asked.began)})"
    print(f"lab is up{took}: {HEAD} and {in_words(made.shape)}" if not there else _already(made))
    for note in made.notes:
        print(f"note: {note}")
    where = _where(asked)
    last = made.nodes[-1]
    tries = [
        (f"muster lab shell{where}", f"open a shell on {HEAD}, with ssh, srun, sbatch and mpirun as on a cluster"),
        (f"muster lab exec{where} {HEAD} -- sinfo", "run one command"),
        (f"muster lab exec{where} {HEAD} -- srun -N{len(made.nodes)} hostname", "run one task per node with Slurm"),
    ]
    if made.shape.scheduler == "sge":
        tries = [
            (f"muster lab shell{where}", f"open a shell on {HEAD}, with ssh, qsub, qstat and mpirun as on a cluster"),
            (f"muster lab exec{where} {HEAD} -- qhost", "run one command"),
        ]
    tries += [
        (f"muster lab exec{where} {HEAD} -- ssh {last} uptime", "run a command over ssh"),
        (f"muster lab fault{where} partition {last}", "inject a fault; `muster lab fault` lists them"),
        (f"muster lab down{where}", "remove the lab"),
    ]
    print("try:\n" + table([(f"    {line}", says) for line, says in tries]))
    return 0


def _where(asked: Asked) -> str:
    """Return the option by which another command finds this lab; empty if it was not needed to find it now."""
    return f" --lab-dir {shell_word(asked.folder)}" if asked.options.typed(LabOptions.lab_dir) else ""


def _already(made: Lab) -> str:
    return f"lab is already up: {HEAD} and {in_words(made.shape)}"


def _down(asked: Asked) -> int:
    _none(asked, "down")
    print("lab removed" if Lab(folder=asked.folder).down() else "no lab is up")
    return 0


def _status(asked: Asked) -> int:
    _none(asked, "status")
    requirements.check_root()
    made = Lab(folder=asked.folder)
    state = made.state()
    if state == "up":
        made = Lab.found(asked.folder)
    now = made.status() if state == "up" else {"hosts": {}, "faults": []}
    faults = {host: [name for name, where in now["faults"] if where == host] for host in ("", *made.hosts)}
    assert isinstance(asked.options, LabStatusOptions)
    if asked.options.json:
        hosts = {
            host: {"address": address(host), "pid": now["hosts"].get(host), "faults": faults[host]}
            for host in made.hosts
        }
        record = {"state": state, "folder": asked.folder, "shape": made.shape._asdict(), "notes": made.notes}
        print(json.dumps({**record, "hosts": hosts if state == "up" else {}, "faults": faults[""]}, indent=1))
        return 0 if state == "up" else 1
    if state != "up":
        print("no lab is up" if state == "none" else "a lab is partly up; `muster lab down` removes it")
        return 1
    print(f"lab is up: {HEAD} and {in_words(made.shape)}; directory: {asked.folder}")
    rows = [("HOST", "ADDRESS", "STATE", "FAULTS")]
    lives = {host: "up" if host in now["hosts"] else "down" for host in made.hosts}
    rows += [(host, address(host), lives[host], ", ".join(faults[host])) for host in made.hosts]
    print(table(rows))
    for text in [f"fault: {name}" for name in faults[""]] + [f"note: {note}" for note in made.notes]:
        print(text)
    return 0


def _exec(asked: Asked) -> int:
    if not asked.rest:
        raise InvalidRequest(
            "`muster lab exec` requires a host and a command", f"example: muster lab exec {HEAD} -- sinfo"
        )
    host, *argv = asked.rest
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise InvalidRequest(
            f"`muster lab exec {host}` requires a command", f"example: muster lab exec {host} -- hostname"
        )
    _become(asked, host, argv)


def _shell(asked: Asked) -> int:
    if len(asked.rest) > 1:
        raise InvalidRequest(f"`muster lab shell` takes one host, got: {' '.join(asked.rest)}", "name one")
    _become(asked, asked.rest[0] if asked.rest else HEAD, [asked.env.get("SHELL", "/bin/bash")])


_OF_A_SESSION = (
    "TMUX",
    "TMUX_PANE",
    "TMUX_TMPDIR",
    "STY",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
)
"""Environment variables that name sockets of a session on this machine, in its /tmp or /run."""


def _become(asked: Asked, host: str, argv: list[str]) -> NoReturn:
    """Replace this process by the command, with the current environment; a new one for the second user."""
    made = Lab.found(asked.folder)
    assert isinstance(asked.options, LabUserOptions)
    user = asked.options.user
    own = made.environment(user)
    here = {name: value for name, value in asked.env.items() if name not in _OF_A_SESSION}
    env = own if user == SECOND_USER else {**here, **config_files.variables(made.shape, made.folder)}
    cwd = os.getcwd() if user != SECOND_USER else own["HOME"]
    line = made.command(host, argv, cwd, user)
    sys.stdout.flush()
    os.execvpe(line[0], line, env)


def _ssh_config(asked: Asked) -> int:
    _none(asked, "ssh-config")
    print(Lab.found(asked.folder).ssh_config(), end="")
    return 0


def _fault(asked: Asked) -> int:
    if not asked.rest:
        rows = [(f"    {name}{' HOST' if fault.of_host else ''}", fault.says) for name, fault in FAULTS.items()]
        print(f"{table([*rows, ('    clear [NAME] [HOST]', 'undo faults: all, or the ones named')])}")
        return 0
    made = Lab.found(asked.folder)
    if asked.rest[0] == "clear":
        _clear(made, asked.rest[1:])
        return 0
    if len(asked.rest) > 2:
        raise InvalidRequest(
            f"`muster lab fault` takes one fault and one host, got: {' '.join(asked.rest)}", "inject one at a time"
        )
    made.fault(*asked.rest)
    name, host = asked.rest[0], asked.rest[1] if len(asked.rest) > 1 else ""
    undo = f"muster lab fault{_where(asked)} clear {name}{' ' + host if host else ''}"
    print(f"{host or 'lab'}: {FAULTS[name].says}\nundo: {undo}")
    return 0


def _clear(made: Lab, words: list[str]) -> None:
    name = host = ""
    for word in words:
        if word in FAULTS:
            name = word
        elif word in made.hosts:
            host = word
        else:
            raise InvalidRequest(
                f"not a fault or host of the lab: `{word}`", did_you_mean(word, [*FAULTS, *made.hosts]) or None
            )
    done = made.clear(name, host)
    print("\n".join(f"cleared: {name}{' ' + host if host else ''}" for name, host in done) or "no matching faults")


def _install(asked: Asked) -> int:
    _none(asked, "install")
    assert isinstance(asked.options, LabInstallOptions)
    packages = requirements.install(asked.options.scheduler, asked.options.accounting)
    print(f"installed: {', '.join(packages)}" if packages else "everything the lab needs is already installed")
    return 0


ACTIONS: Mapping[str, Callable[[Asked], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "exec": _exec,
    "shell": _shell,
    "fault": _fault,
    "ssh-config": _ssh_config,
    "install": _install,
}
