"""How agents enter containers: the shell lines of each runtime, the options of srun, mounts, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest

from muster.agent.bootstrap import shell_script
from muster.cli import call
from muster.config.command_options import HoldOptions
from muster.config.options import RunOptions
from muster.config.parse import from_table
from muster.config.sessions import options_to_hold
from muster.core.model import Host, Job, Program
from muster.errors import InvalidRequest
from muster.runtimes import BARE, RUNTIMES, Inside, Mount, chosen, mount, mounts_of_code, runtime
from muster.transports.target import command_inside, target_of

INSIDE = Inside(
    "nvcr.io/nvidia/pytorch:25.01-py3", (Mount("/code", "/code"), Mount("/a b", "/data", True)), "/home/ann/runs"
)


def job(**more: Any) -> Job:
    fields = {"runtime": "container", "runtime_value": "image", "runs": "/runs", "mounts": ("/data:/data:ro",), **more}
    return Job(Program("script", ("train.py",)), "fork", "/venv/bin/python", "", "/code", **fields)


@pytest.mark.parametrize("name", ["container", "podman", "docker", "apptainer"])
def test_the_lines_that_enter(name: str, golden: Callable[..., None]) -> None:
    golden(f"container-{name}.txt", runtime(name).enter(INSIDE) + "\n")


@pytest.mark.parametrize("name", ["container", "podman", "docker", "apptainer"])
def test_a_shell_runs_the_command_with_these_words(name: str, tmp_path: Path) -> None:
    fake = tmp_path / ("podman" if name == "container" else name)
    fake.write_text('#!/bin/sh\ncase "$1" in run) echo "id of $*";; exec) printf "<%s>" "$@";; esac\n')
    fake.chmod(0o755)
    inside = INSIDE._replace(
        mounts=(Mount("/proc", "/code"), Mount("/nowhere", "/nowhere")), runs=str(tmp_path / "runs")
    )
    script = shell_script(("python3", "-c", "pass; 'quoted'"), (), True, enter=runtime(name).enter(inside))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURMD_NODENAME": "n1", "OTHER": "x"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("<python3><-c><pass; 'quoted'>"), done.stdout
    assert "/proc:/code" in done.stdout
    assert "/nowhere" not in done.stdout, "what does not exist cannot be mounted; the agent reports it"
    assert (tmp_path / "runs").stat().st_mode & 0o77 == 0
    assert ("<--env><SLURMD_NODENAME>" in done.stdout) == (name != "apptainer"), "who a task is"


def test_without_a_runtime_the_error_names_them(tmp_path: Path) -> None:
    script = shell_script(("python3",), (), True, enter=runtime("container").enter(INSIDE._replace(runs="")))
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (94, "no container runtime found: podman, docker, apptainer, singularity\n") == (
        done.returncode,
        done.stderr,
    )


def test_pyxis_is_options_of_srun() -> None:
    words = command_inside(job(runtime="pyxis"), "/usr/bin/python3", ("-I", "x"), lambda option: False)
    mounts = "--container-mounts=/code:/code,/data:/data:ro,/runs:/runs"
    assert ("--container-image=image", mounts, "--no-container-entrypoint", "python3", "-I", "x") == words


def test_in_a_job_pyxis_is_used_where_srun_has_it() -> None:
    known = command_inside(job(), "/usr/bin/python3", ("x",), lambda option: option == "--container-image")
    unknown = command_inside(job(), "/usr/bin/python3", ("x",), lambda option: False)
    bare = command_inside(job(runtime=BARE), "/usr/bin/python3", ("x",), lambda option: True)
    assert "--container-image=image" == known[0]
    assert ("sh", "-c") == unknown[:2]
    assert unknown[2].startswith("python=python3\n")
    assert unknown[2].endswith('exec "$@" "$python" x\n')
    assert ("/usr/bin/python3", "x") == bare


def test_the_interpreter_is_that_of_the_container_unless_it_is_named() -> None:
    assert "python3" == target_of(job(), Host("n1")).python
    assert "/venv/bin/python" == target_of(job(python_named=True), Host("n1")).python
    assert "" == target_of(job(runtime=BARE), Host("n1")).enter


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/data", Mount("/data", "/data")),
        ("/data:/in", Mount("/data", "/in")),
        ("/data:/in:ro", Mount("/data", "/in", True)),
        ("data", None),
        ("/data:in", None),
        ("/data:/in:rx", None),
        ("/a,b", None),
        ("", None),
    ],
)
def test_a_mount(text: str, found: Mount | None) -> None:
    if found is not None:
        assert found == mount(text)
        return
    with pytest.raises(ValueError, match="paths"):
        mount(text)


def test_the_code_is_mounted_once_and_a_named_mount_replaces_it() -> None:
    own = mounts_of_code("/home/ann/code", "/home/ann/code/train.py", ())
    assert (Mount("/home/ann/code", "/home/ann/code"),) == own
    apart = mounts_of_code("/home/ann", "/opt/code/train.py", ())
    assert [Mount("/home/ann", "/home/ann"), Mount("/opt/code", "/opt/code")] == list(apart)
    other = Mount("/scratch/copy", "/home/ann", True)
    assert (other,) == mounts_of_code("/home/ann", "train.py", (other,))


def test_the_option_selects_the_row() -> None:
    def options(**given: Any) -> RunOptions:
        return RunOptions(("argv", from_table(RunOptions.table, given, "test")))

    assert (BARE, "") == chosen(options())
    assert ("container", "image") == chosen(options(container="image"))
    assert ("docker", "image") == chosen(options(container="image", container_runtime="docker"))
    assert set(RUNTIMES) > {"podman", "docker", "apptainer", "pyxis"}


def test_a_session_in_a_container_is_refused_wherever_it_is_configured() -> None:
    def hold(typed: dict[str, Any], configured: dict[str, Any]) -> HoldOptions:
        given = [from_table(HoldOptions.table, of, "test") for of in (typed, configured)]
        return options_to_hold(HoldOptions(("argv", given[0]), ("muster.toml", given[1])))

    with pytest.raises(InvalidRequest, match="got the image one") as refused:
        hold({"container": "one", "container_runtime": "podman"}, {})
    assert str(refused.value.hint).startswith("leave out --container")
    with pytest.raises(InvalidRequest, match="got the image two") as refused:
        hold({}, {"container": "two"})
    assert "`muster hold --container ''`" in str(refused.value.hint)
    assert (BARE, "") == chosen(hold({"container": ""}, {"container": "two"}))


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("--container-runtime podman x.py", "--container-runtime requires a container", "add `--container IMAGE`"),
        ("--container i --container-runtime pyxis x.py", "requires a job of Slurm", "use `--slurm`, or choose another"),
        ("--sge --container i --container-runtime pyxis x.py", "requires a job of Slurm", "use `--slurm`"),
    ],
)
def test_runtimes_that_cannot_be_used_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("")
    with pytest.raises(InvalidRequest) as caught:
        call(["plan", *line.split()], {"HOME": str(tmp_path), "PATH": "/bin"}, 0.0)
    assert sentence in caught.value.sentence and hint in str(caught.value.hint)
