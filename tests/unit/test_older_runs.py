"""Runs that the version before has written, with protocol 4: its names of files and fields are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from muster.core.controller_config import RECORD, config_as_json
from muster.core.json_checks import FORMER_KEYS
from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.model import as_json
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

OLDER = Path(__file__).parent / "older"
NAMES = {old: name for former in FORMER_KEYS.values() for name, old in former.items()}


def renamed(data: Any) -> Any:
    """The same with the present names of all fields."""
    if isinstance(data, list):
        return [renamed(item) for item in data]
    if isinstance(data, dict):
        return {NAMES.get(name, name): renamed(item) for name, item in data.items()}
    return data


def has_all(data: Any, of: Any) -> bool:
    """Return whether a document has all that is in another one; it may have more fields."""
    if isinstance(of, list):
        return len(data) == len(of) and all(map(has_all, data, of))
    if isinstance(of, dict):
        return all(name in data and has_all(data[name], item) for name, item in of.items())
    return bool(data == of)


def written(kind: str, name: str) -> Any:
    return json.loads((OLDER / kind / name).read_text())


@pytest.mark.parametrize("kind", ["torchrun", "detached"])
def test_each_field_is_read_and_written_under_its_present_name(kind: str) -> None:
    plan, outcome = written(kind, "plan.json"), written(kind, "outcome.json")
    again = json.loads(json.dumps(as_json(plan_from_json(plan))))
    assert has_all(again, renamed(plan))
    assert not has_all(again, plan)
    now = json.loads(json.dumps(outcome_as_json(outcome_from_json(outcome))))
    assert has_all(now, renamed(outcome))
    assert not has_all(now, outcome)


def test_what_the_fields_say() -> None:
    plan, outcome = (
        plan_from_json(written("torchrun", "plan.json")),
        outcome_from_json(written("torchrun", "outcome.json")),
    )
    assert plan.external_rendezvous and plan.rank_command is not None
    assert (0, 2) == (plan.rank_command.python_index, plan.rank_command.args_index)
    assert ("local", "the one muster runs in") == (plan.job.transport, plan.job.python_source)
    assert "ROLE_NAME" in plan.environments[0].env_defaults
    assert outcome.root_cause is not None and 1 == outcome.root_cause.rank
    assert [True, False] == [end.by_muster for end in outcome.exits]
    (command,) = plan_from_json(written("detached", "plan.json")).commands
    assert command.fork_server and 0 == command.python_index


def test_a_field_with_both_names_has_the_present_one() -> None:
    """As a file may that is written by hand."""
    data = {**written("torchrun", "outcome.json"), "root_cause": None}
    assert outcome_from_json(data).root_cause is None


def test_a_run_directory_is_read(tmp_path: Path) -> None:
    path = tmp_path / written("detached", "job.json")["id"]
    shutil.copytree(OLDER / "detached", path)
    run = Run(path)
    assert "local" == run.job["job"]["transport"]
    assert run.plan is not None and ("n1",) == run.plan.hosts
    assert run.outcome is not None and 1 == run.outcome.code
    assert run.read(RECORD) == written("detached", "serve.json")
    config = run.controller_config
    assert config is not None and "/usr/bin/python3" == config.nodes[0].executable
    run.write(RECORD, config_as_json(config._replace(address="10.0.0.1")))
    assert run.controller_config == config._replace(address="10.0.0.1"), "the present name is read first"
