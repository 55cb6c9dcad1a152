"""`muster check`: verify that distributed training works here, with the same hosts and launchers as `muster run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.cli.commands import COMMANDS
from muster.cli.common import store_of
from muster.cli.help import print_command
from muster.cli.run import start
from muster.cli.run_line import context_of, read_line
from muster.config.command_options import CHECK, CheckOptions
from muster.config.files import check_target
from muster.config.options import RunOptions
from muster.config.program import script_of_ours
from muster.config.record import Option
from muster.core.env_forwarding import redact_argv
from muster.core.json_checks import table
from muster.core.model import BUNDLED, Plan
from muster.core.plurals import plural
from muster.diagnostics.selftest.html import page
from muster.diagnostics.selftest.text import end_in_words, section_in_words
from muster.diagnostics.selftest.verdicts import SECTIONS, Verdict, evaluate
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.shell import join
from muster.ui.terminal import TerminalView

_REFUSED: Mapping[Option[object], str] = {
    RunOptions.detach: "the result is printed when the run ends",
    RunOptions.module: "it runs a built-in script",
    RunOptions.no_python: "it runs a built-in script",
    RunOptions.stdin: "its script does not read stdin",
    RunOptions.sync: "it runs a built-in script",
    RunOptions.no_code_check: "it runs a built-in script",
    RunOptions.snapshot: "it runs a built-in script",
    RunOptions.on_hang: "a hang is a failed check",
    RunOptions.max_restarts: "a failed rank is a failed check",
    RunOptions.always_restart: "a failed rank is a failed check",
    RunOptions.restart_delay: "a failed rank is a failed check",
}
"""Options of `run` that have no effect here, and why."""


def check(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Run the self-test; return 0 if all checks pass, 1 if some fail, otherwise the exit code of the run."""
    parsed, options = read_line(words, env, CheckOptions, "check")
    if options.help:
        print_command("check", COMMANDS["check"], CHECK, env)
        return 0
    if parsed.operands:
        raise InvalidRequest(
            f"`muster check` runs a built-in script, got: {parsed.operands[0]}", "run your own script with `muster run`"
        )
    for option, why in _REFUSED.items():
        if options.typed(option):
            raise InvalidRequest(f"`muster check` does not accept {option.long_name}: {why}", "leave it out")
    check_target(options.html, "--html")
    options = options.without(*_REFUSED)
    if not options.typed(CheckOptions.json):  # otherwise it is the option of `run`, which prints events
        options = options.without(CheckOptions.json)
    arguments = [f"--backend={options.backend}"] if options.backend is not None else []
    parsed = parsed._replace(operands=[f"{BUNDLED}check.py", *arguments])
    views: list[CheckView] = []

    def viewer(plan: Plan, run_id: str, operand: str) -> CheckView:
        views.append(CheckView(plan, run_id, env, options.json))
        return views[-1]

    script = script_of_ours("selftest.py")
    status = start(context_of(["check", *words], parsed, options, env, began, "check", viewer, script))
    if not views:
        return status
    return _conclude(views[-1], options, status, words, env)


class CheckView(TerminalView):
    """Takes the result lines of rank 0, and shows each section as it arrives."""

    def __init__(self, plan: Plan, run_id: str, env: Mapping[str, str], silent: bool):
        super().__init__(plan, run_id, env)
        self.told: dict[str, Mapping[str, Any]] = {}
        self.silent = silent
        """True for JSON output, so that no text is printed on stdout."""
        self._rest = b""

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Handle a result, or show the output of a library."""
        if rank != 0 or stream != "out":
            super().output(rank, "err", data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            told = _section(line)
            if told is None:
                super().output(rank, "err", line + b"\n")
                continue
            self.told[told["section"]] = told
            if not self.silent:
                self.put(1, (section_in_words(told["section"], self.told, self.verdicts()) + "\n").encode())

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts so far."""
        return evaluate(self.told, self.plan.world_size)


def _section(line: bytes) -> dict[str, Any] | None:
    """Return the results in a line; None if it is something else, or a library has written into it."""
    if not line.startswith(b'{"section": '):
        return None
    try:
        return table(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _conclude(
    view: CheckView,
    options: CheckOptions,
    status: int,
    words: Sequence[str],
    env: Mapping[str, str],
) -> int:
    """Store the result in the run directory, and print it."""
    verdicts = view.verdicts()
    command = join(["muster", "check", *redact_argv(list(words))])
    folder = store_of(options, env).path(view.run_id)
    result = {
        "run": view.run_id,
        "command": command,
        "ranks": view.plan.world_size,
        "launcher": view.plan.job.launcher,
        "sound": status == 0 and all(verdict.passed for verdict in verdicts),
        "statements": [verdict.as_json() for verdict in verdicts],
        "told": view.told,
    }
    title = f"muster check: {plural(view.plan.world_size, 'rank')}, {view.plan.job.launcher}"
    text = page(view.told, verdicts, title, command)
    written = _written(folder / "check.json", json.dumps(result) + "\n") and _written(folder / "check.html", text)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for section in SECTIONS:
            if section not in view.told:
                print(section_in_words(section, view.told, verdicts))
        print(end_in_words(verdicts))
        if options.html is not None or written:
            print(f"report: {options.html if options.html is not None else folder / 'check.html'}", file=sys.stderr)
    if options.html is not None and not _written(Path(options.html), text) and written:
        print(f"hint: the report is {folder}/check.html", file=sys.stderr)
    return status or (0 if result["sound"] else 1)


def _written(path: Path, text: str) -> bool:
    """Write a file, and return whether that succeeded: the result is on the terminal, too."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"warning: cannot write {path}: {processes.reason(error)}", file=sys.stderr)
        return False
    return True
