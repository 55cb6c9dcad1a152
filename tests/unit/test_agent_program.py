"""The program of an agent: as text for any Python, as bytecode for the Python of muster itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.agent.bootstrap import HOOK_PARTS, agent_argv, agent_source
from muster.controller import connections

SHOW = """
import sys
from muster.agent import bootstrap
program = bootstrap.agent_source(sys.argv[1] == "same")
head = b"main(f, HOOK)\\n"
assert program.count(head) == 1
tail = b"import muster.agent.ranks as r, muster.agent.provenance as p\\n"
tail += b"path = r.RankProcesses.start.__code__.co_filename\\n"
tail += b"print(len(HOOK), len(CODES), path, p.__loader__.get_source(p.__name__)[:3])\\n"
size, _, rest = program.partition(b"\\n")
first, rest = rest[: int(size)], rest[int(size) :]
first = first.replace(head, tail)
own = {"other version": bootstrap.importlib.util.MAGIC_NUMBER, "other implementation": sys.implementation.cache_tag}
if sys.argv[1] in own:  # the bytecode is that of another Python
    word = repr(own[sys.argv[1]]).encode()
    assert first.count(word) == 1 and bootstrap._hook_bytecode()
    first = first.replace(word, b"b'other'")
sys.stdout.buffer.write(b"%d\\n" % len(first) + first + rest)
"""


def run(kind: str, cache: Path, **env: str) -> list[str]:
    """Return what the program prints: parts of the hook, modules with bytecode, the file of a function, a text."""
    env = {"PATH": os.environ["PATH"], "PYTHONPYCACHEPREFIX": str(cache), **env}
    program = subprocess.run([sys.executable, "-c", SHOW, kind], env=env, capture_output=True, check=True).stdout
    done = subprocess.run(agent_argv(sys.executable), input=program, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()


def test_it_is_made_once_for_all_hosts() -> None:
    """With many hosts, making it for each would take longer than all else that muster does before they answer."""
    assert connections._agent_source(False) is connections._agent_source(False)
    assert connections._agent_source(False) == agent_source(False) != agent_source(True)


def test_both_forms_run(tmp_path: Path) -> None:
    """Bytecode is made once and kept; a module whose text is needed has none."""
    same = run("same", tmp_path / "b")
    parts = int(same[0]) // 2
    assert int(same[1]) > 50
    assert (int(same[0]), same[3]) == (2 * parts, '"""')  # the hook, too
    assert same[2].endswith("agent/ranks.py")
    kept = sorted((tmp_path / "b").rglob("ranks.*.pyc"))
    assert len(kept) == 1
    assert same == run("same", tmp_path / "b") == run("host", tmp_path / "b")


@pytest.mark.parametrize("other", ["other version", "other implementation"])
def test_another_python_compiles_the_texts(other: str, tmp_path: Path) -> None:
    """It is sent all texts besides the bytecode of this one, and does not touch that."""
    parts, codes, where, text = run(other, tmp_path)
    assert (codes, where, text) == ("0", "<sent>/muster.agent.ranks", '"""')
    assert int(parts) == len(HOOK_PARTS) + 1


@pytest.mark.parametrize("damage", ["old", "cut"])
def test_bytecode_of_another_text_is_not_used(damage: str, tmp_path: Path) -> None:
    """The times and sizes have to agree, as Python has it."""
    run("same", tmp_path)
    (kept,) = tmp_path.rglob("ranks.*.pyc")
    data = kept.read_bytes()
    kept.write_bytes(data[:8] + bytes(4) + data[12:] if damage == "old" else data[:10])
    assert run("same", tmp_path)[2].endswith("agent/ranks.py")
    assert data == kept.read_bytes()
    kept.write_bytes(data[:8] + bytes(4) + data[12:])
    assert run("same", tmp_path, PYTHONDONTWRITEBYTECODE="1")[2] == "<sent>/muster.agent.ranks"


def test_without_a_place_for_bytecode_text_is_sent(tmp_path: Path) -> None:
    """As on a read-only file system."""
    assert run("same", tmp_path, PYTHONDONTWRITEBYTECODE="1")[1:3] == ["0", "<sent>/muster.agent.ranks"]
