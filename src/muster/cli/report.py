"""`muster report`: a run as one HTML file, to read and to send to others."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from muster.cli.common import find_operand_run, parse_command
from muster.client.client import Client
from muster.client.reconcile import reconcile
from muster.config.command_options import ReportOptions
from muster.config.files import check_target
from muster.core.results import RunState
from muster.errors import ControlError
from muster.linux import processes
from muster.report import REPORT, make_report
from muster.rundir.run import Run


def report(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Write the report of a run, and print its path."""
    asked = parse_command(ReportOptions, "report", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    check_target(options.output, "--output")
    run = find_operand_run(store, rest, "report")
    with Client(run) as client:
        status = reconcile(run, client=client)
        if not client.sync_files():
            print("warning: the host of the run does not answer; the report has what is known here", file=sys.stderr)
    state = f"{status.state}: {status.why}" if status.why else str(status.state)
    text = make_report(run, env, "" if status.state is not RunState.RUNNING and run.outcome is not None else state)
    path = _write(run, text, options.output)
    print(path)
    if options.open:
        _open(path, env)
    return 0


def _write(run: Run, text: str, output: str | None) -> str:
    """Write the report to the named file, or into the run directory; return its path."""
    path = Path(output) if output is not None else run.path / REPORT
    try:
        if output is None:
            run.replace(REPORT, text.encode("utf-8", "replace"))
        else:
            path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ControlError(f"cannot write {path}: {processes.reason(error)}", "choose another file with -o") from None
    return str(path)


def _open(path: str, env: Mapping[str, str]) -> None:
    """Open the report in the user's browser; a browser in the terminal would hide its path."""
    import webbrowser

    shows = sys.platform == "darwin" or env.get("DISPLAY") or env.get("WAYLAND_DISPLAY")
    if not shows or not webbrowser.open(f"file://{os.path.abspath(path)}"):
        print("warning: cannot open a browser here", file=sys.stderr)
