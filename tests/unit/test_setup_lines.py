"""The lines of --setup before an agent or a controller: one text, which reaches a shell in three ways."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.agent.bootstrap import agent_argv, shell_script, ssh_command_for

ARGS = ("-I", "a b", "it's", "$HOME")

Carrier = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


def over_ssh(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A login shell gets a command that reads the text from stdin."""
    command = ["sh", "-c", ssh_command_for("bash", text.encode())]
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=folder)


def in_a_step(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """On this machine, or as a step of a scheduler, bash reads the text from stdin."""
    return subprocess.run(agent_argv("", text.encode()), input=text, capture_output=True, text=True, cwd=folder)


def as_a_batch_script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A scheduler runs a file."""
    (folder / "batch.sh").write_text(f"#!/bin/bash\n{text}")
    return subprocess.run(["bash", "batch.sh"], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a Python that prints its arguments, and a subdirectory with another one."""
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "python", tmp_path / "other" / "python3"):
        path.write_text(f'#!/bin/sh\nprintf \'%s|\' {path.name} "$@" "$A"\n')
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("carrier", [over_ssh, in_a_step, as_a_batch_script], ids=lambda carrier: carrier.__name__)
def test_lines_of_setup(carrier: Carrier, folder: Path) -> None:
    """Their output is separate from the program's, they read nothing of its input, and their variables remain set."""
    given = "|".join(ARGS)

    def run(*setup: str, python: str = "./python", keep: bool = False) -> tuple[int, str, str]:
        done = carrier(shell_script((python, *ARGS), setup, keep, "error: "), folder)
        return done.returncode, done.stdout, done.stderr

    assert (0, f"python|{given}||", "") == run()
    assert (0, f"python|{given}|x 'y|", "loud\n") == run("echo loud; cat", 'export A="x \'y" # so it is')
    line = "false # it's"
    assert (97, "", f"error: --setup failed: {line}\n") == run(line, "echo no")
    code, out, said = run("if true; then", "echo no")
    assert (97, "", "error: --setup failed: if true; then") == (code, out, said.splitlines()[-1])
    assert (97, "", "error: --setup failed: exit 3\n") == run("true", "exit 3")
    assert (97, "", "error: --setup failed: exit 0\n") == run("exit 0", "echo no")
    assert (0, f"python3|{given}||", "") == run("PATH=$PWD/other:$PATH"), "conda activate"
    assert (0, f"python|{given}||", "") == run("PATH=$PWD/other:$PATH", keep=True)
    assert (0, f"python|{given}||", "") == run("PATH=$PATH:$PWD/other"), "it finds the same one"
    assert (96, "", "error: python not found: ./nothing\n") == run("true", python="./nothing")
