"""Values of secrets are in no file of a run and on no command line, however they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from waiting import until

SECRETS = ("geheim-password", "geheim-unknown", "geheim-setup", "geheim-argument", "geheim-url")


def command_lines() -> str:
    """Return the command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:  # it has exited
            pass
    return "\n".join(found)


def test_no_file_and_no_command_line_holds_a_secret(muster: Any, script: Callable[..., Path], tmp_path: Path) -> None:
    """A slow line of --setup, two variables (one with an unknown name), and an argument."""
    path = script("import os, sys; print(os.environ['DB_PASSPHRASE'], os.environ['ODD'], os.environ['URL'], sys.argv)")
    line = f"export ODDER=geheim-setup; touch '{tmp_path}/began'; while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"
    muster.env.update(MUSTER_SETUP=line, DB_PASSPHRASE="geheim-password", ODD="geheim-unknown")
    muster.env.update(URL="http://me:geheim-url@host", MUSTER_ENV="DB_PASSPHRASE")
    process = muster.start(
        *("run", "--env", "ODD", "--env", "URL", "--env", "OMP_NUM_THREADS=1", str(path)),
        *("--api-key", "geheim-argument"),
    )
    until((tmp_path / "began").exists, "the line of --setup runs")
    shown = command_lines()
    (tmp_path / "go").touch()
    said, errors = process.communicate(timeout=60)
    assert (0, True) == (process.returncode, all(secret in said for secret in SECRETS if secret != "geheim-setup")), (
        errors
    )
    assert "geheim-setup" not in shown
    for file in muster.home.rglob("*"):
        if file.is_file() and file.suffix != ".out":
            assert not [secret for secret in SECRETS if secret in file.read_text(errors="replace")], file
    told = json.loads(muster("show", "last", "--json").stdout)
    assert "geheim" not in json.dumps(told)
    plan = json.loads((muster.newest() / "plan.json").read_text())
    env = plan["environments"][0]["env"]
    assert ("1", True) == (env["OMP_NUM_THREADS"], env["ODD"].startswith("(hidden")), env
    assert 0o600 == (muster.newest() / "plan.json").stat().st_mode & 0o777
