"""`muster check` on healthy machines, and where something was broken on purpose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import look
from lab_cluster import LabCluster

SOUND = 19
"""Claims that hold with several ranks and no GPUs."""


def check(folder: Path, *words: str, before: Sequence[str] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run `muster check` on this machine in a directory of its own."""
    argv = [*before, sys.executable, "-m", "muster", "check", "--backend", "gloo", *words]
    known = {**os.environ, "MUSTER_HOME": str(folder / "home"), **env}
    return subprocess.run(argv, env=known, cwd=folder, capture_output=True, text=True, timeout=200)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wrong(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the claims that do not hold, with the findings."""
    return {item["name"]: item["found"] for item in result(done)["statements"] if not item["holds"]}


def test_a_healthy_machine(tmp_path: Path) -> None:
    done = check(tmp_path, "-g", "3", "--html", "page.html")
    assert 0 == done.returncode, done.stdout + done.stderr
    for words in (
        "0 placement of ranks\n",
        "  ok     all ranks joined: 3 of 3",
        "1 collectives with known results\n",
        "  ok     send and recv in a ring",
        "2 samples of each rank\n",
        "  ok     each sample is used once per epoch: 20 samples, 1 of them twice, so that all ",
        "ranks have the same number",
        "3 training on one rank and on all ranks\n",
        "  ok     distributed training equals training on one rank: parameters differ by ",
        "  ok     detects a training mistake: gradients not averaged",
        "  ok     detects a training mistake: the same data on all ranks",
        f"{SOUND} checks passed\n",
    ):
        assert words in done.stdout
    (run,) = (tmp_path / "home" / "runs").iterdir()
    assert (run / "check.html").read_text() == (tmp_path / "page.html").read_text()
    kept = json.loads((run / "check.json").read_text())
    assert (True, 3, "fork") == (kept["sound"], kept["ranks"], kept["launcher"])
    for entry in kept["told"]["sum"]["speed"]:
        algorithm = entry["bytes"] / entry["seconds"] / 1e9
        assert entry["algorithm_gb_s"] == pytest.approx(algorithm)
        assert entry["bus_gb_s"] == pytest.approx(algorithm * 2 * (3 - 1) / 3)


def test_one_rank_alone(tmp_path: Path) -> None:
    """Claims that need several ranks are skipped."""
    done = check(tmp_path, "-g", "1", "--json")
    assert 0 == done.returncode, done.stdout + done.stderr
    names = [item["name"] for item in result(done)["statements"]]
    assert "distributed training equals training on one rank" in names
    assert not [name for name in names if "detects" in name or "ring" in name]


SPOILT = {
    "a sum that is wrong on one rank": (
        """
import torch.distributed as dist
right = dist.all_reduce
def all_reduce(tensor, *words, **more):
    done = right(tensor, *words, **more)
    if dist.get_rank() == 1:
        tensor += 1
    return done
dist.all_reduce = all_reduce
""",
        {"all_reduce (sum)": "rank 1: element 0 is 1, expected 0", "all_reduce (max)": "rank 1: element 0 is 2"},
    ),
    "a sampler that gives each rank the same": (
        """
from torch.utils.data import DistributedSampler
right = DistributedSampler.__init__
def init(self, data, num_replicas=None, rank=None, **more):
    right(self, data, num_replicas=num_replicas, rank=0, **more)
DistributedSampler.__init__ = init
""",
        {"each sample is used once per epoch": "never used"},
    ),
    "shuffles that know no epoch": (
        """
from torch.utils.data import DistributedSampler
DistributedSampler.set_epoch = lambda self, epoch: None
""",
        {"each epoch is shuffled differently": ""},
    ),
    "gradients that nobody averages": (
        """
import torch.nn.parallel
torch.nn.parallel.DistributedDataParallel = lambda model, **_: model
""",
        {"distributed training equals training on one rank": "parameters differ by"},
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_broken_parts_are_named(tmp_path: Path, what: str) -> None:
    """torch itself is patched in all ranks, before the script starts."""
    text, names = SPOILT[what]
    (tmp_path / "spoilt.py").write_text(text)
    done = check(tmp_path, "-g", "2", "--json", "--preload", "spoilt", PYTHONPATH=str(tmp_path))
    assert 1 == done.returncode, done.stdout + done.stderr
    found = wrong(done)
    assert set(names) <= set(found), found
    for name, says in names.items():
        assert says in found[name]
    assert not result(done)["sound"]


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core is all there is")
def test_ranks_on_a_single_core(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    done = check(tmp_path, "-g", "2", before=["taskset", "--cpu-list", str(core)])
    assert 1 == done.returncode, done.stderr
    name = f"ranks 0-1 on {os.uname().nodename} are all bound to core {core}"
    assert f"  FAIL   no ranks bound to the same single core: {name}\n         fix: " in done.stdout
    assert " passed, 1 failed" in done.stdout


def test_a_rank_that_dies_during_the_check(tmp_path: Path) -> None:
    """The exit code is the run's, and claims that were not checked do not hold."""
    text = "import os, torch.distributed as dist\ndist.reduce_scatter_single = lambda *_, **__: os._exit(7)\n"
    text += "dist.reduce_scatter_tensor = dist.reduce_scatter_single\n"
    (tmp_path / "spoilt.py").write_text(text)
    done = check(tmp_path, "-g", "2", "--preload", "spoilt", PYTHONPATH=str(tmp_path))
    assert 7 == done.returncode, done.stdout + done.stderr
    assert "failed first" in done.stderr
    assert "  ok     all ranks joined: 2 of 2" in done.stdout
    assert 3 == done.stdout.count("  FAIL   section completed: the ranks exited before it")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.py"], "`muster check` runs a built-in script, got: train.py"),
        (["-d"], "`muster check` does not accept --detach: the result is printed when the run ends"),
        (["--backend", "mpi"], "--backend: 'mpi'"),
        (["--launcher", "trochrun"], "did you mean"),
        (["--html", "/nosuch/page.html"], "--html /nosuch/page.html: not writable"),
    ],
)
def test_invalid_requests(tmp_path: Path, words: list[str], says: str) -> None:
    done = check(tmp_path, *words)
    assert 2 == done.returncode
    assert says in done.stderr
    assert not (tmp_path / "home").exists()


def test_help_says_what_it_takes(tmp_path: Path) -> None:
    done = check(tmp_path, "--help")
    assert 0 == done.returncode
    assert "--html PATH" in done.stdout and "muster run --help" in done.stdout


@pytest.mark.parametrize(
    "where",
    [
        ["-H", "n1,n2", "-g", "2"],
        ["--slurm", "-N", "2", "-g", "1"],
        ["-H", "n1,n2", "-g", "1", "--launcher", "mpirun"],
        ["-H", "n1,n2", "-g", "1", "--launcher", "torchrun"],
        ["--slurm", "-N", "2", "-g", "1", "--launcher", "srun"],
    ],
    ids=["ssh", "slurm", "ssh-mpirun", "ssh-torchrun", "slurm-srun"],
)
def test_by_the_places_and_launchers_of_run(there: LabCluster, where: list[str]) -> None:
    done = there.muster("check", "--json", *where)
    assert 0 == done.returncode, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["sound"] and len(found["statements"]) == SOUND
    hosts = {rank["host"] for rank in found["told"]["who"]["ranks"]}
    assert 2 == len(hosts) and hosts <= {"n1", "n2", "n3"}  # which ones, Slurm decides
    assert (there.run / "check.html").is_file()
    there.nothing_left()


def test_ranks_find_their_script_where_no_folder_is_shared(there: LabCluster) -> None:
    """n1 and n2 have homes of their own, without any files of muster."""
    own = "export MUSTER_HOME=/scratch/home-$HOSTNAME"
    done = there.muster("check", "-H", "n1,n2", "-g", "1", "--json", "--setup", own, "--cwd", "/")
    assert 0 == done.returncode, done.stdout + done.stderr
    there.nothing_left()


LOOK = """<!doctype html><body><script>
const frame = document.createElement("iframe");
frame.width = WIDTH; frame.height = 4000; frame.src = "check.html";
frame.onload = () => {
  const page = frame.contentDocument, found = [];
  for (const svg of page.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect();
    const over = [...svg.querySelectorAll("text")].filter(text => {
      const own = text.getBoundingClientRect();
      const beside = own.left < box.left - 1 || own.right > box.right + 1;
      return beside || own.top < box.top - 1 || own.bottom > box.bottom + 1;
    });
    found.push({class: svg.getAttribute("class"), wide: box.width, high: box.height,
      marks: svg.querySelectorAll("rect, polyline").length, over: over.map(text => text.textContent)});
  }
  const style = frame.contentWindow.getComputedStyle(page.body);
  const told = {svgs: found, scrolls: page.documentElement.scrollWidth > WIDTH, ink: style.color,
    ground: style.backgroundColor, title: page.querySelector(".all").textContent, high: page.body.scrollHeight};
  document.body.innerHTML = "<pre>" + JSON.stringify(told) + "</pre>";
};
document.body.append(frame);
</script></body>"""
"""A page that inspects the page: sizes of pictures, text that overflows, and scrolling."""


@pytest.fixture(scope="module")
def page_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML report of a check with two ranks."""
    folder = tmp_path_factory.mktemp("page")
    made = check(folder, "-g", "2", "--json", "--html", "check.html")
    assert 0 == made.returncode, made.stderr
    return folder / "check.html"


@pytest.mark.xdist_group("page")
@pytest.mark.parametrize("width", [1000, 400])
def test_the_page_in_a_browser(page_of_two: Path, tmp_path: Path, width: int) -> None:
    shutil.copy(page_of_two, tmp_path)
    (tmp_path / "look.html").write_text(LOOK.replace("WIDTH", str(width)))
    done = look(f"file://{tmp_path}/look.html", tmp_path, "--allow-file-access-from-files")
    text = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert text, done.stdout + done.stderr
    seen = json.loads(text.group(1))
    assert f"{SOUND} checks passed" == seen["title"]
    assert ["grid", "grid", "grid", "curves"] == [svg["class"] for svg in seen["svgs"]]
    assert [14, 14, 26, 5] == [svg["marks"] for svg in seen["svgs"]]
    assert all(svg["wide"] > 0.7 * width and svg["high"] > 20 for svg in seen["svgs"]), seen
    assert not [word for svg in seen["svgs"] for word in svg["over"]], "words stand outside of their picture"
    assert not seen["scrolls"], "the page is wider than the window"
    assert seen["ink"] != seen["ground"]
