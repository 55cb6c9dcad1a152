"""What a file launches, of whatever form it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.adopt.adoption import Adoption, Remark
from muster.adopt.exported import adopt_exported
from muster.adopt.found import ReadFile
from muster.adopt.python_scripts import adopt_python, launcher_of
from muster.adopt.redaction import redacted
from muster.adopt.script import adopt_script


def adopt_file(path: str, source: str, read_file: ReadFile, given: Sequence[str] = ()) -> Adoption:
    """Return what a file launches, without the secrets in it; `given` are options of sbatch on its command line."""
    files = [source]

    def read(name: str) -> str | None:
        text = read_file(name)
        files.append(text or "")
        return text

    found = adopt_exported(path, source)
    if found is None and launcher_of(source):
        found = adopt_python(path, source)
    elif found is None and (path.endswith(".py") or re.match(r"#!.*\bpython", source)):
        says = f"a Python program that starts no ranks with submitit or Ray: `muster run {path}` starts it"
        found = Adoption(path, (), unknown=(Remark(0, "", says),))
    elif found is None:
        found = adopt_script(path, source, read, given)
    return redacted(found, "\n".join(files))
