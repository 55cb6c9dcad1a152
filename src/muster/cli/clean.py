"""`muster clean`: kill leftover processes of runs, on this machine or on other hosts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from muster.cli.common import parse_command
from muster.client.connection import frames
from muster.config.command_options import CleanOptions
from muster.config.hosts import named_hosts
from muster.config.program import split_words
from muster.controller.connections import ProcessConnection, start_call
from muster.core.json_records import leftover_from_json
from muster.core.printable import line as safe
from muster.errors import InvalidRequest
from muster.protocol.frames import Refused
from muster.protocol.messages import CLIENT, PROXY, between
from muster.rundir.finding import look_for_runs
from muster.rundir.unfinished import remove, unfinished
from muster.transports.target import Target
from muster.ui.reason_text import leftover_in_words, process_in_words

_WITHIN = 60.0
_NO_ANSWER = 3
"""The exit code if a host does not answer."""


def clean(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Kill processes of this user's runs that nobody supervises any more; return 1 if some are still alive."""
    asked = parse_command(CleanOptions, "clean", words, env)
    if asked is None:
        return 0
    options, _, store = asked
    if options.typed(CleanOptions.run_dir):
        raise InvalidRequest(
            "--run-dir cannot select processes: they are found by the run ID in their environment",
            "leave out --run-dir; `muster clean --dry-run` lists what would be killed",
        )
    found = named_hosts(options.hosts, options.hostfile)
    here = Target("local", os.uname().nodename, python=options.python or sys.executable)
    ssh, python = split_words(options.ssh, "--ssh"), options.python or "python3"
    dry = options.dry_run
    targets = [Target("ssh", host.name, host.user, python, ssh=ssh) for host in found] or [here]
    if options.env_dir is not None and not options.environments and options.typed(CleanOptions.env_dir):
        raise InvalidRequest("--env-dir requires --environments", "add `--environments`")
    places = [options.env_dir or ""] if options.environments else None
    links = [start_call(target, env, "clean", dry=dry, environments=places) for target in targets]
    status = 0
    killed = [] if found else unfinished(look_for_runs(store).unrecorded)
    for run in killed:
        print(f"{here.host}: {run.id}: {'found' if dry else 'cleaned up'} {safe(str(run.path))}")
    if not dry:
        remove(store, killed)
    for link in links:
        status = max(status, _tell(link, dry, bool(killed)))
    return status


def _tell(link: ProcessConnection, dry: bool, told_more: bool) -> int:
    """Print what one host reported, and return the exit code for it; `told_more`: something else was cleaned up."""
    for fields, _ in frames(link, _WITHIN):
        if fields["kind"] != "cleaned":
            continue
        try:
            told = between(PROXY, CLIENT)["cleaned"].fitting(fields)
        except Refused as error:
            print(f"{link.host}: invalid answer: {error}", file=sys.stderr)
            return _NO_ANSWER
        runs, folders = told["runs"], told["folders"]
        for run in {**runs, **folders}:
            processes = map(leftover_from_json, runs.get(run, ()))
            words = [*map(process_in_words, processes), *map(safe, folders.get(run, ()))]
            print(f"{link.host}: {safe(run)}: {'found' if dry else 'cleaned up'} {'; '.join(words)}")
        for path in told.get("environments", ()):
            print(f"{link.host}: {'found' if dry else 'removed'} environment {safe(path)}")
        for found in map(leftover_from_json, told["left"]):
            print(f"{link.host}: {leftover_in_words(found)}", file=sys.stderr)
        if not runs and not folders and not told.get("environments") and not told_more:
            print(f"{link.host}: nothing to clean up")
        return 1 if told["left"] else 0
    print(f"{link.host}: no answer: {link.stderr_summary() or 'no error message'}", file=sys.stderr)
    return _NO_ANSWER
