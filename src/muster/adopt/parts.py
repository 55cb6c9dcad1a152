"""Parts of a launch that are read alike in a script and in those that it starts. Pure."""

from __future__ import annotations

import re

from muster.adopt.adoption import Launch
from muster.adopt.environment import entered
from muster.adopt.found import Found, ReadFile
from muster.adopt.launchers import LAUNCHERS
from muster.adopt.slurm import Request
from muster.lint.model import Script


def in_one_directory(launch: Launch) -> Launch:
    """Return the launch with one `--cwd`: that of the job, and the `cd` from there."""
    given = dict(launch.options).get("cwd")
    if given is None or not launch.cwd:
        return launch
    options = tuple((name, value) for name, value in launch.options if name != "cwd")
    return launch._replace(cwd=entered(given, launch.cwd), options=options)


def config_of(found: Found, script: Script, read_file: ReadFile) -> dict[str, str]:
    """Return the plain values of the configuration file that accelerate is given."""
    word = found.program.value("--config-file") if found.program.name == "accelerate" else None
    path = word.text if word is not None else None
    source = (written_here(script, path) or read_file(path)) if path else None
    return dict(re.findall(r"^(\w+):[ \t]*[\"']?([^\s\"'#]+)", source or "", re.MULTILINE))


def title(name: str) -> str:
    """Return what a launcher is called in what is said about it."""
    return LAUNCHERS[name].title if name in LAUNCHERS else name


def written_here(script: Script, path: str) -> str | None:
    """Return the text of a file that a heredoc of the script writes."""
    for heredoc in script.heredocs:
        for redirect in heredoc.command.redirects:
            if redirect.operator in (">", ">|", ">>") and redirect.target is not None and redirect.target.shown == path:
                return heredoc.body.shown
    return None


def with_cores(launch: Launch, request: Request | None) -> Launch:
    """Return the launch with cores per node: sbatch's tasks are ranks only under a plain srun."""
    if request is None or request.cpus_per_task is None:
        return launch
    tasks = request.tasks_per_node or 1
    return launch._replace(options=(*launch.options, ("cpus-per-task", str(request.cpus_per_task * tasks))))
