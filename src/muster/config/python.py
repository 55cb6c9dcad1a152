"""The interpreter of the ranks, and what is installed beside muster's own. Starts no process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from muster.config import trust
from muster.config.files import absolute
from muster.config.program import find_program
from muster.errors import InvalidRequest


def choose_python(
    given: str | None,
    program: str,
    cwd: str,
    env: Mapping[str, str],
    own: str,
    local: bool = True,
    warn: Callable[[str], object] = lambda text: None,
) -> tuple[str, str]:
    """Return (path, reason) of the interpreter for the ranks.

    In this order: the given one; the active virtual or conda environment; `.venv` beside the script, or in the current
    directory, unless it belongs to another user; the interpreter of muster. A given one need not exist here if it is
    for other hosts (not `local`). `warn` is called about untrusted ones.
    """
    if given is not None and not local:
        return os.path.join(cwd, given) if "/" in given else given, "--python"
    if given is not None:
        path = find_program(given, env)
        if path is None:
            raise InvalidRequest(f"--python {given}: command not found", "use the path of a Python interpreter")
        if os.path.basename(path) == given:
            return path, "--python"
        return absolute(given), "--python"
    for name, words in (
        ("VIRTUAL_ENV", "the active virtual environment"),
        ("CONDA_PREFIX", "the active conda environment"),
    ):
        if env.get(name):
            path = os.path.join(env[name], "bin", "python")
            if os.access(path, os.X_OK):
                return path, words
    places = [(os.path.dirname(os.path.join(cwd, program)), ".venv next to the script")] if program else []
    for folder, words in (*places, (cwd, ".venv in the working directory")):
        venv = os.path.join(folder, ".venv")
        path = os.path.join(venv, "bin", "python")
        if os.access(path, os.X_OK):
            why = trust.why_not_venv(venv, env)
            if not why:
                return path, words
            warn(f"warning: ignoring {venv}: {why}\nhint: if you trust it, use `--python {path}`")
    return own, "the Python of muster"


def installed(package: str) -> str:
    """Return the version of a pip package (`ray[train]==2.60.0`) installed beside muster; empty if it is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_name_of(package))
    except PackageNotFoundError:
        return ""


def _name_of(package: str) -> str:
    return package.partition("==")[0].partition("[")[0]


def check_package(package: str, launcher: str) -> None:
    """Raise `InvalidRequest` if the package that a launcher needs is not installed beside muster."""
    if not installed(package):
        raise InvalidRequest(
            f"--launcher {launcher}: {_name_of(package)} is not installed in {sys.executable}",
            f"{sys.executable} -m pip install '{package}'",
        )
