"""Options: their syntax, which of several sources wins, and which arguments belong to the script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.cli import COMMANDS, call
from muster.cli.help import Page, add_options
from muster.cli.run_line import read_line
from muster.config.command_options import COMMANDS as OPTIONS
from muster.config.command_options import LAB, LogsOptions, PruneOptions
from muster.config.options import RUN, RunOptions
from muster.config.parse import ParsedArgs, from_environment, from_table, parse
from muster.config.torchrun import ignored_notes
from muster.core.model import as_json
from muster.core.results import RunResult, RunState
from muster.errors import InvalidRequest

TYPED: list[tuple[str, dict[str, Any]]] = [
    ("--max-restarts 3", {"max_restarts": 3}),
    ("--max-restarts=3", {"max_restarts": 3}),
    ("--max_restarts 3", {"max_restarts": 3}),
    ("--max_restarts=3", {"max_restarts": 3}),
    ("-g 4", {"nproc_per_node": "4"}),
    ("-g4", {"nproc_per_node": "4"}),
    ("-g=4", {"nproc_per_node": "4"}),
    ("-ggpu", {"nproc_per_node": "gpu"}),
    ("--nproc-per-node auto", {"nproc_per_node": "auto"}),
    ("--nproc_per_node=cpu", {"nproc_per_node": "cpu"}),
    ("-q", {"quiet": True}),
    ("-qm", {"quiet": True, "module": True}),
    ("-qg2", {"quiet": True, "nproc_per_node": "2"}),
    ("-np 3", {"np": 3}),
    ("-np=3", {"np": 3}),
    ("-n3", {"np": 3}),
    ("--timeout 90", {"timeout": 90.0}),
    ("--timeout 1.5", {"timeout": 1.5}),
    ("--timeout 10m", {"timeout": 600.0}),
    ("--timeout 1h30m", {"timeout": 5400.0}),
    ("--timeout 2d", {"timeout": 172800.0}),
    ("--timeout 0.5h", {"timeout": 1800.0}),
    ("--shutdown-timeout 5", {"grace": 5.0}),
    ("--ranks 0,4-6", {"ranks": (0, 4, 5, 6)}),
    ("--local-ranks-filter 1", {"ranks": (1,)}),
    ("--env A=1 --env B", {"env": ["A=1", "B"]}),
    ("--env A=x=y", {"env": ["A=x=y"]}),
    ("--env A=", {"env": ["A="]}),
    ("--prefix=", {"prefix": ""}),
    ("--prefix -", {"prefix": "-"}),
    ("--prefix --quiet", {"prefix": "--quiet"}),
    ("--wrap=a=b", {"wrap": "a=b"}),
    ("--quiet --grace 1 --grace 2", {"quiet": True, "grace": 2.0}),
]

TABLES = [record.table for record in (*OPTIONS.values(), *LAB.values())]
"""The options of each command."""

SPLIT: list[tuple[str, ParsedArgs]] = [
    ("train.py --lr 0.1 -g 4", ParsedArgs({}, ["train.py", "--lr", "0.1", "-g", "4"], False)),
    ("-g 4 train.py -- -x", ParsedArgs({"nproc_per_node": "4"}, ["train.py", "--", "-x"], False)),
    ("-q -- ./train -q", ParsedArgs({"quiet": True}, ["./train", "-q"], True)),
    ("-- -odd-name", ParsedArgs({}, ["-odd-name"], True)),
    ("-m pkg.train --help", ParsedArgs({"module": True}, ["pkg.train", "--help"], False)),
    ("- -q", ParsedArgs({}, ["-", "-q"], False)),
    ("-q", ParsedArgs({"quiet": True}, [], False)),
    ("", ParsedArgs({}, [], False)),
]


@pytest.mark.parametrize(("line", "given"), TYPED)
def test_an_option_may_be_typed_in_several_ways(line: str, given: dict[str, Any]) -> None:
    assert parse([*line.split(), "train.py"], RUN) == ParsedArgs(given, ["train.py"], False)


@pytest.mark.parametrize(("line", "parsed"), SPLIT)
def test_arguments_after_the_script_belong_to_it(line: str, parsed: ParsedArgs) -> None:
    """All arguments from the first that is not an option, and all after `--`."""
    assert parse(line.split(), RUN) == parsed


@pytest.mark.parametrize(
    ("env", "grace"),
    [
        ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}, 120.0),
        ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120", "PET_SHUTDOWN_TIMEOUT": "7"}, 7.0),
    ],
)
def test_torchruns_own_variable_for_the_grace_counts_last(env: dict[str, str], grace: float) -> None:
    assert {"grace": grace} == from_environment(RUN, env)


def test_other_commands_take_options_after_the_run_too() -> None:
    parsed = parse(["last", "-f", "--rank", "0-1", "--stderr"], LogsOptions.table, interleaved=True)
    assert parsed == ParsedArgs({"follow": True, "rank": (0, 1), "stderr": True}, ["last"], False)


def test_variables_set_options() -> None:
    """MUSTER_ and the option's name, and torchrun's variables, PET_ and the name."""
    found = from_environment(
        RUN,
        {
            "PET_NPROC_PER_NODE": "4",
            "PET_MAX_RESTARTS": "2",
            "PET_STANDALONE": "1",
            "PET_SHUTDOWN_TIMEOUT": "7",
            "MUSTER_GPUS": "2,3",
            "MUSTER_QUIET": "no",
            "MUSTER_ENV": "A=1",
            "MUSTER_HOME": "/data/muster",
            "OTHER": "x",
        },
    )
    assert found == {
        "nproc_per_node": "4",
        "max_restarts": 2,
        "standalone": True,
        "grace": 7.0,
        "gpus": "2,3",
        "env": ["A=1"],
    }


def test_musters_own_variable_wins_over_torchruns() -> None:
    assert from_environment(RUN, {"PET_MAX_RESTARTS": "2", "MUSTER_MAX_RESTARTS": "3"}) == {"max_restarts": 3}


@pytest.mark.parametrize(
    ("text", "given"),
    [("1", {"quiet": True}), ("True", {"quiet": True}), ("on", {"quiet": True}), ("0", {}), ("false", {}), ("", {})],
)
def test_a_variable_switches_an_option_on_or_leaves_it(text: str, given: dict[str, Any]) -> None:
    assert from_environment(RUN, {"MUSTER_QUIET": text}) == given


def test_a_table_of_muster_toml_sets_options() -> None:
    """With hyphens or underscores; numbers, strings, arrays and booleans of TOML."""
    data = {
        "nproc-per-node": 4,
        "grace": 2.5,
        "timeout": "1h",
        "quiet": True,
        "json": False,
        "preload": ["a", "b"],
        "env": "A=1",
    }
    assert from_table(RUN, data, "muster.toml [run]") == {
        "nproc_per_node": "4",
        "grace": 2.5,
        "timeout": 3600.0,
        "quiet": True,
        "preload": ["a", "b"],
        "env": ["A=1"],
    }


def test_each_option_is_written_once() -> None:
    """No name and no key twice in one command, so that nothing can contradict it."""
    for options in TABLES:
        names = [name for option in options for name in option.names]
        keys = [option.key for option in options]
        assert (len(names), len(keys)) == (len(set(names)), len(set(keys)))


def test_help_names_every_option_but_those_that_say_nothing_here() -> None:
    for options in TABLES:
        page = Page({})
        add_options(page, options)
        shown = [name for option in options for name in option.names if option.group]
        assert [name for name in shown if name not in page.text()] == []
        assert "--rdzv-backend" not in page.text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the usage, and exits with 0."""
    assert call([name, "--help"], env, 0.0) == 0
    assert f"muster {name} " in capsys.readouterr().out


def test_help_may_come_before_the_command(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """`muster help run` is `muster run --help`; its output can be shown in ASCII."""
    assert call(["help", "run"], env, 0.0) == 0
    asked = capsys.readouterr().out
    assert call(["run", "--help"], env, 0.0) == 0
    assert asked == capsys.readouterr().out != ""
    for words in (["help"], ["help", "run"]):
        command = [sys.executable, "-m", "muster", *words]
        done = subprocess.run(command, env={**env, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and "\\u2026" in done.stdout


def test_help_of_the_script_is_the_scripts(env: dict[str, str]) -> None:
    """`--help` after the script is not for muster, which then finds that the script does not exist."""
    with pytest.raises(InvalidRequest, match="script not found"):
        call(["plan", "nosuch.py", "--help"], env, 0.0)


def test_ps_may_be_asked_for_some_runs_only(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Commands accept the names that other tools give them."""
    for run_id, name, code in (("a", "one", 0), ("b", "two", 3), ("c", "one", 4)):
        folder = Path(env["MUSTER_HOME"]) / "runs" / f"20261121-120000-aaa{run_id}-train"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"id": folder.name, "name": name, "ranks": 1, "time": 0.0}))
        outcome = RunResult(RunState.FAILED if code else RunState.SUCCEEDED, code, 1.0)
        (folder / "outcome.json").write_text(json.dumps(as_json(outcome)))
    expected = {"": "cba", "--failed": "cb", "--running": "", "--name one": "ca", "--failed --name one": "c"}
    for line, ids in expected.items():
        assert call(["ls", "--json", *line.split()], env, 0.0) == 0
        assert [record["id"][19] for record in json.loads(capsys.readouterr().out)] == list(ids), line
    assert call(["stop", "20261121-120000-aaaa-train"], env, 0.0) == 0
    assert "has already ended" in capsys.readouterr().out


# ---- which source wins ----------------------------------------------------------------------------------------------

PROJECT = """
[run]
grace = 11
timeout = 12
max_restarts = 13
name = "project"

[profile.big]
grace = 21
timeout = 22
name = "big"
"""

PERSON = """
[run]
grace = 31
timeout = 32
max_restarts = 33
name = "person"
stdin = 0

[profile.big]
max_restarts = 43

[profile.mine]
max_restarts = 53
"""


@pytest.fixture
def place(tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A directory below the project's muster.toml, a user's own one, and the environment."""
    (tmp_path / "project" / "deep").mkdir(parents=True)
    (tmp_path / "project" / "muster.toml").write_text(PROJECT)
    (tmp_path / "project" / "deep" / "train.py").write_text("")
    (tmp_path / "config" / "muster").mkdir(parents=True)
    (tmp_path / "config" / "muster" / "muster.toml").write_text(PERSON)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    return {**env, "XDG_CONFIG_HOME": str(tmp_path / "config")}


def planned(line: str, env: dict[str, str], capsys: pytest.CaptureFixture[str], whole: bool = False) -> dict[str, Any]:
    """Return the job of `muster plan`, or the `whole` plan."""
    assert call(["plan", "--json", "-g", "1", *line.split(), "train.py"], env, 0.0) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan if whole else plan["job"]


@pytest.mark.parametrize(
    ("line", "variables", "expected"),
    [
        ("", {}, (11.0, 12.0, 13, "project")),
        ("--profile big", {}, (21.0, 22.0, 43, "big")),
        ("--profile mine", {}, (11.0, 12.0, 53, "project")),
        ("", {"MUSTER_PROFILE": "big"}, (21.0, 22.0, 43, "big")),
        ("--profile big", {"MUSTER_PROFILE": "mine", "MUSTER_GRACE": "51"}, (51.0, 22.0, 43, "big")),
        ("--profile big --grace 61", {"MUSTER_GRACE": "51", "PET_MAX_RESTARTS": "52"}, (61.0, 22.0, 52, "big")),
        ("--grace 61 --timeout 62 --max-restarts 63 --name me", {"MUSTER_NAME": "x"}, (61.0, 62.0, 63, "me")),
    ],
)
def test_the_nearest_source_wins(
    line: str,
    variables: dict[str, str],
    expected: tuple[float, float, int, str],
    place: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Command line, variable, profile, [run]; and of the two files the project's before the user's."""
    job = planned(line, {**place, **variables}, capsys)
    assert (job["grace"], job["timeout"], job["max_restarts"], job["name"]) == expected
    assert job["stdin"] == 0  # which only the user's own file sets


def test_what_is_typed_sets_aside_what_is_configured_against_it(
    place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of ranks on this machine, and where they run."""
    (tmp_path / "project" / "muster.toml").write_text("[run]\nnproc-per-node = 4\n")
    assert call(["plan", "--json", "-n", "2", "train.py"], place, 0.0) == 0
    assert [2] == [len(node["ranks"]) for node in json.loads(capsys.readouterr().out)["nodes"]]
    (tmp_path / "project" / "muster.toml").write_text('[run]\nhosts = "n1"\n')
    for line in (["--slurm"], ["--scheduler", "slurm", "-p", "gpu"]):
        assert call(["plan", *line, "train.py"], place, 0.0) == 0
        assert "#SBATCH" in capsys.readouterr().out
    (tmp_path / "project" / "muster.toml").write_text("[run]\nslurm = true\n")
    assert ["n1"] == [node["host"]["name"] for node in planned("--hosts n1", place, capsys, whole=True)["nodes"]]


def test_files_that_a_muster_toml_names_are_seen_from_there(
    place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project" / "muster.toml").write_text('[run]\nhostfile = "hosts"\nnproc-per-node = 1\ncwd = "deep"\n')
    (tmp_path / "project" / "hosts").write_text("n1\nn2\n")
    plan = planned("", place, capsys, whole=True)
    assert ["n1", "n2"] == [node["host"]["name"] for node in plan["nodes"]]
    assert str(tmp_path / "project" / "deep") == plan["job"]["cwd"]


def test_an_authenticated_rendezvous_of_a_file_holds_for_all_runs(
    place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another launcher is refused then, too: with it the port would be open."""
    (tmp_path / "project" / "muster.toml").write_text('[run]\nrendezvous = "authenticated"\n')
    env = {**place, "XDG_CONFIG_HOME": "/nowhere"}
    assert "authenticated" == planned("", env, capsys)["rendezvous"]
    with pytest.raises(InvalidRequest, match="--rendezvous authenticated cannot be combined with --launcher torchrun"):
        planned("--launcher torchrun", env, capsys)


def test_what_a_file_preloads_is_no_reason_to_refuse_a_launcher(
    place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project" / "muster.toml").write_text('[run]\npreload = ["json"]\n')
    env = {**place, "XDG_CONFIG_HOME": "/nowhere"}
    assert ["json"] == planned("", env, capsys)["preload"]
    assert [] == planned("--launcher torchrun", env, capsys)["preload"]
    with pytest.raises(InvalidRequest, match="--preload is not supported with --launcher torchrun"):
        planned("--launcher torchrun --preload json", env, capsys)


def test_without_any_file_the_defaults_hold(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    job = planned("", {**env, "HOME": str(tmp_path)}, capsys)
    assert (job["grace"], job["timeout"], job["max_restarts"], job["launcher"]) == (30.0, None, 0, "fork")


def test_the_users_file_is_in_config_below_home(
    place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless XDG_CONFIG_HOME is set."""
    (tmp_path / "config").rename(tmp_path / ".config")
    env = {name: value for name, value in place.items() if name != "XDG_CONFIG_HOME"}
    job = planned("--profile mine", {**env, "HOME": str(tmp_path)}, capsys)
    assert job["max_restarts"] == 53


# ---- the resulting job -----------------------------------------------------------------------------------------------


def test_options_reach_the_job(place: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Lists with commas, variables with their current values, words split as by a shell."""
    line = "--launcher exec --preload a,b --preload c --gpus 2,3 --env A=1 --env TERM --setup x --cwd ."
    plan = planned(line, {**place, "TERM": "vt100"}, capsys, whole=True)
    job = plan["job"]
    assert job["preload"] == ["a", "b", "c"]
    assert plan["nodes"][0]["host"]["gpus"] == ["2", "3"]
    assert job["env"] == {"A": "1", "TERM": "vt100"}
    assert (job["setup"], job["cwd"]) == (["x"], str(Path.cwd()))


def test_what_torchrun_takes_and_muster_does_not_need_is_a_note(
    place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not an error: the run starts, and one line explains why nothing changes."""
    line = "--standalone --nnodes 1 --rdzv-backend c10d --rdzv_endpoint localhost:0 -r 3 -t 3"
    options = RunOptions(("argv", parse([*line.split(), "train.py"], RUN).options))
    assert [note.split(" ")[1] for note in ignored_notes(options)] == [
        "--standalone",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--redirects",
        "--tee",
    ]
    planned(line, place, capsys)


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("-p gpu", "unknown option: -p", "with --slurm this is --partition"),
        ("--ntasks 4", "unknown option: --ntasks", "with --slurm this is --np"),
        ("--slurm --cpus-per-gpu 4", "unknown option: --cpus-per-gpu", "write `--slurm-opt cpus-per-gpu=VALUE`"),
        ("--slurm --partitoin gpu", "unknown option: --partitoin", "did you mean `--partition`"),
        ("--nprocs 4", "unknown option: --nprocs", "ranks per node: -g N"),
        ("--num_machines 4", "unknown option: --num_machines", "nodes: -N N, or -H HOSTS"),
        ("--dry-run", "unknown option: --dry-run", "`muster plan …` shows what `muster run …` would do"),
        ("-t 4:00:00", "-t is a time limit only with --slurm", None),
        ("--partition gpu --mem 4G", "--partition, --mem require --slurm", "add `--slurm`"),
        ("--hosts n1 --time 10", "--time requires a scheduler", "`--flux`; to limit the duration of a run without a"),
        ("--queue x --time 10", "--queue, --time require a scheduler", "add `--sge`, `--pbs`, `--lsf` or `--flux`;"),
        ("--account x --qos y", "--account, --qos require --slurm", "add `--slurm`"),
        ("--qos y --pe x", "--qos requires --slurm", "add `--slurm`"),
        ("--sge --account x", "--account is an option of Slurm, PBS and Flux, and not available with --sge", None),
        ("-N 2", "--nnodes 2: no hosts given", "allocate nodes from Slurm with `--slurm`"),
        ("--scheduler slrum", "unknown scheduler: `slrum`", "did you mean `slurm`"),
    ],
)
def test_options_of_slurm_hint_at_it(place: dict[str, str], line: str, sentence: str, hint: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(["plan", *line.split(), "train.py"], place, 0.0)
    assert sentence in caught.value.sentence
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("--prefix {foo}", "invalid placeholder in `--prefix {foo}`", "use {rank}"),
        ("--prefix {time:%Q}", "unknown directive in {time:%Q}: %Q", "`{time:%H:%M:%S}`"),
        ("--prefix {time:%H%}", "unknown directive in {time:%H%}: %", "`{time:%H:%M:%S}`"),
        ("-m", "-m takes the name of a module, got a file: train.py", "leave out `-m`, or name the module: `-m train`"),
        ("-m pkg/train", "-m takes the name of a module, got a file: pkg/train", "`-m pkg.train`"),
        ("--on-hang restart --max-restarts 0", "--on-hang restart requires --max-restarts", "add `--max-restarts 1`"),
        (
            "--rendezvous authenticated --launcher torchrun",
            "--rendezvous authenticated cannot be combined with --launcher torchrun, which opens ports of its own",
            "`--launcher fork`",
        ),
        (
            "--rendezvous no",
            "invalid value for --rendezvous: 'no' (expected open or authenticated)",
            "--rendezvous MODE",
        ),
        ("--slurm --mem lots", "invalid value for --mem: 'lots' (expected a size such as `64G`", "--mem SIZE"),
    ],
)
def test_what_a_run_would_refuse_a_plan_refuses(place: dict[str, str], line: str, sentence: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(["plan", *line.split(), "train.py"], place, 0.0)
    assert sentence in caught.value.sentence
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("line", ["--prefix {time:%-d.%m.%f|%Ey|%%|iso}", "--slurm --mem 64GB", "--slurm --mem 0"])
def test_what_strftime_and_slurm_read_is_accepted(place: dict[str, str], line: str) -> None:
    call(["plan", *line.split(), "train.py"], place, 0.0)


def test_a_misspelled_variable_is_named(place: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    own = {"MUSTER_NPROC": "2", "MUSTER_HOM": "x", "MUSTER_NAME": "fine", "MUSTER_UNLIKE_ANY": "y", "MUSTER_TRACE": ""}
    call(["plan", "train.py"], {**place, **own}, 0.0)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "variable" in line]
    assert warnings == [
        "warning: unknown environment variable: MUSTER_NPROC; did you mean MUSTER_NPROC_PER_NODE?",
        "warning: unknown environment variable: MUSTER_HOM; did you mean MUSTER_HOME?",
    ]


def test_every_silent_option_is_explained() -> None:
    """Each option without its own heading is rejected, used, or has a note that explains why it has no effect."""
    silent = [option.key for option in RUN if not option.group]
    used = {"nnodes", "node_rank", "virtual_local_rank"}
    explained = {note.split(" ")[1] for note in ignored_notes(RunOptions(("argv", dict.fromkeys(silent, "x"))))}
    assert {"--" + key.replace("_", "-") for key in silent if key not in used} == explained


def typed(words: list[str], env: dict[str, str]) -> ParsedArgs:
    """Return what a command line of `muster run` prints."""
    return read_line(words, env, RunOptions, "run")[0]


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("--slurm -t 4:00:00 -p gpu -A lab -J big -c 4 -w n[1-2] -o %x.out", None),
        ("-t 4:00:00 -p gpu -A lab -J big -c 4 -w n[1-2] -o %x.out --slurm", None),
        ("--slurm --time 4:00:00 --account lab --job-name big -p gpu -c 4 -w n[1-2] --output %x.out", None),
        ("--slurm --nodes 2 --ntasks 8 --ntasks-per-node 4", {"nnodes": "2", "np": 8, "nproc_per_node": "4"}),
        ("-t 3 -N 1", {"tee": "3", "nnodes": "1"}),
    ],
)  # fmt: skip
def test_with_slurm_short_options_are_those_of_sbatch(
    line: str, given: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    everything = {"time": "4:00:00", "partition": "gpu", "account": "lab", "name": "big", "cpus_per_task": 4}
    everything.update(nodelist="n[1-2]", output="%x.out")
    found = typed([*line.split(), "train.py", "-p", "1"], {"HOME": str(tmp_path)})
    assert ["train.py", "-p", "1"] == found.operands
    assert (given or everything) == {name: value for name, value in found.options.items() if name != "slurm"}


def test_slurm_of_a_variable_or_a_file_counts_for_short_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path), "MUSTER_SLURM": "1"}
    assert {"time": "10"} == typed(["-t", "10", "train.py"], env).options
    (tmp_path / "muster.toml").write_text("[run]\nslurm = true\n")
    assert {"time": "10"} == typed(["-t", "10", "train.py"], {"HOME": str(tmp_path)}).options


def test_short_options_that_mean_something_else_to_sbatch_are_told_apart(tmp_path: Path) -> None:
    for line, hint in (
        ("-m block:cyclic", "--distribution=block:cyclic"),
        ("-d afterok:12", "--dependency=afterok:12"),
        ("-q high", "--qos=high"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            typed(["--slurm", *line.split(), "train.py"], {"HOME": str(tmp_path)})
        assert hint in (caught.value.hint or "")
    assert ["pkg.train"] == typed(["--slurm", "-m", "pkg.train"], {"HOME": str(tmp_path)}).operands


@pytest.mark.parametrize("name", ["", "last", "-x", "a/b", "../x", "n1:x"])
def test_names_of_runs_that_commands_would_read_otherwise_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a run name"):
        parse(["--name", name, "x.py"], RUN)


@pytest.mark.parametrize("age", ["30", "1.5"])
def test_an_age_has_a_unit(age: str) -> None:
    with pytest.raises(InvalidRequest, match=f"a duration with a unit, such as `{age}d`"):
        parse(["--older-than", age], PruneOptions.table)
    with pytest.raises(InvalidRequest, match="expected a duration with a unit, such as `30d` or `12h`"):
        parse(["--older-than", "1x"], PruneOptions.table)
    assert {"older_than": 0.0} == parse(["--older-than", "0"], PruneOptions.table).options


@pytest.mark.parametrize(
    ("size", "is_bytes"), [("500M", 500 << 20), ("1.5k", 1536), ("10GiB", 10 << 30), ("2tb", 2 << 40)]
)
def test_a_size_has_a_unit(size: str, is_bytes: int) -> None:
    assert {"keep_size": is_bytes} == parse(["--keep-size", size], RUN).options
    for wrong in ("10", "0G", "-1G", "G", "1e3M", "10X"):
        with pytest.raises(InvalidRequest, match="a size with a unit"):
            parse([f"--keep-size={wrong}"], RUN)
