"""The one quoting function: any bytes except NUL come through a real sh, bash, ssh's two shells, and sbatch."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muster.agent.bootstrap import agent_script, shell_script
from muster.core.model import Late
from muster.export._shell import Sh
from muster.export._shell import quote as quote_for_export
from muster.linux.shell import ONE_LINE, SBATCH, SH, join, quote
from muster.schedulers import slurm_batch
from muster.schedulers.scheduler import Request
from muster.ui.formatting import shell_word

ROOT = Path(__file__).parent.parent.parent

# those that shells, printf and Python's repr treat in a way of their own, and bytes that are no text
_PIECES = st.sampled_from(
    (
        *(
            b"'",
            b'"',
            b"\\",
            b"$x",
            b"$(id)",
            b"`id`",
            b"!",
            b"~",
            b"*",
            b"{a,b}",
            b"#",
            b"-n",
            b"=",
            b"%s",
            b"a",
            b"0",
        ),
        *(b"\n", b"\t", b"\r", b" ", b"\x1b", b"\x7f", b"\x80", b"\xff", b"\xc3\xa9", b"\xc2\x80", b"\xe2\x80\xa8"),
        *(b"\\'", b"'\n"),
    )
)
texts = (st.binary(max_size=12) | st.lists(_PIECES, max_size=6).map(b"".join)).map(
    lambda data: os.fsdecode(data.replace(b"\0", b""))
)
words = st.lists(texts, min_size=1, max_size=6)

READER = 'for word in "$@"; do printf \'%s\\0\' "$word"; done'
"""Prints its arguments as they are, each with NUL behind it."""


def read_back(argv: list[str]) -> list[str]:
    done = subprocess.run(argv, capture_output=True, check=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def command_line(quoted: list[str], shell: str = "sh") -> str:
    return " ".join([shell, "-c", quote(READER), "reader", *quoted])


@given(words)
@example(["", "it's", "a'b\n", "\udc80", "\x80"])
def test_any_words_come_through_a_shell(said: list[str]) -> None:
    quoted = [quote(word) for word in said]
    assert read_back(["sh", "-c", command_line(quoted)]) == said
    assert join(said) == " ".join(quoted)


@given(words)
def test_any_words_come_through_the_two_shells_of_ssh(said: list[str]) -> None:
    """The login shell on the other host reads the command, and starts a shell that reads what is in it."""
    inner = command_line([quote(word) for word in said])
    assert read_back(["sh", "-c", f"exec sh -c {quote(inner)}"]) == said


@given(words)
@example(["a'b\n"])  # `$"a'b\n"`, the repr of Python, in the plans of the first version
@example(["\x80", "\udc80", "\x801"])
def test_any_words_come_through_bash_on_one_line(said: list[str]) -> None:
    for of in (lambda word: quote(word, ONE_LINE), quote_for_export, shell_word):
        line = command_line([of(word) for word in said], "bash")
        assert line.isprintable(), "a person can copy it, and a terminal shows it as it is"
        assert read_back(["bash", "-c", line]) == said


@given(texts)
def test_a_setup_line_and_a_command_come_through_a_script(text: str) -> None:
    argv = ("sh", "-c", READER, "reader", text)
    script = shell_script(argv, [f"x={quote(text)}; printf '%s\\0' \"$x\" >&3"], keep_python=True)
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1\n{script}"], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == [text, text]
    assert os.fsencode(quote(text)) in os.fsencode(script)
    agent_script("python3", [f"x={quote(text)}"], keep_python=True)  # sent over ssh: a UnicodeEncodeError once


CONF = """ClusterName=x
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=1
NodeName=n1
PartitionName=p Nodes=n1
MessageTimeout=1
"""
one_line_texts = texts.map(lambda text: text.replace("\n", "")).filter(bool)  # an option without a value has no `=`


@pytest.mark.skipif(not shutil.which("sbatch"), reason="needs Slurm's sbatch")
@settings(max_examples=12)
@given(one_line_texts)
@example(r"a\b'c")  # sbatch takes a backslash for an escape in single quotes, too
@example("a#b $x \"q\" 'r'")
def test_any_text_without_a_newline_comes_through_an_sbatch_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """sbatch prints the options that it has read before it looks for its controller, which does not exist here."""
    folder = tmp_path_factory.mktemp("sbatch")
    (folder / "slurm.conf").write_text(CONF)
    script = slurm_batch.batch_script(Request("x", 1, (("comment", text),)), (), ("true",))
    assert f"#SBATCH --comment={quote(text, SBATCH)}\n" in script
    (folder / "job.sh").write_bytes(os.fsencode(script))
    env = {"PATH": os.environ["PATH"], "SLURM_CONF": str(folder / "slurm.conf")}
    done = subprocess.run(["sbatch", "-v", str(folder / "job.sh")], capture_output=True, env=env, timeout=240)
    assert b"comment             : " + os.fsencode(text) + b"\nsbatch: " in done.stderr


def test_an_sbatch_line_never_ends_early() -> None:
    """The rest of a value with a newline was a line of the script, which bash ran."""
    script = slurm_batch.batch_script(Request("x", 1, (("comment", "a\ntouch /tmp/x"),)), (), ("true",))
    assert "touch" not in script
    for reader in (SH, ONE_LINE, SBATCH):
        with pytest.raises(ValueError, match="cannot be quoted"):
            quote("a\0b", reader)
    with pytest.raises(ValueError, match="cannot be quoted"):
        quote("a\nb", SBATCH)


def test_shell_text_and_late_values_are_not_quoted() -> None:
    assert '"$node"' == quote_for_export(Sh('"$node"'))
    assert "--port=$MASTER_PORT" == shell_word("--port=" + Late.MASTER_PORT)


def test_nothing_else_in_muster_quotes() -> None:
    """`shlex.quote` and `shlex.join` are for any shell, but not for one line and not for sbatch."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = isinstance(node, ast.ImportFrom) and node.module == "shlex" and node.names
            names = [name.name for name in imported or []]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "shlex":
                names.append(node.attr)
            found += [f"{path.relative_to(ROOT)}: shlex.{name}" for name in names if name in ("quote", "join")]
    assert [] == found
