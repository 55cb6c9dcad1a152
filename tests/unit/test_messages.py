"""Invalid input: one sentence, a hint, exit code 2, nothing started and nothing left behind.

All of it is in tests/golden/bad_input.txt, as a user would see it.
"""

from __future__ import annotations

import json
import resource
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, NamedTuple

import pytest

from muster.cli import call
from muster.errors import InvalidRequest
from muster.linux import processes

RUNS = ("20261121-120000-aaaa-train", "20261121-120000-aaab-train", "20261121-130000-bbbb-eval")


class Case(NamedTuple):
    """A command line that cannot be executed."""

    line: str
    env: Mapping[str, str] = MappingProxyType({})
    toml: str = ""
    """The content of muster.toml in the directory."""


SCRIPTS = [
    Case("muster run loop.py"),
    Case("muster run gone.py"),
    Case("muster run"),
    Case("muster run --"),
    Case("muster run trian.py"),
    Case("muster run nosuch.py"),
    Case("muster run nowhere/train.py"),
    Case("muster run folder"),
    Case("muster run /dev/null"),
    Case("muster run -- nosuchprogram"),
    Case("muster run -- ./nosuchprogram"),
    Case("muster run -- ./train.py"),
    Case("muster run --no-python -m pkg.train"),
    Case("muster run --launcher fork -- ls"),
    Case("muster run --launcher fork --wrap strace train.py"),
    Case("muster run --cwd nowhere train.py"),
    Case("muster run --python nosuchpython train.py"),
]

SIZES = [
    Case("muster run -g 0 train.py"),
    Case("muster run -g x train.py"),
    Case("muster run -g -1 train.py"),
    Case("muster run -g 1.5 train.py"),
    Case("muster run -g 2² train.py"),
    Case("muster run -g gpu train.py", {"CUDA_VISIBLE_DEVICES": ""}),
    Case("muster run -g 2 --stdin 9 train.py"),
    Case("muster run -g 2 --ranks 0,9 train.py"),
    Case("muster run --ranks 3-1 train.py"),
    Case("muster run -g 1000 train.py"),
    Case("muster run -n 3 -g 2 train.py"),
    Case("muster run -n 2 -g 3 train.py"),
    Case("muster run -np x train.py"),
    Case("muster run --hosts n1,n2 -g 1 -n 3 train.py"),
    Case("muster run --hosts n1,n2 -N 2 -g 2 -n 2 train.py"),
    Case("muster run --hosts n1,n2 --slurm train.py"),
    Case("muster plan --slurm -N 3 -n 2 train.py"),
    Case("muster plan --slurm -N 3 -n 4 -g 2 train.py"),
    Case("muster plan --slurm -N 2 -n 5 -g 2 train.py"),
    Case("muster plan --slurm --nodelist n1,n2,n3 -n 4 -g 2 train.py"),
    Case("muster plan --slurm --json -N 2 train.py"),
    Case("muster doctor -N 2"),
    Case("muster doctor --hosts n1 -N 2"),
    Case("muster doctor --partition gpu"),
]

OPTIONS = [
    Case("muster run --max-restrats 3 train.py"),
    Case("muster run --nproc_per_noed 3 train.py"),
    Case("muster run --colour train.py"),
    Case("muster run -x train.py"),
    Case("muster run -g"),
    Case("muster run --quiet=yes train.py"),
    Case("muster run --timeout abc train.py"),
    Case("muster run --timeout 0 train.py"),
    Case("muster run --lease 0s -H n1 train.py"),
    Case("muster run --timeout 5x train.py"),
    Case("muster run --max-restarts -1 train.py"),
    Case("muster run --launcher nope train.py"),
    Case("muster run --launcher forc train.py"),
    Case("muster run --launcher mpiexec train.py"),
    Case("muster run --launcher spawn train.py:main"),
    Case("muster run --launcher spawn trian:main"),
    Case("muster run --launcher spawn nothing.here:main"),
    Case("muster export k8s train.py"),
    Case("muster export ssh train.py"),
    Case("muster prune --older-than 1x"),
    Case("muster run --numa-binding x train.py"),
    Case("muster run --env =1 train.py"),
    Case("muster run --env A-B=1 train.py"),
    Case("muster run --env NOT_SET_HERE train.py"),
    Case("muster run --wrap 'nsys -o {nope}' train.py"),
    Case("muster run --wrap 'nsys -o {' train.py"),
    Case("muster run --wrap 'nsys -o {rank[0]}' train.py"),
    Case("muster run --wrap 'nsys \"' train.py"),
    Case("muster run --prefix '{nope}: ' train.py"),
    Case("muster run --virtual-local-rank train.py"),
    Case("muster run --name '' train.py"),
    Case("muster run --name last train.py"),
]

COMMANDS = [
    Case("muster rnu train.py"),
    Case("muster train.py --lr 1"),
    Case("muster -g 4 train.py"),
    Case("muster frobnicate"),
    Case("muster help frobnicate"),
    Case("muster logs --colour"),
    Case("muster lab up --colour"),
    Case("muster check --colour"),
    Case("muster plan --licenses a train.py"),
    Case("muster run python train.py --lr 1"),
    Case("muster run python3.11 -m pkg.train"),
    Case("muster run sh train.sh"),
]

OPERANDS = [
    *(Case(f"muster {name} last") for name in ("nodes", "launchers", "prune", "clean", "doctor", "version", "--help")),
    Case("muster completion bash zsh"),
    *(Case(f"muster lab {name} last") for name in ("up", "down", "status", "ssh-config", "install")),
    Case("muster check train.py"),
]

WORLDS = [
    Case("muster run --nnodes 2 --node-rank 1 --master-addr a train.py"),
    Case("muster run --nnodes 1:4 train.py"),
    Case("muster run --nnodes many train.py"),
    Case("muster run --node-rank 1 train.py"),
]

SETTINGS = [
    Case("muster run train.py", {"MUSTER_GRACE": "soon"}),
    Case("muster run train.py", {"PET_NPROC_PER_NODE": "all"}),
    Case("muster run train.py", {"MUSTER_QUIET": "perhaps"}),
    Case("muster run train.py", toml="[run\n"),
    Case("muster run train.py", toml="[run]\nmax_restart = 3\n"),
    Case("muster run train.py", toml='[run]\ntimeout = "soon"\n'),
    Case("muster run train.py", toml="[run]\nquiet = 3\n"),
    Case("muster run train.py", toml="run = 3\n"),
    Case("muster run train.py", toml="profile = 3\n"),
    Case("muster run train.py", toml="np = 2\n"),
    Case("muster run --profile big train.py"),
    Case("muster run --profile big train.py", toml="[profile.small]\ngrace = 1\n[profile.tiny]\n"),
    Case("muster run --profile big train.py", toml="profile.big = 3\n"),
    Case("muster run --profile big train.py", toml="[profile.big]\ncolour = 3\n"),
]

OTHER_RUNS = [
    Case("muster show 2027"),
    Case("muster show 20261121-120000"),
    Case("muster show one two"),
    Case("muster show --jsno"),
    Case("muster logs --rank 9"),
    Case("muster logs --rank x"),
    Case("muster logs --attempt 7"),
    Case("muster logs --since yesterday"),
    Case("muster stacks"),
    Case("muster kill"),
    Case("muster rm"),
    Case("muster rm 20261121-120000"),
    Case("muster prune"),
    Case("muster kill --all last"),
    Case("muster ps last"),
    Case("muster show", {"MUSTER_HOME": "/nonexistent/muster"}),
]

CASES = {
    "what is to run": SCRIPTS,
    "how many ranks": SIZES,
    "options": OPTIONS,
    "commands": COMMANDS,
    "operands that a command does not take": OPERANDS,
    "several machines, and several musters": WORLDS,
    "variables and muster.toml": SETTINGS,
    "runs": OTHER_RUNS,
}

EVERY = [case for cases in CASES.values() for case in cases]


@pytest.fixture
def place(tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A directory with a script, a subdirectory and three old runs; returns the environment. The limit is 1000 open
    files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "gone.py").symlink_to("elsewhere.py")
    for run_id in RUNS:
        folder = Path(env["MUSTER_HOME"]) / "runs" / run_id
        (folder / "attempt_0").mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"id": run_id, "time": 0.0, "ranks": 2}))
        (folder / "outcome.json").write_text(json.dumps({"state": "succeeded", "code": 0, "duration": 1.0}))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, limits[1]))
    yield {**env, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def told(case: Case, place: dict[str, str]) -> InvalidRequest:
    """Return the error that a user sees."""
    toml = Path("muster.toml")
    toml.unlink(missing_ok=True)
    if case.toml:
        toml.write_text(case.toml)
    with pytest.raises(InvalidRequest) as caught:
        call(shlex.split(case.line)[1:], {**place, **case.env}, 0.0)
    return caught.value


def title(case: Case) -> str:
    """Return the case as it would be typed in a shell."""
    return " ".join([*(f"{name}={value}" for name, value in case.env.items()), case.line])


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{title(case)} {case.toml!r}" if case.toml else title(case))
def test_invalid_input_is_an_error_message_and_leaves_nothing(case: Case, place: dict[str, str]) -> None:
    """One sentence on one line, no words of Python's own, exit code 2, and no new run."""
    error = told(case, place)
    assert error.exit_code == 2
    assert "\n" not in error.sentence + (error.hint or "")
    assert "invalid literal" not in error.sentence
    assert sorted(path.name for path in (Path(place["MUSTER_HOME"]) / "runs").iterdir()) == sorted(RUNS)


def test_every_error_has_a_hint(place: dict[str, str]) -> None:
    """The hint is not empty."""
    assert [title(case) for case in EVERY if not told(case, place).hint] == []


def test_every_message(place: dict[str, str], tmp_path: Path, golden: Callable[..., None]) -> None:
    """All of them on one page."""
    parts = []
    for heading, cases in CASES.items():
        parts.append(f"== {heading} ==\n")
        for case in cases:
            lines = [f"$ cat muster.toml\n{case.toml.rstrip()}"] if case.toml else []
            parts.append("\n".join([*lines, f"$ {title(case)}", f"error: {told(case, place)}", ""]))
    golden("bad_input.txt", "\n".join(parts), {str(tmp_path): "/home/ann"})


def test_more_ranks_than_a_machine_can_have_are_refused(place: dict[str, Any]) -> None:
    """Whichever limit is reached first."""
    with pytest.raises(InvalidRequest) as caught:
        call(["plan", "-g", "1000000", "train.py"], place, 0.0)
    assert caught.value.sentence.startswith("cannot start 1000000 ranks ")
    assert "fewer ranks" in (caught.value.hint or "")


def test_space_is_not_what_a_read_only_run_directory_lacks(place: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot write the run directory /proc/nowhere/runs") as caught:
        call(["run", "--run-dir", "/proc/nowhere", "-g", "1", "train.py"], place, 0.0)
    assert "choose another directory with --run-dir or MUSTER_HOME" == caught.value.hint


def test_an_error_on_the_command_line_is_two_lines() -> None:
    """The sentence, and the hint if there is one."""
    assert str(InvalidRequest("no such thing", "do this")) == "no such thing\nhint: do this"
    assert str(InvalidRequest("no such thing")) == "no such thing"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(2, "No such file or directory", "/x"), "No such file or directory: /x"),
        (OSError("timed out"), "timed out"),
        (OSError(9, "Bad file descriptor", 3), "Bad file descriptor"),
        (TimeoutError(), "TimeoutError"),
        (ValueError(" "), "ValueError"),
    ],
    ids=repr,
)
def test_an_exception_without_text_is_shown_by_its_name(error: Exception, words: str) -> None:
    assert words == processes.reason_at(error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--running"], "no running runs in"),
        (["--failed"], "no failed runs in"),
        (["--running", "--failed"], "no running or failed runs in"),
        (["--name", "x"], "no runs named x in"),
        (["--since", "1h"], "no runs started in the last 1h in"),
    ],
)
def test_ps_says_which_runs_there_are_none_of(
    words: list[str], said: str, place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == call(["ps", *words], place, 0.0)
    assert f"{said} {place['MUSTER_HOME']}\n" == capsys.readouterr().out
