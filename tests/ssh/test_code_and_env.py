"""The environment of ranks on other hosts: code, variables, interfaces."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import EXAMPLE, TICK, LabCluster, Logins, in_step
from waiting import until

from muster.lab import namespaces


def repository(there: LabCluster, **files: str) -> Path:
    """A git working tree in the directory of the test."""
    top = there.folder / "tree"
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["git", "-C", str(top), "init", "-q"], check=True)
    return top


# ---- hosts that share nothing ----------------------------------------------------------------------------------------


def test_a_missing_script(alone: LabCluster) -> None:
    done = alone.muster("run", "-H", "n1,n2", "-g", "1", alone.script("print()"))
    assert 2 == done.returncode
    assert "on n[1-2]" in done.stderr
    assert "copy it with `--sync`" in done.stderr
    alone.nothing_left()


def test_code_is_sent_and_logs_come_back(alone: LabCluster) -> None:
    top = repository(
        alone, main_py="import part\nimport os\nprint('rank', os.environ['RANK'], part.WORD)", part_py="WORD = 1"
    )
    (top / ".gitignore").write_text("*.big\n")
    (top / "data.big").write_bytes(b"x" * 1000)
    line = ["run", "--sync", "-H", "n[1-3]", "-g", "2", "main.py"]
    done = alone.muster("run", "--log-dir", "/run/logs", *line[1:], cwd=str(top))
    assert 0 == done.returncode, done.stderr
    # where no run directory remains that a link could point to, the logs themselves have torchrun's names
    show = "cat /run/logs/*_1/attempt_0/0/stdout.log /run/logs/*_1/attempt_0/1/stdout.log; find /run/logs -type l"
    assert "rank 2 1\nrank 3 1\n" == alone.lab.run("n2", ["sh", "-c", show], cwd="/").stdout
    assert {f"[{rank}] rank {rank} 1" for rank in range(6)} == set(done.stdout.splitlines())
    assert [f"rank {rank} 1\n" for rank in range(6)] == [alone.log(rank) for rank in range(6)]
    assert "succeeded" == alone.outcome()["state"]
    assert 0 != alone.lab.run("n1", ["test", "-e", f"{top}/data.big"], cwd="/").returncode
    # an edit is sent
    (top / "part.py").write_text("WORD = 22")
    done = alone.muster(*line, cwd=str(top))
    assert "[5] rank 5 22" in done.stdout.splitlines(), done.stderr
    # an edit that is not sent is detected
    (top / "main.py").write_text("print('other')")
    done = alone.muster("run", *line[2:], cwd=str(top))
    assert 2 == done.returncode
    assert "on n[1-3] differs from the one here" in done.stderr
    alone.nothing_left()
    left = alone.lab.run("n2", ["sh", "-c", "ls ~/.muster/runs"], cwd="/").stdout
    assert "" == left, "nodes keep nothing of a run whose logs have come back"


def test_too_much_to_be_code(alone: LabCluster) -> None:
    top = repository(alone, main_py="print(1)")
    (top / "weights.bin").write_bytes(b"\0" * (3 << 20))
    done = alone.muster("run", "--sync", "--code-limit", "2", "-H", "n1", "-g", "1", "main.py", cwd=str(top))
    assert 2 == done.returncode
    assert "with 3.0 MiB, more than the limit of 2.0 MiB" in done.stderr
    assert "weights.bin (3.0 MiB)" in done.stderr
    alone.nothing_left()


def test_a_full_disk_on_one_host(alone: LabCluster) -> None:
    """On the disk for its runs; reported before anything has started."""
    home = f"MUSTER_HOME={alone.lab.folder.scratch}"
    line = f"sed -i '1i export {home}' ~/.bashrc || echo export {home} > ~/.bashrc"
    assert 0 == alone.lab.run("n2", ["sh", "-c", line], cwd="/").returncode
    alone.lab.fault("full-disk", "n2")
    try:
        top = repository(alone, main_py="print(1)")
        done = alone.muster("run", "--sync", "-H", "n[1-3]", "-g", "1", "main.py", cwd=str(top))
        assert 2 == done.returncode, done.stdout + done.stderr
        assert f"n2: cannot write to {alone.lab.folder.scratch}/runs: No space left on device" in done.stderr
        alone.nothing_left()
    finally:
        alone.lab.run("n2", ["sh", "-c", "rm ~/.bashrc"], cwd="/")
        alone.lab.clear()


CHATTY = """
import os, sys, time
rank = os.environ["RANK"]
print("begin", rank, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
for number in range(3000):
    print("line", number, "." * 50)
"""


def test_a_disk_that_fills_up_where_copies_of_logs_are_kept(alone: LabCluster) -> None:
    """Gaps in the copy on the first host are reported, and the host that wrote the log keeps the complete one."""
    home, go = f"{alone.lab.folder.scratch}/home", "/run/go"
    top = repository(alone, main_py=CHATTY)
    line = f"sed -i '1i export MUSTER_HOME={home}' ~/.bashrc 2>/dev/null || echo export MUSTER_HOME={home} > ~/.bashrc"
    for host in ("n1", "n2"):
        assert 0 == alone.lab.run(host, ["sh", "-c", line], cwd="/").returncode
    try:
        alone.start("run", "--sync", "-H", "n[1-2]", "-g", "1", "main.py", go, cwd=str(top))
        until(lambda: "begin 0" in alone.said() and "begin 1" in alone.said(), "both ranks print")
        alone.lab.fault("full-disk", "n1")
        for host in ("n1", "n2"):
            assert 0 == alone.lab.run(host, ["touch", go], cwd="/").returncode
        until(lambda: alone.started[-1].poll() is not None, "the run has ended")
        assert 0 == alone.started[-1].returncode, alone.said()
        assert re.search(
            r"cannot copy logs of n2 to n1: No space left on device; they remain on n2 in \S", alone.said()
        )
        told = r"rank 1: 1\d\d KiB of output missing from its log: No space left on device on n1; "
        told += r"the complete log is on n2 in (\S+)"
        found = re.search(told, alone.said())
        assert found, alone.said()
        whole = alone.lab.run("n2", ["cat", f"{found[1]}/attempt_0/rank_00001.out"], cwd="/").stdout
        assert 3001 == whole.count("\n")
        assert re.search(told, alone.muster("show", "last").stdout)
        alone.nothing_left()
    finally:
        alone.lab.clear()
        for host in ("n1", "n2"):
            alone.lab.run(host, ["sh", "-c", f"rm -rf ~/.bashrc {home} {go}"], cwd="/")


def test_detached_on_hosts_that_share_nothing(alone: LabCluster) -> None:
    """Its files are copied here on request."""
    top = repository(alone, main_py=TICK)
    logins = Logins(alone.folder)
    ssh = ("--ssh", logins.ssh)
    done = alone.muster("run", "-d", "--sync", *ssh, "-H", "n[1-3]", "-g", "1", "main.py", "40", "0.05", cwd=str(top))
    assert 0 == done.returncode, done.stderr
    before = logins.count()
    followed = [alone.start("logs", "-f", "last", *more) for more in ((), ("--rank", "1", "--timestamps"))]
    waited = alone.muster("wait", "last")
    assert 0 == waited.returncode, waited.stderr
    assert [0, 0] == [process.wait(timeout=120) for process in followed], [alone.said(0)[-500:], alone.said(1)[-500:]]
    assert 3 == logins.count() - before
    for rank in range(3):
        lines = [line for line in alone.said(0).splitlines() if line.startswith(f"[{rank}] ")]
        assert lines == [f"[{rank}] rank {rank} step {step} sum 3" for step in range(40)]
    assert re.fullmatch(r"([\d:T.+-]+ \[1\] rank 1 step \d+ sum 3\n){40}", alone.said(1))
    shown = alone.muster("logs", "last", "--rank", "2")
    assert 40 == shown.stdout.count("rank 2 step"), shown.stderr
    in_step(alone, late=5, hosts=True)
    alone.nothing_left()
    outcome, used = alone.outcome(), [alone.run / "attempt_0" / f"resources_{node}.json" for node in range(3)]
    assert [True] * 3 == [end["usage"]["peak_memory"] > 50 << 20 for end in outcome["exits"]]
    for node, found in enumerate(map(json.loads, (path.read_text() for path in used))):
        assert (node, [str(node)]) == (found["node"], list(found["ranks"]))
        assert 0 < found["start"] < found["start"] + found["times"][-1] < outcome["duration"]


MAIN = """
import os, part, nested.inner, linked.deep
try:
    import gone
except ImportError:
    gone = None
print("rank", os.environ["RANK"], part.WORD, nested.inner.WORD, linked.deep.WORD, gone and gone.WORD, os.getcwd())
"""


class Apart:
    """A code directory on the head, in a place that each host has for itself, while the runs are shared."""

    def __init__(self, there: LabCluster):
        self.there, self.top = there, f"/var/tmp/code of {there.folder.name}"
        lines = "mkdir -p nested real; git init -q .; git init -q nested; mkfifo fifo; ln -s real linked"
        self.sh(
            f"mkdir -p '{self.top}'; cd '{self.top}'; {lines}; echo WORD=2 >nested/inner.py; echo WORD=3 >real/deep.py"
        )
        self.write("main.py", MAIN)
        self.write("part.py", "WORD = 1")
        self.write("gone.py", "WORD = 4")

    def sh(self, line: str, host: str = "head") -> str:
        done = self.there.lab.run(host, ["sh", "-ec", line], cwd="/")
        assert 0 == done.returncode, done.stderr
        return str(done.stdout)

    def write(self, name: str, text: str) -> None:
        """Write a file, always with the same modification time."""
        (self.there.folder / "text").write_text(text)
        path = f"'{self.top}/{name}'"
        self.sh(f"cp '{self.there.folder}/text' {path}; touch -d 2020-01-01 {path}")

    def run(self, *words: str) -> Any:
        return self.there.muster(
            "run", *words, "-g", "1", "--launcher", "exec", "--prefix", "", "main.py", cwd=self.top
        )

    def lines(self, done: Any) -> set[str]:
        assert 0 == done.returncode, done.stderr
        return set(done.stdout.splitlines())


def test_hosts_that_share_the_runs_and_not_the_code(there: LabCluster) -> None:
    """All code is compared, not only the script; files that cannot be sent are reported."""
    code, hosts = Apart(there), ("-H", "n1,n2")
    done = code.run("--sync", *hosts)
    assert {f"rank {rank} 1 2 3 4 {code.top}" for rank in range(2)} == code.lines(done)
    assert "warning: not regular files, left out: fifo" in done.stderr
    assert re.search(rf"copying 6 files \(\d+ bytes\) from {re.escape(str(code.top))} to n\[1-2\]", done.stderr), (
        done.stderr
    )
    # with the same size and time as the other one
    code.write("part.py", "WORD = 5")
    code.sh(f"rm '{code.top}/gone.py'")
    done = code.run(*hosts)
    assert 2 == done.returncode
    assert f"part.py in {code.top} on n[1-2] differs from the copy here" in done.stderr
    assert f"`--sync` copies the files in {code.top} that git does not ignore; `--no-code-check` starts" in done.stderr
    done = code.run("--no-code-check", *hosts)
    assert {f"rank {rank} 1 2 3 4 {code.top}" for rank in range(2)} == code.lines(done)
    done = code.run("--sync", *hosts)
    assert {f"rank {rank} 5 2 3 None {code.top}" for rank in range(2)} == code.lines(done)
    assert "copying 2 files" in done.stderr
    assert "copying" not in code.run("--sync", *hosts).stderr
    # an empty directory, from which a copy is run, and what is not sent
    code.sh(f"mkdir '{code.top}/empty'; cp '{code.top}/main.py' /var/tmp/elsewhere.py")
    show = ("--launcher", "exec", "--sync", "-H", "n1", "-g", "1", "--prefix", "")
    done = there.muster("run", *show, "../main.py", cwd=f"{code.top}/empty")
    assert {f"rank 0 5 2 3 None {code.top}/empty"} == code.lines(done)
    done = there.muster("run", *show, "/var/tmp/elsewhere.py", cwd=code.top)
    assert 2 == done.returncode
    assert f"script /var/tmp/elsewhere.py not found on n1: --sync copies only {code.top}" in done.stderr
    code.sh(f"mkdir '{code.top}/new'")
    done = there.muster("run", "--snapshot", *show, "../main.py", cwd=f"{code.top}/new")
    assert {f"rank 0 5 2 3 None {there.run}/code/new"} == code.lines(done)


def test_homes_without_git(alone: LabCluster) -> None:
    """Other files below the directory of a script are not its code, and --sync would overwrite them."""
    home = f"/var/tmp/home of {alone.folder.name}"
    lines = f"mkdir -p '{home}/projA/deep' '{home}/mine'; cd '{home}'; echo 'import mine, beside' >train.py; "
    for host in ("head", "n1", "n2"):
        own = f"echo '# {host}' >projA/deep/x.py; touch mine/__init__.py beside.py"
        assert 0 == alone.lab.run(host, ["sh", "-ec", lines + own], cwd="/").returncode
    run = ("run", "-H", "n[1-2]", "-g", "1", "--launcher", "exec", "train.py")
    done = alone.muster(*run, cwd=home)
    assert 0 == done.returncode, done.stderr
    assert 0 == alone.lab.run("n2", ["sh", "-c", f"echo X=1 >'{home}/mine/__init__.py'"], cwd="/").returncode
    done = alone.muster(*run, cwd=home)
    assert 2 == done.returncode
    assert f"mine/__init__.py in {home} on n2 differs from the copy here" in done.stderr
    assert f"`--sync` copies all files in {home}; `--no-code-check` starts" in done.stderr
    assert 0 == alone.muster(*run[:1], "--no-code-check", *run[1:], cwd=home).returncode


def test_nodes_of_slurm_that_do_not_share_the_code(there: LabCluster) -> None:
    code, nodes = Apart(there), ("--slurm", "-N", "2")
    done = code.run(*nodes)
    assert 125 == done.returncode
    assert f"directory {code.top} not found on n[1-2]" in done.stderr
    assert "--sync" in done.stderr
    done = code.run("--sync", *nodes)
    assert {f"rank {rank} 1 2 3 4 {there.run}/code" for rank in range(2)} == code.lines(done)
    # an old copy
    tar = there.folder / "old.tar"
    code.sh(f"cd '{code.top}'; tar -cf '{tar}' .")
    for node in ("n1", "n2"):
        code.sh(f"mkdir -p '{code.top}'; tar -xf '{tar}' -C '{code.top}'", node)
    assert {f"rank {rank} 1 2 3 4 {code.top}" for rank in range(2)} == code.lines(code.run("--sync", *nodes))
    code.write("part.py", "WORD = 5")
    done = code.run("--sync", *nodes)
    assert {f"rank {rank} 5 2 3 4 {there.run}/code" for rank in range(2)} == code.lines(done)
    code.sh(f"echo WORD=6 >'{code.top}/part.py'", "n2")
    done = code.run(*nodes)
    assert 125 == done.returncode
    assert f"part.py in {code.top} on n2 differs from the copy on n1" in done.stderr
    done = code.run("--no-code-check", *nodes)
    assert {f"rank 0 1 2 3 4 {code.top}", f"rank 1 6 2 3 4 {code.top}"} == code.lines(done)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_an_edit_does_not_reach_a_copy(there: LabCluster) -> None:
    top = repository(
        there,
        main_py="import part, os, sys\nprint(part.WORD, os.getcwd())\nsys.exit(os.environ[COUNT] == '0')".replace(
            "COUNT", "'TORCHELASTIC_RESTART_COUNT'"
        ),
        part_py="WORD = 1",
    )
    text = (top / "main.py").read_text()
    (top / "main.py").write_text(f"open({str(top)!r} + '/part.py', 'w').write('WORD = 2')\n{text}")
    done = there.muster("run", "--snapshot", "-H", "n1,n2", "-g", "1", "--max-restarts", "1", "main.py", cwd=str(top))
    assert 0 == done.returncode, done.stderr
    assert f"1 {top}\n" == there.log(0, attempt=1)
    assert "WORD = 1" == (there.run / "code" / "part.py").read_text()


# ---- variables -------------------------------------------------------------------------------------------------------

SHOW = """
import os
for name in ("NCCL_DEBUG", "HF_TOKEN", "MINE", "MINE_TOO", "OTHER", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "WANDB_MODE"):
    print(name, os.environ.get(name))
print("PATH", os.environ["PATH"].split(":")[0])
"""


def test_what_is_about_training_goes_along_and_the_rest_by_name(there: LabCluster) -> None:
    here = {"NCCL_DEBUG": "WARN", "HF_TOKEN": "hf_geheim", "MINE_TOO": "x", "OTHER": "y", "CUDA_VISIBLE_DEVICES": "7"}
    line = ["--env", "MINE=1", "--env", "MINE_*", "--env", "WANDB_MODE=offline"]
    done = there.muster("run", "-H", "n1", "-g", "1", *line, there.script(SHOW), env=here)
    assert 0 == done.returncode, done.stderr
    found = dict(line.split(" ", 1) for line in there.log(0).splitlines())
    assert {"NCCL_DEBUG": "WARN", "HF_TOKEN": "hf_geheim", "MINE": "1", "MINE_TOO": "x"}.items() <= found.items()
    assert ("None", "None", "offline") == (found["OTHER"], found["CUDA_VISIBLE_DEVICES"], found["WANDB_MODE"])
    assert os.path.dirname(os.path.abspath(there.argv()[0])) == found["PATH"]


def test_no_value_stands_on_a_command_line_or_in_a_file_for_others(there: LabCluster) -> None:
    secret = "hf_nobody_may_see_this"
    there.env["HF_TOKEN"] = secret
    process = there.start("run", "-H", "n1,n2", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(2, 1)
    for host, first in there.lab.status()["hosts"].items():
        for pid in namespaces.inhabitants(first):
            with suppress(OSError):  # it has exited since then
                assert secret not in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"), host
    open_to_others = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "grep", "-rlF", secret, str(there.home)],
        capture_output=True,
        text=True,
    )
    assert "" == open_to_others.stdout
    there.kill("head", "-m muster run")
    process.wait()
    there.muster("kill", "last")


def test_the_plan_names_variables_and_hides_secrets(there: LabCluster) -> None:
    here = {"HF_TOKEN": "hf_geheim", "NCCL_DEBUG": "WARN"}
    line = ["-H", "n1,n2", "-g", "2", there.script("")]
    shown = there.muster("plan", *line, env=here).stdout
    assert "HF_TOKEN" in shown
    assert "WARN" not in shown
    shown = there.muster("plan", "--show-env", *line, env=here).stdout
    assert "NCCL_DEBUG=WARN" in shown
    assert "HF_TOKEN=(hidden)" in shown
    assert "hf_geheim" not in there.muster("plan", "--json", *line, env=here).stdout


# ---- interfaces ------------------------------------------------------------------------------------------------------


def test_the_trap_of_127_0_1_1(there: LabCluster) -> None:
    for host in there.lab.nodes:
        there.lab.fault("loopback-name", host)
    done = there.muster("run", "-H", "n[1-3]", "-g", "1", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr


@pytest.fixture
def second_card(there: LabCluster) -> Iterator[Callable[..., None]]:
    """Give hosts a second interface without a route, which is listed first."""
    made: list[str] = []

    def make(*hosts: str) -> None:
        for number, host in enumerate(hosts):
            line = "ip link add aaa0 type veth peer name aaa1; ip link set aaa1 up; ip link set aaa0 up; "
            line += f"ip address add 192.0.2.{number + 1}/24 dev aaa0"
            assert 0 == there.lab.run(host, ["sh", "-ec", line], cwd="/").returncode
            made.append(host)

    yield make
    for host in made:
        there.lab.run(host, ["ip", "link", "del", "aaa0"], cwd="/")


def test_hosts_with_several_interfaces_meet_on_the_one_that_leads_somewhere(
    there: LabCluster, second_card: Callable[..., None]
) -> None:
    second_card("n1", "n2", "n3")
    text = (
        EXAMPLE.read_text() + "\nimport os; print(os.environ['GLOO_SOCKET_IFNAME'], os.environ['NCCL_SOCKET_IFNAME'])"
    )
    done = there.muster("run", "-H", "n[1-3]", "-g", "1", there.script(text))
    assert 0 == done.returncode, done.stderr
    assert 3 == done.stdout.count("eth0 eth0")


def test_a_firewall_between_nodes_is_reported_with_both_ends(there: LabCluster) -> None:
    block = "iptables -A INPUT -p tcp -s 10.77.1.2 -j REJECT"
    if 0 != there.lab.run("n1", ["sh", "-c", block], cwd="/").returncode:
        pytest.skip("no iptables here")
    try:
        done = there.muster("run", "-H", "n[1-3]", "-g", "1", str(EXAMPLE))
    finally:
        there.lab.run("n1", ["sh", "-c", block.replace("-A", "-D")], cwd="/")
    assert 3 == done.returncode
    assert "the nodes cannot connect to n1" in done.stderr
    assert "n2: " in done.stderr


# ---- leftovers -------------------------------------------------------------------------------------------------------

LEAVES = """
import os, subprocess, sys, time
subprocess.Popen(["setsid", "sleep", "4343"], start_new_session=True)
print("left", flush=True)
time.sleep(1000)
"""


def test_clean_ends_leftovers_by_their_mark_only(there: LabCluster) -> None:
    innocent = there.lab.start("n1", ["sleep", "4343"], cwd="/")
    process = there.start("run", "-H", "n1", "-g", "1", there.script(LEAVES))
    until(
        lambda: there.home.exists() and list((there.home / "runs").glob("*/attempt_0/*.out")) and there.log(0),
        "it has begun",
    )
    assert "n1: nothing to clean up\n" == there.muster("clean", "-H", "n1", "-n").stdout, "it runs"
    for pattern in ("muster.pyz", "-I -S -c f=open"):
        for pid in there.pids("n1", pattern):
            with suppress(ProcessLookupError):  # some end with the one before
                os.kill(pid, 9)
    until(lambda: not there.pids("n1", r"script\.py"), "the rank went with its agent")
    until(
        lambda: "found sleep 4343 (pid" in there.muster("clean", "-H", "n1", "-n").stdout,
        "what the rank has left is found",
    )
    done = there.muster("clean", "-H", "n1,n2")
    assert (0, "n2: nothing to clean up") == (done.returncode, done.stdout.splitlines()[-1])
    assert "cleaned up sleep 4343 (pid" in done.stdout
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()
    process.kill()
    process.wait()
    there.nothing_left()
