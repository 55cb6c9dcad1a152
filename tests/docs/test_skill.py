"""The JSON fields that SKILL.md names exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SKILL = (Path(__file__).parents[2] / "SKILL.md").read_text()


def named(command: str) -> list[str]:
    """Return the fields that the table has for a command."""
    (row,) = re.findall(rf"^\| `muster {command} --json.*?` *[^|]*\|(.*)\|$", SKILL, re.MULTILINE)
    return [word for word in re.findall(r"`([a-z_]+)`", row) if word not in ("event", "env")]


def example(event: str) -> dict[str, Any]:
    """Return the line of SKILL.md for an event."""
    (line,) = re.findall(rf'^{{"event": "{event}".*}}$', SKILL, re.MULTILINE)
    found: dict[str, Any] = json.loads(line)
    return found


def has(real: Any, shown: Any, where: str) -> None:
    """Check that each field shown exists, with the same type unless it is null."""
    if isinstance(shown, dict):
        assert set(shown) <= set(real), where
        for name, value in shown.items():
            has(real[name], value, f"{where}.{name}")
    elif shown is not None and real is not None:
        assert type(shown) is type(real), where


def test_the_fields_it_names_are_there(muster):
    program = 'echo hello; [ $RANK = 0 ] || { echo "ValueError: bad batch 17" >&2; exit 1; }; sleep 60'
    done = muster("run", "--json", "-g", "2", "--", "sh", "-c", program)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert 1 == done.returncode, done.stderr
    for event in ("output", "ended", "outcome"):
        real = next(line for line in lines if line["event"] == event and line.get("rank", 1) == 1)
        has(real, example(event), event)
    assert "outcome" == lines[-1]["event"]
    assert {"by_muster", "failure"} <= set(lines[-1]["exits"][0]) and "frames" in lines[-1]["root_cause"]["failure"]

    (run,) = json.loads(muster("ps", "--json").stdout)
    assert set(named("ps")) <= set(run)
    assert set(named("show")) | set(named("ps")) <= set(json.loads(muster("show", "--json", "last").stdout))
    plan = json.loads(muster("plan", "--json", "-g", "2", "--", "true").stdout)
    assert set(named("plan")) <= set(plan) and "env" in plan["ranks"][0]
    assert set(named("launchers")) <= set(json.loads(muster("launchers", "--json").stdout)[0])
    found = json.loads(muster("doctor", "--json").stdout)
    assert set(named("doctor")) <= set(found) | set(found["checks"][0])


def test_the_states_it_names_are_all():
    from muster.core.results import RunState

    (sentence,) = re.findall(r"`state` is (.*?)\(", SKILL, re.DOTALL)
    assert {str(state.value) for state in RunState} == set(re.findall(r"`([a-z ]+)`", sentence))
