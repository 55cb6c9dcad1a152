"""The hosts named by options, and the settings for single hosts."""

from __future__ import annotations

import os
from typing import Any

from muster.config.files import read_text
from muster.config.options import RunOptions
from muster.core import hostlist
from muster.core.hostlist import HostSpec
from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.schedulers import get_scheduler, title, typed


def named_hosts(named: str | None, hostfile: str | None, cwd: str = "") -> tuple[HostSpec, ...]:
    """Return the hosts named by `--hosts` or `--hostfile`; empty without them. Raises `InvalidRequest`."""
    if named is not None and hostfile is not None:
        raise InvalidRequest("--hosts cannot be combined with --hostfile", "leave out one of them")
    if named is not None:
        return hostlist.parse_hosts(named)
    if hostfile is not None:
        return hostlist.parse_hostfile(read_text(os.path.join(cwd, hostfile), "--hostfile"), hostfile)
    return ()


def wanted_hosts(options: RunOptions, cwd: str) -> tuple[HostSpec, ...]:
    """Return the named hosts that get a rank, and then the spares; empty if the run is on this machine.

    Raises `InvalidRequest`.
    """
    if options.elsewhere and options.scheduled:
        naming = options.option(get_scheduler(options.scheduled).nodelist)
        raise InvalidRequest(
            f"{typed(options.scheduled)} cannot be combined with hosts: {title(options.scheduled)} chooses the nodes",
            "leave out one of them" + (f"; request nodes with {naming.long_name}" if naming is not None else ""),
        )
    if not options.elsewhere:
        for option in (RunOptions.include, RunOptions.exclude):
            if options.given(option):
                hint = "name hosts with --hosts or --hostfile"
                raise InvalidRequest(f"{option.long_name}: no hosts to choose from", hint)
        return ()
    found = named_hosts(options.hosts, options.hostfile, cwd)
    found = hostlist.filter_hosts(found, options.include, options.exclude)
    count = options.nodes
    spare = options.spare_nodes
    if count is None and spare >= len(found):
        raise InvalidRequest(f"--spare-nodes {spare}: only {plural(len(found), 'host')} given", "name more hosts")
    if count is not None:
        if count + spare > len(found):
            names = hostlist.fold_hostlist(host.name for host in found)
            and_spares = f" and --spare-nodes {spare}" if spare else ""
            raise InvalidRequest(
                f"--nnodes {count}{and_spares}: only {plural(len(found), 'host')} given: {names}",
                "name more hosts",
            )
        found = found[: count + spare]
    found, spares = (found[:-spare], found[-spare:]) if spare else (found, ())
    return (*with_slots(found, options), *spares)


def with_slots(found: tuple[HostSpec, ...], options: RunOptions) -> tuple[HostSpec, ...]:
    """Return the hosts that get a rank, with their numbers of ranks. Raises `InvalidRequest`."""
    each = options.nproc_per_node
    number = int(each) if each is not None and each.isdigit() else None
    counts = hostlist.assign_slots(found, number, options.np)
    idle = [host.name for host, count in zip(found, counts) if count == 0]
    if idle and options.nnodes is not None:
        raise InvalidRequest(
            f"--nnodes {options.nnodes} with -n {options.np} leaves {hostlist.fold_hostlist(idle)} without a rank",
            f"use `--nnodes {len(found) - len(idle)}`, or leave out --nnodes",
        )
    return tuple(host._replace(slots=count, gpus=host.gpus[:count]) for host, count in zip(found, counts) if count != 0)


def split_per_host(items: Any, names: tuple[str, ...], option: str) -> tuple[list[str], dict[str, list[str]]]:
    """Split `HOSTS:VALUE` from plain values: (for all hosts, {host: values for it only})."""
    every: list[str] = []
    single: dict[str, list[str]] = {}
    for item in items:
        first, colon, value = item.partition(":")
        try:
            chosen = hostlist.expand_hostset(first, option) if colon and names else []
        except InvalidRequest:
            chosen = []
        if chosen and set(chosen) <= set(names):
            for name in chosen:
                single.setdefault(name, []).append(value.strip())
        else:
            every.append(item)
    return every, single
