"""SARIF output of `muster lint`: only what the published schema of 2.1.0 knows, with what it requires.

The schema, https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json, has no license
under which it could be shipped here, so the parts that muster writes are restated. With a copy of it on disk,
`MUSTER_SARIF_SCHEMA=FILE` validates against the whole schema, too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Union
from urllib.parse import unquote

import pytest

from muster.lint.engine import check
from muster.lint.model import Source
from muster.lint.output import as_sarif
from muster.lint.table import RULES

Shape = Union[type, tuple[str, ...], str, list[Any], dict[str, Any]]
"""A type, the values of an enumeration, the name of an object below, a list of a shape, or the members of an object."""

LEVEL = ("none", "note", "warning", "error")
OBJECTS: dict[str, tuple[frozenset[str], dict[str, Shape]]] = {
    "log": (frozenset({"version", "runs"}), {"$schema": str, "version": ("2.1.0",), "runs": ["run"]}),
    "run": (
        frozenset({"tool"}),
        {"tool": "tool", "columnKind": ("utf16CodeUnits", "unicodeCodePoints"), "results": ["result"]},
    ),
    "tool": (frozenset({"driver"}), {"driver": "driver"}),
    "driver": (frozenset({"name"}), {"name": str, "version": str, "rules": ["rule"]}),
    "rule": (
        frozenset({"id"}),
        {
            "id": str,
            "shortDescription": "text",
            "fullDescription": "text",
            "help": "text",
            "defaultConfiguration": "configuration",
        },
    ),
    "configuration": (frozenset(), {"level": LEVEL}),
    "text": (frozenset({"text"}), {"text": str}),
    "result": (
        frozenset({"message"}),
        {
            "ruleId": str,
            "ruleIndex": int,
            "level": LEVEL,
            "message": "text",
            "locations": ["location"],
            "fixes": ["fix"],
        },
    ),
    "location": (frozenset(), {"physicalLocation": "place"}),
    "place": (frozenset({"artifactLocation"}), {"artifactLocation": "artifact", "region": "region"}),
    "artifact": (frozenset(), {"uri": str}),
    "region": (frozenset({"startLine"}), {"startLine": int, "startColumn": int, "endLine": int, "endColumn": int}),
    "fix": (frozenset({"artifactChanges"}), {"description": "text", "artifactChanges": ["change"]}),
    "change": (
        frozenset({"artifactLocation", "replacements"}),
        {"artifactLocation": "artifact", "replacements": ["replacement"]},
    ),
    "replacement": (frozenset({"deletedRegion"}), {"deletedRegion": "region", "insertedContent": "text"}),
}


def errors(value: Any, shape: Shape, path: str = "") -> list[str]:
    """Return where a value is not what the schema has."""
    if isinstance(shape, str):
        required, members = OBJECTS[shape]
        if not isinstance(value, dict):
            return [f"{path}: not an object"]
        found = [f"{path}: {name} is missing" for name in required - set(value)]
        found += [f"{path}: {name} is not known" for name in set(value) - set(members)]
        return [
            *found,
            *(
                line
                for name in value
                if name in members
                for line in errors(value[name], members[name], f"{path}/{name}")
            ),
        ]
    if isinstance(shape, list):
        return [line for at, item in enumerate(value) for line in errors(item, shape[0], f"{path}/{at}")]
    if isinstance(shape, tuple):
        return [] if value in shape else [f"{path}: {value!r}"]
    assert isinstance(shape, type)
    least = 0 if path.endswith("Index") else 1
    right = isinstance(value, shape) and not (isinstance(value, int) and value < least)
    return [] if right else [f"{path}: {value!r}"]


def sarif_of(*sources: Source) -> Any:
    return json.loads(as_sarif([(source, check(source)) for source in sources], "1.2.3"))


def samples() -> list[Source]:
    """Return the bad example of each rule."""
    names = {"script": "job.sh", "python": "train.py", "config": "ds_config.json", "hostfile": "hostfile"}
    found = []
    for rule in RULES.values():
        yaml = rule.kind == "config" and not rule.bad.lstrip().startswith("{")
        found.append(Source(f"of {rule.name}/{'accelerate.yaml' if yaml else names[rule.kind]}", rule.bad))
    return found


def test_the_shape_is_that_of_the_schema():
    log = sarif_of(*samples())
    assert errors(log, "log") == []
    (run,) = log["runs"]
    assert len({result["ruleId"] for result in run["results"]}) == len(RULES)
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert errors({"version": "2.1.0", "runs": [{"tool": {"driver": {}}, "result": []}]}, "log")


def test_no_findings_are_an_empty_list_and_not_a_missing_one():
    # without `results` a run says that it was not made
    (run,) = sarif_of(Source("a.sh", "#!/bin/bash\necho\n"))["runs"]
    assert run["results"] == [] and run["tool"]["driver"]["rules"] == []


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("job.sbatch", "job.sbatch"),
        ("a b/100%.sh", "a%20b/100%25.sh"),
        ("c#1.sh", "c%231.sh"),
        ("größe.sh", "gr%C3%B6%C3%9Fe.sh"),
        ("1:2.sh", "1%3A2.sh"),
        ("-", "-"),
    ],
)
def test_paths_are_uri_references(path: str, uri: str):
    (result,) = sarif_of(Source(path, "pkill -f python\n"))["runs"][0]["results"]
    found = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert found == uri and unquote(found) == path


@pytest.mark.skipif("MUSTER_SARIF_SCHEMA" not in os.environ, reason="MUSTER_SARIF_SCHEMA names no schema")
def test_the_published_schema():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(os.environ["MUSTER_SARIF_SCHEMA"]).read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(sarif_of(*samples()))] == []
