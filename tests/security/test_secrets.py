"""Values of secrets are in no file of a run and on no command line, however they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from canaries import SECRETS, Canaries
from waiting import until

GIVEN = ("geheim-password", "geheim-unknown", "geheim-setup", "geheim-argument", "geheim-url")


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
    said, errors = process.communicate(timeout=120)
    assert (0, True) == (process.returncode, all(secret in said for secret in GIVEN if secret != "geheim-setup")), (
        errors
    )
    assert "geheim-setup" not in shown
    for file in muster.home.rglob("*"):
        if file.is_file() and file.suffix != ".out":
            assert not [secret for secret in GIVEN if secret in file.read_text(errors="replace")], file
    told = json.loads(muster("show", "last", "--json").stdout)
    assert "geheim" not in json.dumps(told)
    plan = json.loads((muster.newest() / "plan.json").read_text())
    env = plan["environments"][0]["env"]
    assert ("1", True) == (env["OMP_NUM_THREADS"], env["ODD"].startswith("(hidden")), env
    assert 0o600 == (muster.newest() / "plan.json").stat().st_mode & 0o777


def test_reports_exported_scripts_and_what_commands_print_hold_no_secret(
    muster: Any, script: Callable[..., Path], tmp_path: Path, canaries: Canaries
) -> None:
    path = str(script("import os, time; time.sleep(0.2); int(os.environ['LOCAL_RANK'] and 'no number')"))
    assert 1 == muster("run", "-g", "2", "--launcher", "exec", path).returncode
    muster.env.pop("MUSTER_ENV")  # of a variable with any name, the value is shown
    options = ("-g", "2", *(word for name in SECRETS if name in muster.env for word in ("--env", name)))
    lines = [
        ("report", "last", "--output", str(tmp_path / "report.html")),
        ("show", "last"),
        ("show", "last", "--json"),
        ("logs", "last", "--timestamps"),
        ("plan", "--json", *options, path),
        ("plan", "--show-env", *options, path),
        ("export", "sbatch", "-N", "2", *options, path),
        ("export", "bash", "-H", "n1,n2", *options, path),
        ("export", "jobset", "-N", "2", "--image", "image", *options, path),
        ("export", "submitit", "-N", "2", *options, path),
    ]
    for number, words in enumerate(lines):
        done = muster(*words)
        assert 0 == done.returncode, done.stderr
        (tmp_path / f"said {number}").write_text(done.stdout + done.stderr)
    assert "HF_TOKEN" in (tmp_path / "said 6").read_text() and (tmp_path / "report.html").exists()
