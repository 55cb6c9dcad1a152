"""Run what the shell blocks of pages show, for real, and write down what they print.

    python tools/session.py [--all] [PAGE…]

Without a page: README.md with its recordings (tests/docs/recordings.py). The tests only compare. This is for when what
muster prints has changed: look at the difference, and commit it. Output that still fits is left as it is, unless
`--all` is given: run that on a quiet machine, as durations are shown. Pages whose commands run on hosts of the lab need
root.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "docs"), str(ROOT / "src")]

if TYPE_CHECKING:
    from blocks import Block
    from pages import Places

_BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def renewed(text: str, places: Places, everything: bool) -> str:
    """The text of a page with the output that its commands have now."""
    from blocks import blocks

    found = iter(blocks(text))

    def block(fence: re.Match[str]) -> str:
        made = next(found)
        while made.waits:
            _lines([], made, places, everything)
            made = next(found)
        if made.skipped:
            return fence[0]
        shown = [line[len(fence[1]) :] for line in fence[2].splitlines()]
        lines = "".join(f"{fence[1]}{line}\n" if line else "\n" for line in _lines(shown, made, places, everything))
        return f"{fence[1]}```console\n{lines}{fence[1]}```"

    return _BLOCK.sub(block, text)


def _lines(shown: list[str], block: Block, places: Places, everything: bool) -> list[str]:
    """The lines of a block, with new output where that of the page does not fit any more."""
    from blocks import fits, make_file, shell, told
    from pages import stretches

    for typed in block.commands:
        make_file(typed, places.folder)
    lines: list[str] = []
    at = 0
    for where, commands in stretches(block):
        answers = told(places.run(where, shell(commands)))
        for typed, (said, _) in zip(commands, answers):
            until = at + 1 + typed.words.count("\n")
            lines += shown[at:until]
            lines += typed.says if fits(typed.says, said) and not everything else said.splitlines()
            at = until + len(typed.says)
    return lines


def main() -> None:
    """Renew the pages that are named."""
    from pages import Places
    from recordings import draw, session, shown

    from muster.lab import Lab

    everything = "--all" in sys.argv
    for page in [Path(name).resolve() for name in sys.argv[1:] if name != "--all"] or [ROOT / "README.md"]:
        top = Path(tempfile.mkdtemp(prefix="muster-session-", dir="/var/lib"))
        top.chmod(0o755)
        lab = Lab()

        def get_lab(lab: Lab = lab) -> Lab:
            lab.up(owned=True)
            return lab

        places = Places(top / "ann", get_lab)
        places.env["MUSTER_LAB_DIR"] = str(top / "lab")
        try:
            for recording in shown(page):
                title, lines = session(recording.read_text()) or ("", "")
                new = renewed(f"```console\n{lines}```", places, everything)
                recording.write_text(draw(title, new.partition("\n")[2].rpartition("```")[0]))
            page.write_text(renewed(page.read_text(), places, everything))
        finally:
            places.clear()
            lab.down()
            shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
