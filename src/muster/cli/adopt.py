"""`muster adopt`: the command line of muster that does what a launch script does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.config.command_options import AdoptOptions
from muster.config.files import read_text, script_text
from muster.config.parse import parse
from muster.errors import InvalidRequest

_NEEDS = ("tree_sitter", "tree_sitter_bash")


def adopt(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the command line; return 1 if nothing was found that launches ranks."""
    parsed = parse(words, AdoptOptions.table, interleaved=True, command="adopt")
    options = AdoptOptions(("argv", parsed.options))
    if options.help:
        print_command("adopt", COMMANDS["adopt"], AdoptOptions.table, env)
        return 0
    if not parsed.operands:
        raise InvalidRequest("`muster adopt` requires a file", "for example, `muster adopt job.sbatch`")
    if len(parsed.operands) > 1:
        raise InvalidRequest(f"`muster adopt` reads one file, got: {' '.join(parsed.operands)}", "name one file")
    path = parsed.operands[0]
    if not all(find_spec(name) for name in _NEEDS):
        raise InvalidRequest(
            "`muster adopt` requires packages that are not installed: tree-sitter, tree-sitter-bash",
            f"{sys.executable} -m pip install tree-sitter tree-sitter-bash PyYAML",
        )
    from muster.adopt.files import adopt_file
    from muster.adopt.text import as_json, in_words

    source = read_text(path, "adopt")
    folder = os.path.dirname(path)

    def read_file(name: str) -> str | None:
        places = Path(os.path.expanduser(name)), Path(folder, name)
        return next((text for place in places if (text := script_text(place)) is not None), None)

    found = adopt_file(path, source, read_file, options.sbatch)
    print(json.dumps(as_json(found), indent=1) if options.json else in_words(found))
    return 0 if found.launches else 1
