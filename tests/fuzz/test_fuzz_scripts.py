"""Scripts, configurations and muster.toml that people write: findings, a command line, options, or one sentence."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fuzzing import near, result_or_sentence, spoilt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muster.adopt import text as adopt_text
from muster.adopt.files import adopt_file
from muster.config import toml_files, trust
from muster.config.command_options import COMMANDS
from muster.config.options import RUN, RunOptions
from muster.config.parse import from_environment, from_table, parse
from muster.config.record import Option
from muster.core import sweep
from muster.lint import output
from muster.lint.engine import check, fixed
from muster.lint.model import Source
from muster.linux import shell

TESTS = Path(__file__).parent.parent
SCRIPTS = {
    path.name: path.read_text()
    for folder in ("adopt/corpus", "lint/corpus/good")
    for path in sorted((TESTS / folder).rglob("*"))
    if path.is_file() and path.stat().st_size < 3000
}
"""Whole scripts; short ones, so that an example costs milliseconds."""
ACCELERATE = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "DEEPSPEED",
    "num_processes": 8,
    "num_machines": 2,
    "machine_rank": 0,
    "main_process_ip": "10.0.0.1",
    "main_process_port": 29500,
    "mixed_precision": "bf16",
    "use_cpu": False,
    "deepspeed_config": {"deepspeed_config_file": "ds.json", "zero_stage": 3, "gradient_accumulation_steps": 2},
    "fsdp_config": {"fsdp_sharding_strategy": 1},
}
DEEPSPEED = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    "fp16": {"enabled": True},
    "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
}
LAUNCHES = (
    "accelerate launch --config_file acc.yaml --num_processes 8 train.py\n",
    "deepspeed --hostfile hosts --deepspeed_config ds.json train.py\n",
)


def reports(source: Source, others: Mapping[str, str]) -> None:
    """Check a file, print the findings in all forms, and make the changes."""
    findings = check(source, others.get)
    for finding in findings:
        assert 0 <= finding.span.start <= finding.span.end <= max(len(source.text), 1)
    output.as_text([(source, findings)], True)
    json.loads(output.as_json([(source, findings)]))
    json.loads(output.as_sarif([(source, findings)], "1"))
    check(Source(source.path, fixed(source, findings)), others.get)


@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def test_any_script_is_checked(name: str, data: st.DataObject) -> None:
    text = data.draw(near(SCRIPTS[name])).encode("utf-8", "replace").decode()
    reports(Source(name, text), SCRIPTS)


@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def test_any_script_is_adopted(name: str, data: st.DataObject) -> None:
    text = data.draw(near(SCRIPTS[name])).encode("utf-8", "replace").decode().replace("\0", "")
    found = result_or_sentence(lambda: adopt_file(name, text, SCRIPTS.get))
    if found is not None:
        assert adopt_text.in_words(found)
        json.dumps(adopt_text.as_json(found))


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "x.py", "x.sh", "hosts"])
@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a": ' + "9" * 5000 + "}",
        "[" * 5000,
        '{"a": ' * 5000,
        "a: &x [*x]",  # an endless loop
        "a: &x {b: *x}",
        "x = " + "(" * 5000 + "1" + ")" * 5000 + "\nimport submitit\n",
        "x = " + "-" * 5000 + "1\nimport submitit\nmp.spawn(",
        "echo $((" + "-" * 5000 + "1)) $((9**9**9))",
        "",
    ],
    ids=range(10),
)
def test_nested_and_endless_files_are_checked_and_adopted(name: str, text: str) -> None:
    reports(Source(name, text), {})
    result_or_sentence(lambda: adopt_file(name, text, lambda path: text))
    for launch in LAUNCHES:
        result_or_sentence(partial(adopt_file, "x.sh", launch, lambda path: text))
        reports(Source("x.sh", launch), {"acc.yaml": text, "ds.json": text})


def as_yaml(data: Any) -> str:
    import yaml

    return str(yaml.safe_dump(data))


FEW = settings(max_examples=settings().max_examples // 4)
"""For tests whose examples cost tens of milliseconds."""


@FEW
@given(spoilt(ACCELERATE, DEEPSPEED), st.sampled_from(("x.json", "x.yaml")), st.data())
def test_any_configuration_is_checked_and_adopted(data: Any, name: str, more: st.DataObject) -> None:
    try:
        text = json.dumps(data) if name.endswith("json") else as_yaml(data)
    except (ValueError, OverflowError):  # an integer of thousands of digits cannot be written
        return
    text = more.draw(st.just(text) | near(text)).encode("utf-8", "replace").decode()
    reports(Source(name, text), {})
    for launch in LAUNCHES:
        result_or_sentence(partial(adopt_file, "x.sh", launch, lambda path: text))
        reports(Source("x.sh", launch), {"acc.yaml": text, "ds.json": text})


TOML = (
    """[run]
nproc_per_node = 4
hosts = "n1,n2"
setup = ["module load cuda"]
env = ["A=b"]
timeout = "1h"
[profile.big]
nnodes = 2
sync = true
[slurm]
qos = "high"
exclusive = true
[roles.actor]
command = "actor.py --x 1"
nproc-per-node = 1
[roles.b]
command = ["b.py"]
""",
    "[run]\ntimeout = 2026-11-27T00:05:09Z\nnp = 1.5\nhosts = [[1], {a = 1}]\n",
)


@given(near(*TOML))
@example("a = " + "9" * 5000)  # ValueError of int, not a TOMLDecodeError
@example("a = " + "[" * 5000)  # RecursionError
@example("[run]\nhosts = " + "[" * 100 + "]" * 100)
def test_any_muster_toml_gives_options_or_one_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "muster")
        place.mkdir()
        (place / "muster.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        env = {"XDG_CONFIG_HOME": folder, "HOME": folder}
        before = os.getcwd()
        os.chdir(folder)
        try:
            for profile in (None, "big"):
                result_or_sentence(partial(toml_files.tables, profile, env))
            result_or_sentence(lambda: toml_files.roles(env))
            assert toml_files.run_dir(env) is None or isinstance(toml_files.run_dir(env), str)
        finally:
            os.chdir(before)


TABLES: dict[str, tuple[Option[Any], ...]] = {name: record.table for name, record in COMMANDS.items()}
VALUES = (
    *("4", "gpu", "1:4", "n1:2,n2", "1h30m", "2d", "10:00", "1.5", "8G", "0-3,7", "a=b", "x=1,2,3", "x=1..5", "0-7%2"),
    *(
        "SIGUSR1@120",
        "NCCL_DEBUG=INFO",
        "[1,2]",
        '{"a": 1}',
        "lr=0.1,0.01",
        "@x",
        "-",
        "--",
        "%x-%j.out",
        "rank",
        "auto",
    ),
)


@st.composite
def command_lines(draw: st.DrawFn, table: tuple[Option[Any], ...]) -> list[str]:
    names = [name for option in table for name in option.names]
    word = st.sampled_from(names or ["-x"]) | near(*VALUES)
    joined = st.tuples(st.sampled_from(names or ["-x"]), near(*VALUES)).map("=".join)
    return [word.replace("\0", "") for word in draw(st.lists(word | joined, max_size=6))]


@pytest.mark.parametrize("name", TABLES)
@FEW
@given(data=st.data())
def test_any_command_line_gives_options_or_one_sentence(name: str, data: st.DataObject) -> None:
    words = data.draw(command_lines(TABLES[name]))
    parsed = result_or_sentence(lambda: parse(words, TABLES[name], interleaved=True, command=name))
    if parsed is not None and name in ("run", "plan"):
        RunOptions(("argv", parsed.options))


@given(st.dictionaries(st.sampled_from([option.key for option in RUN]), near(*VALUES) | st.integers(), max_size=3))
def test_any_table_and_any_environment_give_options_or_one_sentence(data: dict[str, Any]) -> None:
    result_or_sentence(lambda: from_table(RUN, data, "x [run]"))
    by_key = {option.key: option for option in RUN}
    env = {name: str(value) for key, value in data.items() for name in by_key[key].variables}
    result_or_sentence(lambda: from_environment(RUN, env))


@given(near("lr=0.1,0.01", "x=[1, 2]", "x=1..5", "x=1-9/2", 'x=["a"]', "0-7%2", "1,3-5"))
def test_any_sweep_gives_points_or_one_sentence(text: str) -> None:
    parameter = result_or_sentence(lambda: sweep.parameter(text), ValueError)
    if parameter is not None and sweep.count_points([parameter]) < 1000:
        for point in sweep.points_of([parameter]):
            sweep.fill(text, point)
    result_or_sentence(lambda: sweep.array(text), ValueError)


@given(near("torchrun --nproc-per-node 2 train.py 'a b' \"c\""))
def test_words_are_split_or_refused(text: str) -> None:
    from muster.config.program import split_words

    text = text.replace("\0", "")  # which no command line can contain
    found = result_or_sentence(lambda: split_words(text, "--wrap"))
    if found is not None:
        assert split_words(shell.join(found), "--wrap") == found


@pytest.mark.parametrize("value", ["²", "9" * 5000])
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MUSTER_HOLD_IDLE", "SUDO_UID"])
def test_numbers_in_the_environment_that_int_refuses(name: str, value: str) -> None:
    """`²` is a digit for str.isdigit, and no number."""
    result_or_sentence(lambda: from_environment(RUN, {name: value}))
    assert trust.owners({name: value})
