"""`muster diff`: what differs between two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from muster.cli.common import find_operand_run, parse_command
from muster.client.client import Client
from muster.client.reconcile import reconcile
from muster.config.command_options import DiffOptions
from muster.core.comparison import RunFacts, differences
from muster.errors import InvalidRequest
from muster.rundir.comparing import facts_for_comparison, last_success
from muster.rundir.run import Run
from muster.ui.diff_text import diff_as_json, diff_in_words
from muster.ui.text import reason_of_end


def diff(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print what differs between two runs; return 0, whether or not something does."""
    asked = parse_command(DiffOptions, "diff", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if len(rest) > 2:
        raise InvalidRequest(f"`muster diff` compares two runs, got {len(rest)}: {' '.join(rest)}", "name two")
    runs = [find_operand_run(store, [word], "diff") for word in rest or ["last"]]
    if len(runs) == 1:
        earlier = last_success(runs[0])
        if earlier is None:
            raise InvalidRequest(
                f"no earlier successful run of the script of {runs[0].id}", "name two runs: `muster diff RUN1 RUN2`"
            )
        runs.insert(0, earlier)
    before, after = map(_facts, runs)
    found = differences(before, after)
    print(
        json.dumps(diff_as_json(before, after, found), indent=1)
        if options.json
        else diff_in_words(before, after, found)
    )
    return 0


def _facts(run: Run) -> RunFacts:
    """Return what a run is compared by, with its present state; files of a run elsewhere are fetched."""
    with Client(run) as client:
        status = reconcile(run, client=client)
    outcome = run.outcome
    reason = reason_of_end(outcome, run.hosts) if outcome is not None else ""
    return facts_for_comparison(run, str(status.state), reason)
