"""TORCHELASTIC_ERROR_FILE, for a program above muster that reads it as it would read that of torchrun."""

from __future__ import annotations

from pathlib import Path

from muster.cli.run import _write_elastic_error_file
from muster.core.results import RankExit, RunResult, RunState
from muster.rundir.run import Run


def test_what_the_script_wrote_is_passed_on_as_it_is(tmp_path: Path) -> None:
    run, target = Run(tmp_path / "run"), tmp_path / "above" / "error.json"
    source = run.log(0, 1, "error.json")
    source.parent.mkdir(parents=True)
    source.write_bytes(b'{"message": "caf\xe9"}')  # in Latin-1
    outcome = RunResult(RunState.FAILED, 1, 1.0, root_cause=RankExit(1, 1, 1.0, 0))
    _write_elastic_error_file(run, outcome, {"TORCHELASTIC_ERROR_FILE": str(target)})
    assert source.read_bytes() == target.read_bytes()
