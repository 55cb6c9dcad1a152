"""Completion in real shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent


def shell(muster: Any, name: str, script: str) -> list[str]:
    """Return the lines that a shell prints."""
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}; tools/system installs it")
    program = muster.cwd / "muster"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m muster "$@"\n')
        program.chmod(0o755)
    quiet = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    env = {**muster.env, "PATH": f"{muster.cwd}:{muster.env['PATH']}", "HOME": str(muster.cwd)}
    done = subprocess.run(
        [name, *quiet, "-c", script], env=env, cwd=muster.cwd, capture_output=True, text=True, timeout=240
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.splitlines()


def bash(muster: Any, *words: str) -> list[str]:
    """Return bash's completions of these words after `muster`; the last one is being typed."""
    quoted = " ".join(f"'{word}'" for word in ("muster", *words))
    ask = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _muster; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return [line for line in shell(muster, "bash", f'eval "$(muster completion bash)"; {ask}') if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("la",), ["launchers", "lab"]),
        (("run", "--laun"), ["--launcher", "--launcher-args"]),
        (("run", "--launcher", "s"), ["spawn", "srun", "submitit"]),
        (("run", "--launcher", "=", "mpi"), ["mpirun"]),  # as bash splits it
        (("check", "--backend", ""), ["gloo", "nccl"]),
        (("check", "--htm"), ["--html"]),
        (("check", "--slurm-o"), ["--slurm-opt"]),
        (("run", "-g", "2", "--max_restarts", "3", "--hostf"), ["--hostfile"]),
        (("run", "tr"), ["train.py"]),
        (("run", "-g", "2", "train.py", "--da"), ["--data"]),  # the script's own: names of files, and no option of ours
        (("logs", "--std"), ["--stderr", "--stdout"]),
        (("logs", "--attempt", ""), []),
        (("lab", "u"), ["up"]),
        (("check", "--h"), ["--html", "--help", "--hosts", "--host", "--hostfile", "--hang-timeout"]),
        (("lab", "up", "--no"), ["--nodes", "--no-shared-home"]),
        (("lab", "fault", "par"), ["partition"]),
        (("nothing", "-"), []),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes(words: tuple[str, ...], expected: list[str], muster: Any):
    for name in ("train.py", "--data"):
        (muster.cwd / name).touch()
    assert expected == bash(muster, *words)


def test_runs_are_completed_by_name_and_id(muster: Any):
    assert 0 == muster("run", "-q", "--name", "night", "--", "true").returncode
    run_id = muster.newest().name
    assert ["last", "night", run_id] == bash(muster, "show", "")
    assert ["night"] == bash(muster, "logs", "-f", "ni")
    assert [run_id] == bash(muster, "rm", run_id[:9])


def test_fish_completes(muster: Any):
    (muster.cwd / "train.py").touch()
    ask = "muster completion fish | source; complete -C 'muster run --launcher s'; complete -C 'muster run tr'"
    lines = [line.partition("\t")[0] for line in shell(muster, "fish", ask)]
    assert ["spawn", "srun", "submitit", "train.py"] == sorted(lines, key=lambda line: line == "train.py")
    assert ["ps\tlist runs, newest first"] == shell(
        muster, "fish", "muster completion fish | source; complete -C 'muster ps'"
    )


def test_zsh_completes(muster: Any):
    """zsh's completion system needs a terminal: two of its functions are replaced by ones that print."""
    around = "compdef() { : }; _describe() { print -l $found }; _files() { print files }"
    ask = "words=(muster run --launcher s); CURRENT=4; _muster; words=(muster run ''); CURRENT=3; _muster; true"
    lines = shell(muster, "zsh", f'{around}; eval "$(muster completion zsh)"; {ask}')
    assert ["spawn:spawns", "srun:starts", "submitit:submits", "files"] == [line.split()[0] for line in lines]


def test_another_shell_is_refused(muster: Any):
    done = muster("completion", "tcsh")
    assert 2 == done.returncode
    assert (
        "error: `muster completion` requires a shell, got: tcsh\nhint: known shells: bash, zsh, fish\n" == done.stderr
    )


def test_version_tells_what_the_ranks_get(muster: Any, tmp_path: Path):
    lines = muster("--version").stdout.splitlines()
    python = sys.version.split()[0]
    import torch

    assert f"muster 0.1.0 (Python {python})" == lines[0]
    # a wheel may be called 2.13.0, and have the version 2.13.0+cu130
    torch_line = lines[1].replace("+" + torch.__version__.partition("+")[2], "")
    base = torch.__version__.partition("+")[0]
    assert f"ranks: Python {python}, torch {base}, {sys.executable} (the Python of muster)" == torch_line
    broken = tmp_path / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert (
        f"ranks: cannot start {broken} (.venv in the working directory)" == muster("--version").stdout.splitlines()[1]
    )
