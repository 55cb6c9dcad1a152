"""The controller's configuration in the run directory."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from changing import set_to
from test_json_records import NASTY, paths

from muster.core.controller_config import (
    RECORD,
    ControllerConfig,
    NodeRecord,
    config_as_json,
    config_from_json,
)
from muster.core.json_checks import Malformed
from muster.rundir.run import Run, Unreadable

NODES = (
    NodeRecord("/runs/a", True, 0.0, "/usr/bin/python3", "3.11.2", {"own interface": "eth0"}),
    NodeRecord("/other/a", False, -31.5, "/opt/python3", "3.11.4", {"own interface": None}),
)
CONFIG = ControllerConfig(5123.25, "10.0.0.1", 1790000000.5, NODES, owned=True, first_attempt=2, again=True)
OLDER: dict[str, Any] = json.loads((Path(__file__).parent / "older" / "serve.json").read_text())


def test_written_records_are_read_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.controller_config is None
    run.write(RECORD, config_as_json(CONFIG))
    assert CONFIG == run.controller_config
    (tmp_path / RECORD).write_text('{"began": 1}')
    with pytest.raises(Unreadable, match="`address` is missing"):
        assert run.controller_config


@pytest.mark.parametrize("data", [config_as_json(CONFIG), *OLDER.values()], ids=["new", *OLDER])
def test_any_value_in_any_place_gives_a_record_or_malformed(data: dict[str, Any]) -> None:
    data = json.loads(json.dumps(data))
    for way in paths(data):
        for value in NASTY:
            spoilt = copy.deepcopy(data)
            set_to(*way, value)(spoilt)
            try:
                config_from_json(spoilt, "/runs/a")
            except Malformed:
                pass
    for value in NASTY:
        with pytest.raises(Malformed):
            config_from_json(value, "/runs/a")


def test_a_run_of_an_older_version_is_still_supervised() -> None:
    """Up to version 0.1 there were lists with an entry for each node; a job of Slurm had one run directory for all."""
    over_ssh, in_slurm = (config_from_json(data, "/runs/here") for data in OLDER.values())
    assert over_ssh == ControllerConfig(
        began=5123.25,
        address="10.0.0.1",
        clock=1790000000.5,
        nodes=(
            NodeRecord(
                "/home/ann/.muster/runs/20261121-120000-ab12-train",
                *(True, 0.0, "/usr/bin/python3", "3.11.2", {"own interface": "eth0"}),
            ),
            NodeRecord(
                "/var/home/runs/20261121-120000-ab12-train",
                *(False, -31.5, "/opt/python3", "3.11.4", {"own interface": None}),
            ),
        ),
        owned=True,
    )
    assert in_slurm == ControllerConfig(
        began=99.0,
        address="10.0.0.7",
        clock=1790000000.5,
        nodes=(NodeRecord("/runs/here", True, 0.001, "/usr/bin/python3", "3.11.2"),),
        first_attempt=2,
        again=True,
    )
