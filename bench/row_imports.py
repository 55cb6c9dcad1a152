"""Rows: heavy imports, a cold file system, and what parts of the import of torch take."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from contenders import first_sum
from goals import Row, figure, never_slower, ratio
from harness import HERE, Bench, Contender, cpu_of_children
from peers import LOCAL, need_module
from records import MUSTER

TRAINER = str(HERE / "scripts" / "trainer_sum.py")
PLAIN = "import torch"
PREAMBLES = {
    PLAIN: "",
    "without garbage collection": "import gc; gc.disable()",
    "libraries read ahead by a thread": """
import glob, os, sys, sysconfig, threading
def ahead():
    for path in glob.glob(sysconfig.get_paths()["platlib"] + "/torch/lib/*.so*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
threading.Thread(target=ahead).start()
""",
    "libraries loaded by a second thread": """
import ctypes, sysconfig, threading
lib = sysconfig.get_paths()["platlib"] + "/torch/lib/libtorch_cpu.so"
import numpy
thread = threading.Thread(target=lambda: ctypes.CDLL(lib, mode=ctypes.RTLD_GLOBAL))
thread.start()
""",
    "numpy imported before": "import numpy",
}
"""Programs before `import torch` in the same process, by what they are to save."""


def heavy(bench: Bench) -> None:
    """Measure scripts with the imports of transformers' Trainer. A run before makes the record of what to preload."""
    need_module("transformers")
    ranks = bench.size(8, 2)
    names = (MUSTER, "torchrun")
    contenders: dict[str, Contender] = {
        name: with_cpu(first_sum(bench, ranks, LOCAL[name], script=TRAINER)) for name in names
    }
    contenders[MUSTER]()
    bench.turns(f"{ranks} ranks", contenders)


def with_cpu(contender: Contender) -> Contender:
    """Return the contender with the CPU time of all its processes."""

    def once() -> Mapping[str, float]:
        before = cpu_of_children()
        found = dict(contender())
        return {**found, "cpu_all": cpu_of_children() - before}

    return once


def forget(folder: Path) -> None:
    """Drop the pages of all files below a directory from the cache of the kernel, but for those in use."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_from_disk() -> float:
    """Return the megabytes that this machine has read from its disks since it was started."""
    found = re.search(r"^pgpgin (\d+)", Path("/proc/vmstat").read_text(), re.M)
    return int(found[1]) / 1024 if found else 0.0


def cold(bench: Bench) -> None:
    """Measure a launch while the files of torch are not in the page cache."""
    ranks = bench.size(8, 2)
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages")) / "torch"

    def contender(name: str) -> Contender:
        launch = first_sum(bench, ranks, LOCAL[name])

        def once() -> Mapping[str, float]:
            forget(packages)
            before = read_from_disk()
            found = dict(launch())
            return {**found, "read": read_from_disk() - before}

        return once

    bench.turns(f"{ranks} ranks", {name: contender(name) for name in (MUSTER, "torchrun")})


def parts(bench: Bench) -> None:
    """Measure `import torch` with changes before it, in one process each."""

    def contender(before: str) -> Mapping[str, float]:
        program = (
            f"import time; began = time.perf_counter()\n{before}\nimport torch\nprint(time.perf_counter() - began)"
        )
        cpu = cpu_of_children()
        took = float(bench.run([sys.executable, "-c", program]).out.split()[-1])
        return {"time": took, "cpu": cpu_of_children() - cpu}

    contender("")  # the first one would read files that the others find in the page cache
    bench.turns("before the import", {name: partial(contender, text) for name, text in PREAMBLES.items()})


ROWS = (
    Row(
        "heavy",
        "Heavy imports",
        "The first all-reduce of a script that imports what a script with transformers' `Trainer` imports. muster "
        "finds by itself what to import once, in a run before.",
        heavy,
        (ratio("first", "8 ranks", "torchrun", 5),),
    ),
    Row(
        "cold",
        "Cold file system",
        "The launch while none of torch's files is in the page cache (`POSIX_FADV_DONTNEED` on each of them).",
        cold,
        (never_slower("first", "8 ranks", "torchrun"), never_slower("read", "8 ranks", "torchrun", 1.1)),
        floor="One process of a node reads the files, and the ranks share its pages.",
    ),
    Row(
        "import",
        "What parts of the import give",
        "`import torch` in a fresh Python, with one change each. What cannot be gained here no launcher can gain.",
        parts,
        (figure("time", "before the import", PLAIN),),
    ),
)
