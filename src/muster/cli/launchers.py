"""`muster launchers`: all ways to start ranks, whether each is installed here, and where it works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from muster.cli.common import parse_command
from muster.config.command_options import LaunchersOptions
from muster.config.python import installed
from muster.launchers import LAUNCHERS, Launcher
from muster.ui.formatting import table


def launchers(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print a table of launchers."""
    asked = parse_command(LaunchersOptions, "launchers", words, env)
    if asked is None:
        return 0
    options, _, _ = asked
    found = {name: _there(launcher, env) for name, launcher in LAUNCHERS.items()}
    if options.json:
        records = [
            {**row._asdict(), "places": row.places, "name": name, "installed": found[name]}
            for name, row in LAUNCHERS.items()
        ]
        inner = ("module", "transports", "schedulers")
        shown = [{key: value for key, value in record.items() if key not in inner} for record in records]
        print(json.dumps(shown, indent=1))
        return 0
    rows = [("LAUNCHER", "INSTALLED", "RUNS ON", "DESCRIPTION")]
    for name, launcher in LAUNCHERS.items():
        here = found[name] or f"no: {_how(launcher)}"
        rows.append((name, here, ", ".join(launcher.places), launcher.says))
    print(table(rows))
    return 0


def _there(launcher: Launcher, env: Mapping[str, str]) -> str:
    """Return `yes`, the installed version, or an empty string."""
    if launcher.package:
        return installed(launcher.package)
    if launcher.program:
        return "yes" if shutil.which(launcher.program, path=env.get("PATH")) else ""
    return "yes"


def _how(launcher: Launcher) -> str:
    return f"pip install '{launcher.package}'" if launcher.package else f"{launcher.program} not found"
