"""Run what the shell blocks of README.md show, for real, and write down what was said: `python tools/session.py`.

The tests only compare. This is for when what muster says has changed: look at the difference, and commit it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "docs"), str(ROOT / "src")]


def main() -> None:
    """Rewrite the blocks that run on this machine."""
    from blocks import DESK, Typed, blocks, make_file, shell, told
    from pages import Places

    def no_lab() -> object:
        raise SystemExit("a session of the README runs on this machine")

    def shown(typed: Typed, said: str) -> str:
        return f"$ {typed.words}\n{said}"

    page = ROOT / "README.md"
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder) / "ann", no_lab)
        done = []
        for block in blocks(text):
            for typed in block.commands:
                make_file(typed, places.folder)
            answers = told(places.run(DESK, shell(block.commands)))
            pieces = [shown(typed, said) for typed, (said, _) in zip(block.commands, answers)]
            done.append("```console\n" + "".join(pieces) + "```")
    new = re.sub(r"^```console\n.*?^```$", lambda _: done.pop(0), text, flags=re.MULTILINE | re.DOTALL)
    page.write_text(new)


if __name__ == "__main__":
    main()
