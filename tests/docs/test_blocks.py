"""The parser of shell blocks must detect differences."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from blocks import Block, Typed, blocks, fits, make_file, shell, wrong

PAGE = """# A page

```console
$ printf 'a\\n' \\
    'b'
...
ann@head$ sinfo
root@desk# muster lab up
the lab is up after ...
```

1. In a list:

   ```console
   ann@desk:muster$ make fast
   ```

```console
# not run by the tests: it wants 1000 GPUs
$ muster run -N 125 -g 8 train.py
```

```text
$ muster is not asked here
```
"""


def test_a_page_is_read():
    first, second, third = blocks(PAGE)
    assert first == Block(
        3,
        (
            Typed("", "printf 'a\\n' \\\n    'b'", ("...",)),
            Typed("head", "sinfo", ()),
            Typed("", "muster lab up", ("the lab is up after ...",)),
        ),
    )
    assert second.commands == (Typed("desk:muster", "make fast", ()),)
    assert third == Block(18, (), "it wants 1000 GPUs")


def test_what_the_tests_wait_for_is_not_shown():
    first, waits, last = blocks("```console\n$ a\n```\n\n<!-- wait for: b | grep c -->\n\n```console\n$ d\n```\n")
    assert waits == Block(5, (Typed("", "until b | grep c; do sleep 1; done", ("...",)),), waits=True)
    assert (first.waits, last.commands) == (False, (Typed("", "d", ()),))


def test_a_block_begins_with_a_command():
    with pytest.raises(ValueError, match="line 2"):
        blocks("```console\nhello\n```\n")


SAID = "[1] b\n[0] a\n[1] c\nmuster: all 2 ranks succeeded in 1.3s\n"


@pytest.mark.parametrize(
    ("expected", "well"),
    [
        (("[0] a", "[1] b", "[1] c", "muster: all 2 ranks succeeded in 9.0s"), True),
        (("[0] a", "...", "muster: all 2 ranks ..."), True),
        (("...",), True),
        (("[0] a", "[1] c", "[1] b", "muster: ..."), False),  # the lines of one rank are ordered
        (("[0] a", "[1] b", "[1] c"), False),
        (("[0] a", "[1] b", "[1] c", "...", "muster: all 3 ranks ..."), False),
        ((), False),
    ],
)
def test_what_is_said_fits_or_does_not(expected, well):
    assert well == fits(expected, SAID)


@pytest.mark.parametrize(
    ("expected", "said", "well"),
    [
        ("muster logs 20261121-094617-8eb1f-train", "muster logs 20261122-104617-00000-train", True),
        ("muster logs 20261121-094617-8eb1f-train", "muster logs 20261121-094617-8eb1f-other", False),
        (
            "rank 1 failed first, 1.9s after the start: exit status 7",
            "rank 1 failed first, 1m 12s after the start: exit status 7",
            True,
        ),
        ("a  2026-11-21 22:13:33  2.8s", "a  2026-12-01 00:00:00  11s", True),
        ("grace 10s, none", "grace 30s, none", False),
    ],
)
def test_what_varies_may_vary(expected, said, well):
    assert well == fits((expected,), said + "\n")


def test_dots_within_a_line_stay_in_it():
    assert not fits(("a ... d",), "a b\nc d\n")


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("$ echo a\na\n$ (exit 7)\n$ echo $?\n7", ""),
        ("$ x=1\n$ echo $x\n1", ""),
        ("$ echo a >&2\na", ""),
        ("$ echo a\nb", "`echo a`: the page has\nb\n--- and it says\na\n"),
        ("$ (exit 7)\n$ echo a\na", "`(exit 7)` ended with exit status 7"),
        ("$ (exit 7)\n$ echo $?\n8", "`echo $?`: the page has\n8"),
        ("$ exit 0\n$ echo a\na", "`exit 0` did not come to its end"),
    ],
)
def test_problems_are_reported(page, problem):
    (block,) = blocks(f"```console\n{page}\n```\n")
    done = subprocess.run(["bash", "-c", shell(block.commands)], capture_output=True, text=True, check=True)
    found = wrong(block.commands, done.stdout)
    assert found.startswith(problem) if problem else not found


def test_cat_makes_a_file_that_is_not_there(tmp_path: Path):
    typed = Typed("", "cat job.sh", ("#!/bin/sh", "muster run"))
    make_file(typed, tmp_path)
    make_file(typed._replace(says=("other",)), tmp_path)
    assert "#!/bin/sh\nmuster run\n" == (tmp_path / "job.sh").read_text()
