"""The hosts that a script reaches with ssh, and the launches of single hosts that belong together. Pure."""

from __future__ import annotations

import re

from muster.adopt.adoption import Launch
from muster.adopt.found import SHELLS, Found, ReadFile
from muster.adopt.slurm import Request
from muster.adopt.values import Scope, resolved, text
from muster.lint.model import Script, Word


def hosts_of_files(script: Script, read_file: ReadFile) -> tuple[str, ...]:
    """Return the hosts of a file that xargs, grep -c or `head -n 1` read."""
    for path in _host_files(script):
        content = read_file(path)
        if content is not None:
            lines = (line.partition("#")[0].split() for line in content.splitlines())
            return tuple(words[0] for words in lines if words)
    return ()


def _host_files(script: Script) -> list[str]:
    found = []
    for command in script.everything():
        for program in command.programs:
            if program.name == "xargs" and program.value("--arg-file") is not None:
                found.append(text(program.value("--arg-file"), Scope({})))
            if program.name in ("pdsh", "clush") and program.value("--hostfile") is not None:
                found.append(text(program.value("--hostfile"), Scope({})))
            if program.name == "cat" and command.piped_to in ("while", "xargs", "read") and program.operands:
                found.append(program.operands[-1].shown)
    found += [
        redirect.target.shown
        for command in script.commands
        if command.name in ("mapfile", "readarray", "read")
        for redirect in command.redirects
        if redirect.operator == "<" and redirect.target is not None
    ]
    found += re.findall(r"\bdone\s*<\s*([\w./-]+)", script.source.text)  # a loop that reads a file
    listed = re.findall(r"\bin\s+(?:\$\((?:cat\s+|<\s*)([\w./-]+)\)|`cat\s+([\w./-]+)`)", script.source.text)
    found += [first or second for first, second in listed]
    return [path for path in found if path and not path.startswith("/dev/")]


def with_hosts(
    launch: Launch, found: Found, script: Script, scope: Scope, hosts: tuple[str, ...], request: Request | None
) -> Launch:
    """Return the launch with the hosts that ssh reaches, if nothing else names them."""
    remote = next((program for program in found.outer if program.name in SHELLS), None)
    if remote is None or request or launch.hosts or launch.hostfile:
        return launch
    if remote.name in ("pdsh", "clush") and remote.value("-w", "--nodes", "--hosts") is not None:
        named = text(remote.value("-w", "--nodes", "--hosts"), scope)
        return launch._replace(hosts=(named,) if "[" in named else tuple(named.split(",")), nodes=None)
    files = _host_files(script)
    target = remote.operands[0] if remote.operands else None
    name = resolved(target, scope).text if target is not None else None
    if name and "{" not in name:
        return launch._replace(hosts=(name,))
    listed = _listed(script, target, scope)
    if listed:
        user = target.start if target is not None and target.start.endswith("@") else ""
        return launch._replace(hosts=tuple(f"{user}{host}" for host in listed), nodes=None)
    if files:
        return launch._replace(hostfile=files[0], nodes=None if hosts else launch.nodes)
    return launch


def written_hosts(launch: Launch, script: Script) -> Launch:
    """Return the launch with the hosts of a host file that a heredoc of the script writes."""
    for heredoc in script.heredocs:
        if launch.hostfile and heredoc.target == launch.hostfile and heredoc.body.text is not None:
            lines = [line.partition("#")[0].split() for line in heredoc.body.text.splitlines()]
            hosts = tuple(_with_slots(words) for words in lines if words)
            hosts = hosts[: launch.nodes]  # --num_nodes takes the first
            if launch.launcher == "deepspeed" and launch.each.isdigit():  # --num_gpus takes the first slots of each
                hosts = tuple(host.partition(":")[0] for host in hosts)
            return launch._replace(hosts=hosts, hostfile="", nodes=None)
    return launch


def _with_slots(words: list[str]) -> str:
    slots = next((word.partition("=")[2] for word in words[1:] if word.startswith("slots=")), "")
    return f"{words[0]}:{slots}" if slots else words[0]


def _listed(script: Script, target: Word | None, scope: Scope) -> tuple[str, ...]:
    """Return the hosts of an array, or of the list of a `for` loop."""
    if target is None:
        return ()
    for part in target.expansions:
        for item in script.assignments:
            if item.name == part.name and item.items:
                words = [resolved(word, scope).text for word in item.items]
                return tuple(word for word in words if word)
        loop = re.search(rf"\bfor\s+{re.escape(part.name)}\s+in\s+([^;\n]+)", script.source.text)
        if loop:
            array = re.fullmatch(r'"?\$\{(\w+)\[@\]\}"?', loop[1].strip())
            if array:
                for item in script.assignments:
                    if item.name == array[1] and item.items:
                        return tuple(word for word in (resolved(word, scope).text for word in item.items) if word)
            elif not set(loop[1]) & set("$`*?{"):
                return tuple(loop[1].split())
            else:
                known = scope.values.get(loop[1].strip().strip('"').strip("${}"))
                if isinstance(known, Word) and known.text:
                    return tuple(known.text.split())
    return ()


def joined(launches: list[Launch]) -> list[Launch]:
    """Join lines that start the nodes of one launch one by one: `ssh n1 torchrun --node-rank 0`, `ssh n2 …`."""
    found: list[Launch] = []
    for launch in launches:
        last = found[-1] if found else None
        # `ssh n1 torchrun` without --nnodes is a run of its own
        same = last is not None and launch.hosts and len(launch.hosts) == 1 and launch.nodes != 1
        if same and last is not None and last._replace(hosts=(), line=0) == launch._replace(hosts=(), line=0):
            found[-1] = last._replace(hosts=(*last.hosts, *launch.hosts))
        else:
            found.append(launch)
    return [launch._replace(nodes=None) if launch.hosts and not launch.scheduled else launch for launch in found]
