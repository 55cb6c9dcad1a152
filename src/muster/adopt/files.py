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
    if "\0" in source:
        line = source.partition("\0")[0].count("\n") + 1
        return Adoption(path, (), unknown=(Remark(line, "", "a null byte: the file is no script"),))

    def read(name: str) -> str | None:
        text = read_file(name)
        text = None if text is not None and "\0" in text else text
        files.append(text or "")
        return text

    found = adopt_exported(path, source)
    if found is None and launcher_of(source):
        found = _with_launcher(adopt_python(path, source), read)
    elif found is None and (path.endswith(".py") or re.match(r"#!.*\bpython", source)):
        says = f"a Python program that starts no ranks with submitit or Ray: `muster run {path}` starts it"
        found = Adoption(path, (), unknown=(Remark(0, "", says),))
    elif found is None:
        found = adopt_script(path, source, read, given)
    return redacted(found, "\n".join(files))


def _with_launcher(found: Adoption, read: ReadFile) -> Adoption:
    """Return what a program of submitit launches whose tasks start a launcher, as torchrun: its ranks are counted."""
    for launch in found.launches:
        words = " ".join(word.shell for word in launch.program)
        words = f"python -m {words}" if launch.kind == "module" else words
        if not launch.scheduled or not _LAUNCHER.match(words):
            continue
        size = f"--nodes={launch.nodes or 1} --ntasks-per-node={launch.each or 1}"
        gpus = "".join(f" --{name}={value}" for name, value in launch.options if name == "gpus-per-node")
        inner = adopt_script("task", f"#!/bin/bash\n#SBATCH {size}{gpus}\nsrun {words}\n", read)
        if len(inner.launches) != 1:
            continue
        (task,) = inner.launches
        own = [option for option in task.options if option[0] not in ("gpus-per-node", *dict(launch.options))]
        task = task._replace(
            by=f"submitit, which starts {task.by.rpartition('which starts ')[2]}",
            line=launch.line,
            options=(*launch.options, *own),
            setup=launch.setup,
        )
        said = tuple(remark._replace(line=launch.line, text="") for remark in inner.changed)
        return found._replace(launches=(task,), changed=(*found.changed, *said))
    return found


_LAUNCHER = re.compile(
    r"torchrun |accelerate launch |deepspeed |python -m (torch\.distributed\.(run|launch)|accelerate)"
)
