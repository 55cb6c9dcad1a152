"""Rules about host files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from muster.lint.model import Source, Span
from muster.lint.rule import ERROR, HOSTFILE, WARNING, Finding, Rule

_LINE = re.compile(r"(?P<host>[A-Za-z0-9_.\-\[\]:%@]+?)(?::(?P<count>\d+))?(?:\s+(?P<rest>.*))?")
_SLOTS = re.compile(r"slots\s*=\s*(\S*)")


class HostLine(NamedTuple):
    """A line with a host."""

    host: str
    slots: str | None
    """The text after `slots=` or `:`; None if there is none."""
    form: str
    """slots, colon, or plain."""
    span: Span


class Hosts:
    """A host file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.lines: list[HostLine] = []
        self.unknown: list[Span] = []
        for number in range(1, source.lines + 1):
            text = source.line(number).partition("#")[0].rstrip()
            if not text.strip():
                continue
            start = source.start_of(number) + len(text) - len(text.lstrip())
            span = Span(start, source.start_of(number) + len(text))
            match = _LINE.fullmatch(text.strip())
            rest = match["rest"] or "" if match else ""
            slots = _SLOTS.search(rest)
            if match is None or (
                rest and not re.match(r"(slots|max[-_]slots|ansible_\w+|gpu|port|sockets|binding)\b", rest)
            ):
                self.unknown.append(span)
            elif slots:
                self.lines.append(HostLine(match["host"], slots[1], "slots", span))
            else:
                form = "colon" if match["count"] else "plain"
                self.lines.append(HostLine(match["host"], match["count"], form, span))


def host_twice(hosts: Hosts) -> Iterator[Finding]:
    """A host that is listed twice with slots."""
    seen: dict[str, HostLine] = {}
    for line in hosts.lines:
        if line.host in seen and (line.slots or seen[line.host].slots):
            first = hosts.source.place(seen[line.host].span.start)[0]
            yield Finding(line.span, f"{line.host} is also in line {first}")
        seen.setdefault(line.host, line)


def invalid_slots(hosts: Hosts) -> Iterator[Finding]:
    """A number of slots that is none."""
    for line in hosts.lines:
        if line.slots is not None and (not line.slots.isdigit() or int(line.slots) == 0):
            yield Finding(line.span, f"`{line.slots}` is not a number of ranks")


def mixed_forms(hosts: Hosts) -> Iterator[Finding]:
    """`n1 slots=4` and `n2:4` in one file."""
    forms = [line.form for line in hosts.lines if line.form != "plain"]
    for line in hosts.lines:
        if line.form != "plain" and line.form != forms[0]:
            yield Finding(line.span, "Open MPI and DeepSpeed read `slots=`, MPICH reads `HOST:N`; this file has both")
            return


def loopback_among_hosts(hosts: Hosts) -> Iterator[Finding]:
    """localhost beside other hosts."""
    if len({line.host for line in hosts.lines}) < 2:
        return
    for line in hosts.lines:
        if line.host in ("localhost", "127.0.0.1", "::1"):
            yield Finding(line.span, f"{line.host} is another host on each of the hosts")


RULES = (
    Rule(
        "host-twice",
        ERROR,
        HOSTFILE,
        host_twice,
        "a host that is listed twice",
        "DeepSpeed rejects the file; Open MPI adds the slots, and there are more ranks than GPUs on the host.",
        "Delete one of the lines.",
        "n1 slots=4\nn2 slots=4\nn1 slots=4\n",
        "n1 slots=4\nn2 slots=4\nn3 slots=4\n",
    ),
    Rule(
        "invalid-slots",
        ERROR,
        HOSTFILE,
        invalid_slots,
        "`slots=` without a number above 0",
        "The launcher rejects the file. A variable such as `$GPUS` is not expanded in it.",
        "Write the number of GPUs of the host.",
        "n1 slots=$GPUS\nn2 slots=4\n",
        "n1 slots=8\nn2 slots=4\n",
    ),
    Rule(
        "mixed-host-forms",
        ERROR,
        HOSTFILE,
        mixed_forms,
        "`n1 slots=4` and `n2:4` in one file",
        "Each launcher reads one of the forms, and takes the other for a part of the name.",
        "Use `slots=` for Open MPI and DeepSpeed, `HOST:N` for MPICH.",
        "n1 slots=4\nn2:4\n",
        "n1:4\nn2:4\n",
    ),
    Rule(
        "loopback-among-hosts",
        WARNING,
        HOSTFILE,
        loopback_among_hosts,
        "localhost beside other hosts",
        "Launchers give the name of the first host to the others as the address of the rendezvous: they connect to "
        "themselves.",
        "Write the name by which the other hosts reach it.",
        "localhost slots=4\nn2 slots=4\n",
        "n1 slots=4\nn2 slots=4\n",
    ),
)
