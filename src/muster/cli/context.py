"""How the commands that start or watch a run show it: messages on stderr, and views."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from muster.cli.common import notes_in_words, store_of
from muster.config.command_options import AttachOptions
from muster.config.options import RunOptions
from muster.config.spawning import spawn_warnings
from muster.config.torchrun import ignored_notes
from muster.core.model import Plan
from muster.errors import MusterError
from muster.rundir.finding import find_run
from muster.rundir.run import Run
from muster.runner.context import Viewer

if TYPE_CHECKING:
    from muster.core.results import RunResult
    from muster.ui.view import View


def tell_progress(text: str, quiet: bool = False) -> None:
    """Print a progress message on stderr."""
    if not quiet:
        print(f"muster: {text}", file=sys.stderr, flush=True)


def viewer_of(options: RunOptions | AttachOptions, env: Mapping[str, str], prefix: str | None = None) -> Viewer:
    """Return what creates the view for these options, which raises `InvalidRequest` for an invalid `--prefix`.

    `prefix`: the text before each line unless the options have one.
    """
    quiet = isinstance(options, RunOptions) and options.quiet
    before = options.prefix if options.prefix is not None else prefix

    def view(plan: Plan, run_id: str, operand: str) -> View:
        from muster.ui.terminal import JsonView, TerminalView

        if options.json:
            return JsonView(run_id, options.ranks, quiet)

        def notes(outcome: RunResult) -> list[str]:
            store = store_of(options, env)
            try:
                kept = Run(store.path(run_id))
                return notes_in_words(kept if kept.path.is_dir() else find_run(store, run_id), outcome)
            except MusterError:
                return []  # the run was deleted meanwhile

        shown = TerminalView(plan, run_id, env, before, options.ranks, quiet, notes)
        shown.operand = operand
        for note in [*(() if quiet else ignored_notes(options)), *spawn_warnings(plan.job)]:
            shown.say(note)
        return shown

    return view
