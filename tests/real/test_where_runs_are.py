"""Runs are found wherever they are stored, and from any directory."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

from running import RunProcesses

HOLD = ("--", "sh", "-c", "echo ready; until [ -e go ]; do sleep 0.02; done; exit 5")


def ids(listing: str) -> list[str]:
    """Return the runs of `muster ps`, in its order."""
    return [line.split()[0] for line in listing.splitlines()[1:]]


def test_runs_that_are_kept_elsewhere_are_found_from_everywhere(muster: Any, tmp_path: Path) -> None:
    """By --run-dir, by muster.toml, by a variable: `last` is the newest of them all."""
    project, elsewhere = tmp_path / "project", tmp_path / "else where"
    for folder in (project, elsewhere):
        folder.mkdir()
    (project / "muster.toml").write_text('[run]\nrun_dir = "kept"\n')
    run = ("run", "--launcher", "exec")
    muster(*run, "--name", "home", "--", "echo", "in the home")
    muster(*run, "--run-dir", str(elsewhere), "--name", "given", "--", "echo", "given")
    muster(*run, "--name", "toml", "--", "echo", "by toml", cwd=project)
    variable = {**muster.env, "MUSTER_RUN_DIR": str(tmp_path / "variable")}
    failed = muster(*run, "--name", "variable", "--", "false", env=variable)
    assert [1, 1, 1, 1] == [
        len(list((place / "runs").iterdir()))
        for place in (muster.home, elsewhere, project / "kept", tmp_path / "variable")
    ]
    for cwd in (tmp_path, project, elsewhere):
        found = ids(muster("ps", cwd=cwd).stdout)
        assert ["variable", "toml", "given", "home"] == [
            muster("show", i, cwd=cwd).stdout.split()[2][1:-1] for i in found
        ]
    assert "by toml" in muster("logs", "toml").stdout
    assert "given\n" in muster("logs", found[2][:25], cwd=project).stdout
    assert (1, True) == ((waited := muster("wait")).returncode, waited.stdout.startswith(found[0]))
    # the command in the report works as printed
    assert f"muster logs {found[0]} --rank 0\n" in failed.stderr
    # only the directory named on the command line is searched
    given = ("--run-dir", str(elsewhere))
    assert [found[2]] == ids(muster("ps", *given).stdout)
    assert "given\n" in muster("logs", "last", *given).stdout
    hint = f"hint: newest runs: {found[2]}; list all with `muster ps -a --run-dir '{elsewhere}'`"
    assert f"error: run not found: `toml`\n{hint}\n" == muster("show", "toml", *given).stderr
    # only the runs of that directory are pruned; deleted ones are gone from the list
    assert "deleted 1 run\n" in muster("prune", "--keep", "0", "--yes", cwd=project).stdout
    assert f"deleted {found[2]}\n" == muster("rm", "given").stdout
    # one that does not exist just now may be on a disk of another machine
    (tmp_path / "variable").rename(tmp_path / "away")
    assert [found[3]] == ids(muster("ps").stdout)
    (tmp_path / "away").rename(tmp_path / "variable")
    assert [found[0], found[3]] == ids(muster("ps").stdout)
    assert f"deleted {found[0]}\n" == muster("rm", "variable").stdout
    assert [] == list((muster.home / "elsewhere").iterdir())


def test_a_live_run_elsewhere_is_reached(muster: Any, tmp_path: Path) -> None:
    """`kill last` of a finished run kills no other one, and lists those that are alive."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "muster.toml").write_text('[run]\nrun_dir = "kept"\n')
    (tmp_path / "muster.toml").write_text("[run\n")  # a run can be reached in spite of an invalid one
    there = copy.copy(muster)
    there.home = project / "kept"
    with RunProcesses(there, "run", "--name", "long", *HOLD, cwd=project) as run:
        run.wrote("ready")
        over = muster("run", "--name", "short", "--", "true", cwd="/").returncode
        last = ids(muster("ps", cwd="/").stdout)[0]
        killed = muster("kill", "last", cwd="/")
        assert (0, 0) == (over, killed.returncode), killed.stderr
        assert re.fullmatch(
            rf"{last} has already ended \(succeeded\)\n1 active run:\n    {run.id} \(long\), started .* ago\n",
            killed.stdout,
        )
        stacks = muster("stacks", run.id[:30])
        # "no stack": the shell is looked at while it starts a program, and waits in the kernel (vfork)
        assert re.search("is not a Python process that muster prepared|no stack: ", stacks.stdout), stacks.stdout
        assert 0 == stacks.returncode, stacks.stderr
        assert "muster.toml" in stacks.stderr and "warning: cannot read" in stacks.stderr
        again = muster.start("run", "--name", "long", "--", "true", cwd="/")
        assert f"{run.id} has the same name, long, and has not ended" in again.communicate(timeout=120)[1]
        assert (0, f"{run.id}: terminated\n") == ((done := muster("kill", "long", cwd="/")).returncode, done.stdout), (
            done.stderr
        )
        assert 137 == run.end()[0]


def test_displayed_commands_have_the_directory_of_an_unrecorded_run(muster: Any, tmp_path: Path) -> None:
    """The home is not writable, so each command has the option by which the run is found."""
    muster.env["MUSTER_HOME"] = "/proc/nothing"
    place = tmp_path / "a place"
    failed = muster("run", "--run-dir", str(place), "--", "sh", "-c", "echo ran; exit 3")
    assert 3 == failed.returncode, failed.stderr
    detached = muster("run", "-d", "--run-dir", str(place), "--", "true")
    name = f"{detached.stdout.strip()} --run-dir '{place}'"
    assert f"follow it: muster attach {name}; end it: muster kill {name}\n" in detached.stderr
    words = shlex.split(failed.stderr.partition("\nlog: muster logs ")[2].partition("\n")[0])
    assert ["--run-dir", str(place), "--rank", "0"] == words[1:]
    assert (0, "[0] ran\n") == ((shown := muster("logs", *words, cwd="/")).returncode, shown.stdout), shown.stderr
    assert f"muster logs {words[0]} --run-dir '{place}'" in muster("show", *words[:3]).stdout
    assert 0 == muster("wait", "last", "--run-dir", str(place)).returncode


def test_a_prefix_that_fits_several(muster: Any) -> None:
    for _ in range(2):
        muster("run", "--name", "same", "--", "true")
    both = ids(muster("ps").stdout)
    prefix = both[0][:3]
    for command in ("logs", "show", "wait", "kill", "attach", "stacks", "rm"):
        done = muster(command, prefix)
        assert (2, "hint: use the id of one of them") == (done.returncode, done.stderr.splitlines()[-1])
        assert both == re.findall(r"\d{8}-\S*true", done.stderr.partition("matches 2 runs")[2])
