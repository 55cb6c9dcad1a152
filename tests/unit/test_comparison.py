"""What differs between two runs, and the last successful run of the same script."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.core.comparison import Difference, RunFacts, Topic, differences, since
from muster.core.json_checks import Malformed
from muster.core.model import Program
from muster.core.provenance import (
    ChangedFile,
    GitState,
    Provenance,
    provenance_as_json,
    provenance_from_json,
)
from muster.rundir.comparing import facts_for_comparison, last_success
from muster.rundir.run import Run
from muster.ui.diff_text import diff_as_json, diff_in_words, since_in_words

GIT = GitState("/code", "a" * 40, "main", (ChangedFile("train.py", "M", 3, 1, "d1"),))
NODE = Provenance(
    0,
    "3.11.7",
    "/venv/bin/python",
    "2.6.0",
    cuda="12.4",
    packages={"numpy": "1.26.4", "nvidia-nccl-cu12": "2.21.5", "six": "1.16.0"},
    packages_digest="p1",
    git=GIT,
    variables=("HOME", "NCCL_DEBUG", "SSH_TTY"),
    kernel="6.1",
    cpu="EPYC",
    cores=8,
    memory=64 << 30,
    gpus=("H100", "H100"),
    driver="550.54",
)
BEFORE = RunFacts(
    "20261121-120000-aaaa-train",
    Program("script", ("train.py", "data", "--lr", "0.1", "--name=a b")),
    {"launcher": "fork", "grace": 30.0, "env": {"SEED": "1"}},
    "/code",
    4,
    ("n1", "n2"),
    (NODE, NODE._replace(node=1, packages={}, git=None, variables=())),
    "0.1.0",
    "succeeded",
    started=1000.0,
    duration=100.0,
)


def changed(**fields: Any) -> RunFacts:
    """The same run again, with node 0 changed."""
    nodes = (NODE._replace(**fields), *BEFORE.provenance[1:])
    return BEFORE._replace(run_id="20261121-140000-bbbb-train", started=8300.0, provenance=nodes)


def told(after: RunFacts, before: RunFacts = BEFORE) -> set[tuple[str, str, str, str]]:
    return {(str(item.topic), *item[1:]) for item in differences(before, after)}


def test_equal_runs_do_not_differ() -> None:
    assert not differences(BEFORE, BEFORE)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"torch": "2.7.0"}, {("versions", "torch", "2.6.0", "2.7.0")}),
        ({"driver": "560.1"}, {("versions", "GPU driver", "550.54", "560.1")}),
        (
            {"packages": {"numpy": "2.0.0", "nvidia-nccl-cu12": "2.26.2", "rich": "13.0"}},
            {
                ("packages", "numpy", "1.26.4", "2.0.0"),
                ("packages", "nvidia-nccl-cu12", "2.21.5", "2.26.2"),
                ("versions", "NCCL", "2.21.5", "2.26.2"),
                ("packages", "rich", "", "13.0"),
                ("packages", "six", "1.16.0", ""),
            },
        ),
        ({"git": GIT._replace(commit="b" * 40)}, {("code", "commit", "a" * 12, "b" * 12)}),
        ({"git": GIT._replace(dirty=())}, {("code", "train.py", "+3 −1 lines", "as committed")}),
        (
            {"git": GIT._replace(dirty=(ChangedFile("train.py", "M", 3, 1, "d2"),))},
            {("code", "train.py", "+3 −1 lines", "+3 −1 lines, other content")},
        ),
        (
            {"git": GIT._replace(dirty=(*GIT.dirty, ChangedFile("new.py", "?", digest="x")))},
            {("code", "new.py", "as committed", "not tracked")},
        ),
        (
            {"variables": ("HOME", "NCCL_DEBUG", "TZ")},
            {
                ("environment variables", "SSH_TTY", "set", ""),
                ("environment variables", "TZ", "", "set"),
            },
        ),
        ({"gpus": ("H100",)}, {("hardware", "GPUs", "2 H100", "1 × 1 H100, 1 × 2 H100")}),
        (
            {"packages_digest": "p2"},
            {("hardware", "packages", "", "differ between nodes (1 node from node 0)")},
        ),
    ],
)
def test_what_a_node_tells(fields: dict[str, Any], found: set[tuple[str, str, str, str]]) -> None:
    assert found == told(changed(**fields))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            {"program": Program("script", ("train.py", "data", "--lr", "0.2", "--name=a b", "--amp"))},
            {("arguments", "--lr", "0.1", "0.2"), ("arguments", "--amp", "", "set")},
        ),
        (
            {"program": Program("script", ("eval.py", *BEFORE.program.argv[1:]))},
            {  # type: ignore[union-attr]
                ("program", "script", "train.py", "eval.py"),
            },
        ),
        ({"hosts": ("n1", "n3")}, {("hosts", "hosts", "n[1-2]", "n[1,3]")}),
        ({"ranks": 8}, {("options", "ranks", "4", "8")}),
        (
            {"options": {"launcher": "torchrun", "grace": 30.0, "env": {"SEED": "2"}, "max_restarts": 3}},
            {
                ("options", "--launcher", "fork", "torchrun"),
                ("options", "--env SEED", "1", "2"),
                ("options", "--max-restarts", "", "3"),
            },
        ),
        (
            {"state": "failed", "reason": "rank 1 failed"},
            {
                ("result", "state", "succeeded", "failed"),
                ("result", "reason", "", "rank 1 failed"),
            },
        ),
    ],
)
def test_what_the_request_tells(fields: dict[str, Any], found: set[tuple[str, str, str, str]]) -> None:
    assert found == told(BEFORE._replace(**fields))


def test_what_muster_notes_for_a_point_or_a_session_is_no_difference() -> None:
    noted = {**BEFORE.options, "session": "20261121-120000-aaaa-hold"}
    noted["env"] = {**noted["env"], "MUSTER_POINT": "1", "LR": "1"}
    assert {("options", "--env LR", "", "1")} == told(BEFORE._replace(options=noted))


def test_a_negative_number_is_a_value() -> None:
    runs = [BEFORE._replace(program=Program("script", ("t.py", "--min", number))) for number in ("-1", "-2.5")]
    assert {("arguments", "--min", "-1", "-2.5")} == told(runs[1], runs[0])


def test_without_git_the_script_is_compared() -> None:
    before = BEFORE._replace(provenance=(NODE._replace(git=None, script_digest="s1"),))
    after = BEFORE._replace(provenance=(NODE._replace(git=None, script_digest="s2"),))
    assert {("code", "script", "sha256 s1", "sha256 s2")} == told(after, before)


def test_a_run_without_a_record_has_no_differences_there() -> None:
    """It was made by an older version, or ended at once: nothing is claimed."""
    assert not differences(BEFORE._replace(provenance=()), changed(torch="2.7.0"))
    words = diff_in_words(BEFORE._replace(provenance=()), changed(torch="2.7.0"), ())
    assert f"not recorded for {BEFORE.run_id}: code, packages" in words


def test_since_the_last_success_leaves_out_what_a_login_changes() -> None:
    after = changed(variables=("HOME", "NCCL_DEBUG", "NCCL_PROTO", "TERM"), torch="2.7.0")._replace(state="failed")
    assert [("torch", Topic.VERSIONS), ("NCCL_PROTO", Topic.VARIABLES)] == [
        (item.name, item.topic) for item in since(BEFORE, after)
    ]


def test_words() -> None:
    git = GIT._replace(commit="b" * 40, dirty=(ChangedFile("data.py", "M", 12),))
    after = changed(git=git, packages={**NODE.packages, "numpy": "2.0.0"})._replace(
        state="failed", reason="rank 2 failed", hosts=("n1", "n3"), duration=20.0
    )
    lines = since_in_words(BEFORE, after, since(BEFORE, after))
    parts = ["commit aaaaaaaaaaaa → bbbbbbbbbbbb", "data.py +12 lines", "train.py +3 −1 lines → as committed"]
    parts += ["numpy 1.26.4 → 2.0.0", "hosts n[1-2] → n[1,3]"]
    assert [
        "since the last successful run of this script (20261121-120000-aaaa-train, 2h earlier):",
        f"    {', '.join(parts)}",
    ] == lines
    text = diff_in_words(BEFORE, after, differences(BEFORE, after))
    assert text.startswith(
        "- 20261121-120000-aaaa-train  succeeded after 1m 40s\n+ 20261121-140000-bbbb-train  failed after 20s\n"
    )
    assert "\npackages\n  numpy  1.26.4 → 2.0.0\n" in text
    data = diff_as_json(BEFORE, after, differences(BEFORE, after))
    assert {"topic": "packages", "name": "numpy", "before": "1.26.4", "after": "2.0.0"} in json.loads(
        json.dumps(data["differences"])
    )


def test_many_changes_stay_two_lines() -> None:
    found = [Difference(Topic.PACKAGES, f"package-{number}", "1.0", "2.0" * 40) for number in range(300)]
    lines = since_in_words(BEFORE, changed(), found)
    assert 2 == len(lines) and all(len(line) < 250 for line in lines)
    assert lines[1].endswith(f" more changes: muster diff {BEFORE.run_id} 20261121-140000-bbbb-train")


def test_no_change_is_said() -> None:
    assert ["no recorded change since the last successful run"] == [
        line.partition(" of")[0] for line in since_in_words(BEFORE, changed(), ())
    ]
    assert not since_in_words(BEFORE._replace(provenance=()), changed(), ())


def test_names_cannot_forge_lines() -> None:
    after = changed(git=GIT._replace(dirty=(*GIT.dirty, ChangedFile("a\nb\x1b[2J.py", "?"))))
    for text in (
        "\n".join(since_in_words(BEFORE, after, since(BEFORE, after))),
        diff_in_words(BEFORE, after, differences(BEFORE, after)),
    ):
        assert "\x1b" not in text and "a\\nb\\x1b[2J.py" in text


# ---- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [NODE, Provenance(3), NODE._replace(git=None, packages={})])
def test_the_record_is_read_as_it_was_written(found: Provenance) -> None:
    assert found == provenance_from_json(json.loads(json.dumps(provenance_as_json(found))))


@pytest.mark.parametrize("data", [{}, {"node": "0"}, {"node": 0, "packages": ["a"]}, {"node": 0, "git": {"dirty": 1}}])
def test_a_wrong_record_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        provenance_from_json(data)


def test_a_newer_record_is_read() -> None:
    assert Provenance(0, python="3.12") == provenance_from_json({"node": 0, "python": "3.12", "moon": "full"})


# ---- the last success -----------------------------------------------------------------------------------------------


def kept(folder: Path, run_id: str, state: str, script: str = "/code/train.py", began: float = 0.0) -> Run:
    """Write what a run leaves."""
    run = Run(folder / "runs" / run_id)
    run.path.mkdir(parents=True, mode=0o700)
    job = {"program": {"kind": "script", "argv": [script]}, "launcher": "fork", "python": "p", "python_source": "w"}
    run.write("job.json", {"id": run_id, "time": began, "ranks": 1, "cwd": "/code", "job": {**job, "cwd": "/code"}})
    run.write("outcome.json", {"state": state, "code": 0 if state == "succeeded" else 1, "duration": 1.0})
    record = {"event": "provenance", "t": 1.0, **provenance_as_json(NODE)}
    (run.path / "events.jsonl").write_text('{"event": "hello"}\n' + json.dumps(record) + "\nhalf")
    return run


def test_the_last_success_of_the_same_script(tmp_path: Path) -> None:
    kept(tmp_path, "20261121-100000-aaaa-train", "succeeded")
    right = kept(tmp_path, "20261121-110000-aaaa-train", "succeeded", "train.py")
    kept(tmp_path, "20261121-113000-aaaa-train", "succeeded", "/other/train.py")
    kept(tmp_path, "20261121-120000-aaaa-train", "failed")
    kept(tmp_path, "20261121-123000-aaaa-pretrain", "succeeded", "/code/pretrain.py")
    failed = kept(tmp_path, "20261121-130000-aaaa-train", "failed")
    kept(tmp_path, "20261121-140000-aaaa-train", "succeeded")
    found = last_success(failed)
    assert found is not None and right.id == found.id
    facts = facts_for_comparison(found)
    assert (NODE,) == facts.provenance and "succeeded" == facts.state


def test_the_last_success_may_be_another_point_of_the_same_sweep(tmp_path: Path) -> None:
    """Their ids have one time, that of the sweep, and then a random part."""
    kept(tmp_path, "20261121-100000-aaaa-train", "succeeded")
    right = kept(tmp_path, "20261121-130000-ffff-train", "succeeded")
    found = last_success(kept(tmp_path, "20261121-130000-aaaa-train", "failed"))
    assert found is not None and right.id == found.id


def test_variables_that_only_other_hosts_need_are_no_difference() -> None:
    """muster forwards LANG and the like to other hosts by itself."""
    here = RunFacts("a", options={"env": {"MODE": "1"}})
    there = RunFacts("b", options={"env": {"MODE": "1", "NCCL_DEBUG": "INFO", "OWN": "2"}})
    assert ["--env OWN"] == [item.name for item in differences(here, there) if item.topic is Topic.OPTIONS]
    other = there._replace(options={"env": {"MODE": "1", "NCCL_DEBUG": "WARN", "OWN": "2"}})
    assert ["--env NCCL_DEBUG"] == [item.name for item in differences(other, there) if item.topic is Topic.OPTIONS]


def test_a_first_run_has_none(tmp_path: Path) -> None:
    assert last_success(kept(tmp_path, "20261121-130000-aaaa-train", "failed")) is None


def test_a_run_that_others_could_have_written_is_passed_over(tmp_path: Path) -> None:
    kept(tmp_path, "20261121-100000-aaaa-train", "succeeded").path.chmod(0o777)
    assert last_success(kept(tmp_path, "20261121-130000-aaaa-train", "failed")) is None


def test_damaged_runs_are_passed_over(tmp_path: Path) -> None:
    right = kept(tmp_path, "20261121-100000-aaaa-train", "succeeded")
    (kept(tmp_path, "20261121-110000-aaaa-train", "succeeded").path / "job.json").write_text("{")
    os.mkfifo(kept(tmp_path, "20261121-120000-aaab-train", "failed").path / "x")
    found = last_success(kept(tmp_path, "20261121-130000-aaaa-train", "failed"))
    assert found is not None and right.id == found.id


def test_copies_of_the_code_are_one_script(tmp_path: Path) -> None:
    """`--snapshot` runs a copy in the run directory."""
    names = ("20261121-100000-aaaa-train", "20261121-130000-aaaa-train")
    runs = [
        kept(tmp_path, name, state, f"{tmp_path}/runs/{name}/code/train.py")
        for name, state in zip(names, ("succeeded", "failed"))
    ]
    found = last_success(runs[1])
    assert found is not None and runs[0].id == found.id


def test_it_is_found_fast_among_many_runs(tmp_path: Path) -> None:
    """Of 10,000 runs, half are of the same script, and the last 2,000 of those have failed."""
    kept(tmp_path, "20261120-000000-aaaa-train", "succeeded")
    template = kept(tmp_path, "20261120-000001-aaaa-train", "failed")
    record, outcome = ((template.path / name).read_bytes() for name in ("job.json", "outcome.json"))
    for number in range(10_000):
        folder = tmp_path / "runs" / f"20261121-{number:06d}-aaaa-{'train' if number % 5 == 0 else 'eval'}"
        folder.mkdir(mode=0o700)
        if number % 5 == 0:
            (folder / "job.json").write_bytes(record)
            (folder / "outcome.json").write_bytes(outcome)
    failed = kept(tmp_path, "20261122-130000-aaaa-train", "failed")
    opened: list[str] = []

    def count(event: str, words: tuple[Any, ...]) -> None:  # such a hook stays: it counts only here
        if event == "open" and opening:
            opened.append(str(words[0]))

    sys.addaudithook(count)
    opening = True
    found = last_success(failed)
    opening = False
    shutil.rmtree(tmp_path / "runs")  # pytest would keep it, and delete it later
    assert found is not None and "20261120-000000-aaaa-train" == found.id
    assert 2_000 <= len(opened) < 2_020, "of each run the head of outcome.json, and no more"
