"""Exported forms, run for real without muster: the ranks see what those of `muster run` with the same options see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dumping import DUMP, dumped
from lab_cluster import LabCluster
from waiting import until

ARGS = ["--lr", "0.1", "it's", "a b", "$HOME", "*", "\\n", "two\nlines", "größe", ""]
ENV = {
    "CHOSEN_TEXT": 'it\'s "quoted" $HOME `date` \\ !',
    "CHOSEN_LINES": "one\ntwo\t",
    "CHOSEN_EMPTY": "",
    "CHOSEN_TOKEN": "s3cret value",
}


def _options(env: dict[str, str]) -> list[str]:
    plain = [f"--env={name}={value}" for name, value in env.items() if "TOKEN" not in name]
    return [*plain, *(f"--env={name}" for name in env if "TOKEN" in name)]


def _run(there: LabCluster, argv: list[str], to: str, **more: Any) -> list[dict[str, Any]]:
    folder = there.folder / to
    folder.mkdir()
    env = {**there.lab.environment(), **there.env, **ENV, "DUMP_TO": str(folder), **more.pop("env", {})}
    done = there.lab.run("head", argv, env=env, cwd=str(there.folder), timeout=240, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return dumped(folder)


class Forms:
    """muster run and muster export with the same options and script."""

    def __init__(self, there: LabCluster):
        self.there = there
        self.script = there.script(DUMP, "dump script.py")

    def exported(self, kind: str, *words: str, args: list[str] = ARGS) -> Path:
        """Export, and return the file."""
        path = self.there.folder / f"{kind}.out"
        options = ["--env=DUMP_TO", *_options(ENV), *words]
        env = {**ENV, "DUMP_TO": str(self.there.folder / kind)}
        done = self.there.muster("export", kind, "-o", str(path), *options, self.script, *args, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ENV["CHOSEN_TOKEN"] not in path.read_text()
        return path

    def launched(self, *words: str, args: list[str] = ARGS) -> list[dict[str, Any]]:
        """Return what ranks of `muster run` see."""
        argv = self.there.argv("run", "--launcher=exec", "--env=DUMP_TO", *_options(ENV), *words, self.script, *args)
        return _run(self.there, argv, "muster")


@pytest.fixture
def forms(there: LabCluster) -> Forms:
    return Forms(there)


HOSTS = ("-H", "n1,n2", "-g", "2")


def test_bash_over_ssh(forms: Forms, there: LabCluster):
    path = forms.exported("bash", *HOSTS, args=["--sum", *ARGS])
    found = _run(there, ["bash", str(path)], "bash")
    assert [seen.pop("sum") for seen in found] == [4.0] * 4
    expected = forms.launched(*HOSTS)
    for seen in found:
        seen["argv"].remove("--sum")
    assert found == expected
    there.nothing_left()


def test_bash_ends_all_nodes_when_one_fails_or_it_is_killed(forms: Forms, there: LabCluster):
    waits = there.script(
        "import os, sys, time\nif sys.argv[1] == os.environ['RANK']: sys.exit(7)\n"
        f"open(os.path.join({str(there.folder)!r}, 'started ' + os.environ['RANK']), 'w')\ntime.sleep(600)",
        "waits.py",
    )
    path = there.folder / "waits.sh"
    for rank in ("1", "none"):
        there.muster("export", "bash", "-H", "n1,n2", "-g", "1", "-o", str(path), waits, rank)
        process = there.lab.start("head", ["bash", str(path)], env={**there.lab.environment(), **there.env})
        there.started.append(process)
        if rank == "none":
            until(lambda: len(list(there.folder.glob("started ?"))) == 2, "both ranks have started")
            process.kill()
        assert process.wait(120) not in (0, None)
        there.nothing_left()


@pytest.mark.lab
def test_lines_of_torchrun(forms: Forms, there: LabCluster):
    path = forms.exported("torchrun", *HOSTS)
    folder = there.folder / "torchrun"
    folder.mkdir()
    env = {**there.lab.environment(), **there.env, **ENV}
    nodes = [
        there.lab.start(host, ["bash", str(path), str(number)], env=env) for number, host in enumerate(("n1", "n2"))
    ]
    there.started.extend(nodes)
    assert [node.wait(120) for node in nodes] == [0, 0]
    assert dumped(folder) == forms.launched(*HOSTS)


def _submitted(there: LabCluster, path: Path, to: str) -> list[dict[str, Any]]:
    log = there.folder / f"{to}.log"
    try:
        return _run(there, ["sbatch", "--wait", "--output", str(log), str(path)], to)
    except AssertionError as error:
        raise AssertionError(log.read_text()) from error


@pytest.mark.parametrize("kind", [pytest.param("sbatch", marks=pytest.mark.lab), "srun"])
def test_batch_scripts(forms: Forms, there: LabCluster, kind: str):
    path = forms.exported(kind, "-N", "2", "-g", "2")
    assert _submitted(there, path, kind) == forms.launched("--slurm", "-N", "2", "-g", "2")


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["accelerate", "deepspeed", "mpirun", "mpich", "tmux"])
def test_other_launchers_over_ssh(forms: Forms, there: LabCluster, kind: str):
    path = forms.exported(kind, *HOSTS)
    if kind == "tmux":
        _run(there, ["bash", str(path)], kind)
        until(lambda: len(dumped(there.folder / kind)) == 4, "all ranks have written")
        found = dumped(there.folder / kind)
    else:
        found = _run(there, ["bash", str(path)], kind)
    assert found == forms.launched(*HOSTS)


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["accelerate", "deepspeed", "mpirun", "mpich", "submitit"])
def test_other_launchers_on_slurm(forms: Forms, there: LabCluster, kind: str):
    own = [] if kind == "submitit" else ["--slurm"]
    path = forms.exported(kind, *own, "-N", "2", "-g", "2")
    found = _run(there, [there.argv()[0], str(path)], kind) if kind == "submitit" else _submitted(there, path, kind)
    assert found == forms.launched("--slurm", "-N", "2", "-g", "2")


@pytest.mark.lab
def test_driver_of_ray(forms: Forms, there: LabCluster):
    """On a Ray of its own: one node, which Ray starts for the driver."""
    path = forms.exported("ray", "-N", "1", "-g", "2")
    found = _run(there, [there.argv()[0], str(path)], "ray", env={"RAY_USAGE_STATS_ENABLED": "0"})
    assert found == forms.launched("-g", "2")
    until(lambda: not there.pids("head", "raylet"), "Ray has ended with its driver")
