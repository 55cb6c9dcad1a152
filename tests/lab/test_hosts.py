"""Hosts of a lab: each behaves as a machine of its own, with real ssh and Slurm."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
from lab_process import SOURCES, LabProcess
from waiting import until

from muster.lab import Lab, namespaces
from muster.linux import procfs

pytestmark = pytest.mark.lab


def said(lab: Lab, host: str, *words: str, user: str | None = None, timeout: float = 60) -> str:
    """Return the output of a command on a host, which must succeed. A single word is a line of shell."""
    argv = list(words) if len(words) > 1 else ["bash", "-c", words[0]]
    done = lab.run(host, argv, user=user, cwd="/", timeout=timeout)
    assert 0 == done.returncode, f"{host}: {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.rstrip("\n")


# ---- separate hosts
# ---------------------------------------------------------------------------------------------------


def test_each_host_has_its_own_name(lab: Lab) -> None:
    for host in lab.hosts:
        assert [host] * 3 == said(lab, host, "hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname").split()


def test_each_host_has_its_own_processes(lab: Lab) -> None:
    marker = lab.start("n1", ["sleep", "4141"], cwd="/")
    pid = lab.inside(marker)
    try:
        seen = {host: said(lab, host, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '") for host in lab.hosts}
        assert ["n1"] == [host for host in lab.hosts if "sleep 4141" in seen[host]]
        # /proc is of the host's own pid namespace too, so few are visible
        assert all(int(said(lab, host, "ls -d /proc/[0-9]* | wc -l")) < 20 for host in lab.hosts)
        assert "1" == said(lab, "n1", "awk '/^NSpid/ {print NF - 1}' /proc/1/status")
    finally:
        marker.kill()
        marker.wait()
    until(lambda: not procfs.lives(pid), "the command dies with who called it")


def test_each_host_has_its_own_interfaces(lab: Lab) -> None:
    for host in lab.hosts:
        assert ["eth0", "lo"] == said(lab, host, "ls /sys/class/net | sort").split()
        assert lab.address(host) in said(lab, host, "ip -o -4 address show dev eth0")
        assert host == said(lab, host, "getent hosts $(hostname)").split()[1]


@pytest.mark.parametrize("folder", ["/dev/shm", "/run", "/etc", "/tmp", "/var/tmp"])
def test_files_written_on_a_host_stay_there(lab: Lab, folder: str) -> None:
    said(lab, "n1", f"echo mine > {folder}/a-file-of-n1")
    try:
        assert "mine" == said(lab, "n1", f"cat {folder}/a-file-of-n1")
        assert "" == said(lab, "n2", f"ls {folder} | grep a-file-of-n1 || true")
        assert not os.path.exists(f"{folder}/a-file-of-n1")
    finally:
        said(lab, "n1", f"rm {folder}/a-file-of-n1")


def test_a_tmux_server_serves_one_host(lab: Lab) -> None:
    """tmux's socket name in /tmp depends on the user alone; sessions with the same name do not collide."""
    with tempfile.TemporaryDirectory() as on_the_machine:  # the same as without TMUX_TMPDIR, but for this test alone
        machine = {**os.environ, "TMUX_TMPDIR": on_the_machine, "TERM": "xterm"}
        new = ["tmux", "new-session", "-d", "-s", "train", "sleep", "4242"]
        ls = ["tmux", "ls", "-F", "#{session_name} #{host}"]
        subprocess.run(new, env=machine, check=True)
        try:
            for host in ("n1", "n2"):
                assert 0 != lab.run(host, ls, cwd="/").returncode, "no server yet"
                said(lab, host, *new)
            for host in ("n1", "n2"):
                assert f"train {host}" == said(lab, host, *ls)
            said(lab, "n1", "tmux", "kill-server")
            assert "train n2" == said(lab, "n2", *ls)
            assert f"train {os.uname().nodename}\n" == subprocess.check_output(ls, env=machine, text=True)
        finally:
            for host in ("n1", "n2"):
                lab.run(host, ["tmux", "kill-server"], cwd="/")
            subprocess.run(["tmux", "kill-server"], env=machine, check=True)


@pytest.mark.parametrize("user", ["root", "ada"])
def test_pdsh_reaches_the_nodes_by_ssh(lab: Lab, user: str) -> None:
    assert [f"{node}: {user}" for node in lab.nodes] == sorted(
        said(lab, "head", "pdsh", "-a", "id", "-un", user=user).splitlines()
    )
    assert ["n1: n1", "n3: n3"] == sorted(said(lab, "head", "pdsh", "-w", "n[1,3]", "hostname", user=user).splitlines())


def test_a_directory_missing_on_a_host_is_reported_with_a_hint(lab: Lab) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        done = lab.run("n1", ["pwd"], cwd=folder)
        assert (2, "") == (done.returncode, done.stdout)
        assert (
            f"error: n1: cannot enter directory {folder}\nhint: /tmp and /var/tmp are local to each host of the lab"
            in (done.stderr)
        )
        assert done.stderr.endswith(f"muster lab up --share {folder}\n")
    done = lab.run("n1", ["pwd"], cwd="/no such")
    assert "error: n1: cannot enter directory /no such\n" == done.stderr


def test_a_file_in_etc_changed_in_a_host_is_unchanged_on_the_machine(lab: Lab) -> None:
    before = {name: Path("/etc", name).read_bytes() for name in ("passwd", "group", "shadow", "hosts", "hostname")}
    said(lab, "n2", "useradd -m bob && echo changed >> /etc/hosts && rm /etc/hostname")
    try:
        assert before == {name: Path("/etc", name).read_bytes() for name in before}
        assert "bob" not in said(lab, "n1", "cat /etc/passwd")
    finally:
        said(lab, "n2", "userdel -r bob 2>/dev/null; sed -i /changed/d /etc/hosts; echo n2 > /etc/hostname")


def test_all_hosts_share_the_other_files(lab: Lab, tmp_path: Path) -> None:
    for host in lab.hosts:
        said(lab, host, f"echo {host} >> {tmp_path}/all; echo {host} >> {lab.folder.share}/all")
    assert list(lab.hosts) == (tmp_path / "all").read_text().split()
    assert all(list(lab.hosts) == said(lab, host, f"cat {lab.folder.share}/all").split() for host in lab.hosts)


def test_scratch_is_a_file_system_of_each_hosts_own(lab: Lab) -> None:
    for host in lab.hosts:
        said(lab, host, f"hostname > {lab.folder.scratch}/who")
    assert all(host == said(lab, host, f"cat {lab.folder.scratch}/who") for host in lab.hosts)
    assert [] == os.listdir(lab.folder.scratch)


def test_a_socket_of_one_host_is_not_one_of_another(lab: Lab) -> None:
    """Neither by address nor by an abstract name."""
    listen = "import socket, time; t = socket.create_server(('', 7777)); u = socket.socket(socket.AF_UNIX); "
    listen += "u.bind('\\0taken'); print('ready', flush=True); time.sleep(60)"
    first = lab.start("n1", [sys.executable, "-c", listen], cwd="/", stdout=subprocess.PIPE)
    second = lab.start("n2", [sys.executable, "-c", listen], cwd="/", stdout=subprocess.PIPE)
    with first, second:
        assert first.stdout and second.stdout
        assert ["ready\n"] * 2 == [first.stdout.readline(), second.stdout.readline()]
        reach = "exec 3<>/dev/tcp/{}/7777"
        assert 0 == lab.run("n3", ["bash", "-c", reach.format("n1")]).returncode
        assert 0 != lab.run("n3", ["bash", "-c", reach.format("localhost")]).returncode
        with closing(socket.socket()) as outside:
            assert 0 != outside.connect_ex(("127.0.0.1", 7777))
        first.kill()
        second.kill()


# ---- the second user, and ssh ----------------------------------------------------------------------------------------


def test_the_second_user_is_unprivileged(lab: Lab) -> None:
    tries = "id -un; id -gn; echo $HOME; cat /etc/shadow; kill -9 1"
    found = lab.run("n1", ["bash", "-c", tries], user="ada", cwd="/")
    assert ["ada", "ada", f"{lab.folder.homes}/ada"] == found.stdout.split()
    assert "shadow: Permission denied" in found.stderr
    assert "(1) - Operation not permitted" in found.stderr


@pytest.mark.parametrize("user", ["root", "ada"])
def test_ssh_reaches_all_hosts_from_all_hosts(lab: Lab, user: str) -> None:
    for host in lab.hosts:
        ssh = "ssh -n -oBatchMode=yes $host 'echo $(hostname) $(id -un)'"
        line = f"for host in {' '.join(lab.hosts)}; do {ssh}; done"
        assert [f"{other} {user}" for other in lab.hosts] == said(lab, host, line, user=user).splitlines()


def test_ssh_by_address_and_with_a_terminal(lab: Lab) -> None:
    assert "n2" == said(lab, "head", f"ssh -oBatchMode=yes {lab.address('n2')} hostname")
    assert "a tty" == said(lab, "head", "ssh -tt n2 'test -t 0 && echo a tty' </dev/null 2>/dev/null").strip()


def test_ssh_knows_slurm_and_keeps_the_status(lab: Lab) -> None:
    assert said(lab, "head", "ssh n1 'sinfo -h -o %P'").split()
    assert 42 == lab.run("head", ["ssh", "n1", "exit 42"]).returncode


def test_sftp_and_rsync_like_copies_work(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("copied")
    said(lab, "head", f"scp -q {tmp_path}/file n1:{lab.folder.scratch}/copied")
    assert "copied" == said(lab, "n1", f"cat {lab.folder.scratch}/copied")


# ---- from the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def line(lab: Lab, muster: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the command line `muster lab ACTION … --lab-dir` of this lab."""

    def call(action: str, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = muster("lab", action, "--lab-dir", lab.folder.path, *words, **more)
        return done

    return call


@pytest.mark.parametrize(
    ("status", "command"),
    [
        (0, ["true"]),
        (7, ["sh", "-c", "exit 7"]),
        (255, ["sh", "-c", "exit 255"]),
        (127, ["no-such-command"]),
        (126, ["/etc/passwd"]),
        (-signal.SIGKILL, ["sh", "-c", "kill -KILL $$"]),
        (-signal.SIGTERM, ["sh", "-c", "kill -TERM $$"]),
        (-signal.SIGSEGV, ["sh", "-c", "ulimit -c 0; kill -SEGV $$"]),
    ],
)
def test_exec_gives_the_status_of_the_command(line: Any, status: int, command: list[str]) -> None:
    """A command killed by a signal makes exec die of that signal, which a shell shows as 128 + n."""
    assert status == line("exec", "n1", "--", *command).returncode
    assert status == line("exec", "n1", *command).returncode


def test_exec_passes_words_stdin_and_both_streams_on(line: Any) -> None:
    odd = ["a b", "", "$HOME", "*", "--lab-dir", "-x", "--", "ü\n"]
    script = 'cat; printf "%s|" "$@"; echo err >&2'
    done = line("exec", "n2", "--", "sh", "-c", script, "sh", *odd, input="in", stdin=None)
    assert (0, "in" + "".join(f"{word}|" for word in odd), "err\n") == (done.returncode, done.stdout, done.stderr)


def test_exec_starts_in_this_folder_with_this_environment(
    line: Any, lab: Lab, env: dict[str, str], tmp_path: Path
) -> None:
    done = line("exec", "n1", "--", "sh", "-c", "pwd; echo $MINE; echo $SLURM_CONF", env={**env, "MINE": "here"})
    assert [str(tmp_path), "here", lab.folder.slurm_conf] == done.stdout.split()


def test_exec_as_the_second_user_is_at_home(line: Any, lab: Lab, env: dict[str, str]) -> None:
    show = ["--", "sh", "-c", "id -un; pwd; echo $HOME $USER; echo $MINE; sinfo -h >/dev/null && echo slurm"]
    done = line("exec", "--user", "ada", "n1", *show, env={**env, "MINE": "here"})
    home = f"{lab.folder.homes}/ada"
    assert ["ada", home, f"{home} ada", "", "slurm"] == done.stdout.splitlines(), done.stderr
    assert "root" == line("exec", "--user", "root", "n1", "--", "id", "-un").stdout.strip()


def test_processes_of_exec_end_with_it(line: Any, lab: Lab, muster: Any) -> None:
    running = muster.start("lab", "exec", "--lab-dir", lab.folder.path, "n1", "--", "sleep", "4343")
    first = lab.status()["hosts"]["n1"]

    def sleeping() -> bool:
        return any(cmdline(pid) == b"sleep\x004343\x00" for pid in namespaces.inhabitants(first))

    until(sleeping, "it runs")
    running.kill()
    running.communicate(timeout=30)
    until(lambda: not sleeping(), "it has ended")


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_ssh_config_is_one_by_which_this_machine_reaches_the_hosts(line: Any, lab: Lab, tmp_path: Path) -> None:
    done = line("ssh-config")
    assert (0, "") == (done.returncode, done.stderr)
    path = tmp_path / "ssh config"
    path.write_text(done.stdout)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for host in lab.hosts:
        words = ["ssh", "-F", str(path), "-oBatchMode=yes", host, "hostname; cat; exit 5"]
        there = subprocess.run(words, env=env, input="in", capture_output=True, text=True, timeout=30)
        assert (5, f"{host}\nin", "") == (there.returncode, there.stdout, there.stderr)
    copied = tmp_path / "copied"
    subprocess.run(["scp", "-q", "-F", str(path), "n1:/etc/hostname", str(copied)], env=env, check=True, timeout=30)
    assert "n1\n" == copied.read_text()
    assert not (tmp_path / ".ssh").exists()


def test_ssh_config_says_who_cannot_be_reached(line: Any, lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "ssh config"
    path.write_text(line("ssh-config").stdout)
    lab.fault("drop-ssh", "n1")
    done = subprocess.run(["ssh", "-F", path, "n1", "true"], capture_output=True, text=True, timeout=30)
    assert 255 == done.returncode
    assert done.stderr.startswith(
        "error: cannot connect to 10.77.1.1 port 22 of the lab: [Errno 111] Connection refused\n"
    )


@pytest.mark.parametrize(("words", "name"), [((), "head"), (("n2",), "n2")])
def test_shell_is_a_shell_in_a_terminal(lab: Lab, muster: Any, words: tuple[str, ...], name: str) -> None:
    """The prompt appears, commands run, and Ctrl-C ends a command, not the shell."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a worker of pytest-xdist ignores it, and so would the shell
            env = {**muster.env, "SHELL": "/bin/bash", "PS1": "$ ", "TERM": "dumb"}
            os.execve(sys.executable, muster.argv("lab", "shell", "--lab-dir", lab.folder.path, *words), env)
        finally:
            os._exit(99)
    seen = b""

    def reads(what: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while what not in seen:
            assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], (what, seen)
            seen += os.read(terminal, 4096)
        seen = seen.partition(what)[2]

    os.write(terminal, b"echo $((40 + 2)) on $(hostname); tty\n")
    reads(b"42 on " + name.encode())
    reads(b"/dev/pts/")
    os.write(terminal, b"echo sta''rted; sleep 4444\n")
    reads(b"started")
    until(lambda: cmdline(os.tcgetpgrp(terminal)).startswith(b"sleep"), "the command has the terminal")
    os.write(terminal, b"\x03")
    os.write(terminal, b"echo still he''re; exit 9\n")
    reads(b"still here")
    assert 9 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)


def test_status_in_words(line: Any, lab: Lab) -> None:
    lab.fault("partition", "n2")
    lab.fault("freeze", "n2")
    lab.fault("crash", "n3")
    lab.fault("slurmctld-down")
    done = line("status")
    assert (
        f"lab is up: head and 3 nodes, each with 8 cores and 4 GPUs; directory: {lab.folder.path}\n"
        "HOST  ADDRESS    STATE  FAULTS\n"
        "head  10.77.0.1  up\n"
        "n1    10.77.1.1  up\n"
        "n2    10.77.1.2  up     partition, freeze\n"
        "n3    10.77.1.3  down   crash\n"
        "fault: slurmctld-down\n"
    ) == done.stdout
    assert (0, "") == (done.returncode, done.stderr)


def test_status_as_json(line: Any, lab: Lab) -> None:
    lab.fault("crash", "n3")
    lab.fault("slurmctld-down")
    done = line("status", "--json")
    found = json.loads(done.stdout)
    pids = {host: found["hosts"][host].pop("pid") for host in lab.hosts}
    assert lab.status()["hosts"] == {host: pid for host, pid in pids.items() if pid is not None}
    assert pids["n3"] is None
    assert {
        "state": "up",
        "folder": lab.folder.path,
        "shape": {"nodes": 3, "gpus": 4, "cpus": 8, "shared_home": True, "scheduler": "slurm", "accounting": False},
        "notes": [],
        "hosts": {
            host: {"address": lab.address(host), "faults": ["crash"] if host == "n3" else []} for host in lab.hosts
        },
        "faults": ["slurmctld-down"],
    } == found
    assert (0, "") == (done.returncode, done.stderr)


def test_status_without_a_lab_is_1(muster: Any, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("no lab: only root asks for one")
    done = muster("lab", "status", "--lab-dir", str(tmp_path / "none"))
    assert (1, "no lab is up\n", "") == (done.returncode, done.stdout, done.stderr)
    done = muster("lab", "status", "--json", "--lab-dir", str(tmp_path / "none"))
    assert (1, "none", {}) == (done.returncode, *(json.loads(done.stdout)[key] for key in ("state", "hosts")))


# ---- Slurm -----------------------------------------------------------------------------------------------------------


def jobs(lab: Lab) -> dict[str, str]:
    """Return the states of unfinished jobs."""
    return dict(row.split() for row in said(lab, "head", "squeue -h -o '%i %T'").splitlines())


def job(lab: Lab, number: str) -> dict[str, str]:
    """Return Slurm's record of a job."""
    return dict(re.findall(r"(\S+?)=(\S*)", said(lab, "head", f"scontrol show job {number}")))


@pytest.fixture
def slurm(lab: Lab) -> Iterator[Lab]:
    """The lab, whose jobs are cancelled at the end."""
    yield lab
    lab.clear()
    said(lab, "head", "scancel $(squeue -h -o %i) 2>/dev/null || true")
    until(lambda: not jobs(lab), "no job is left")


def submit(lab: Lab, script: str, *options: str, user: str | None = None) -> str:
    """Submit a batch script, and return the job ID."""
    cwd = f"{lab.folder.homes}/ada" if user == "ada" else "/tmp"
    words = ["sbatch", "--parsable", *options]
    done = lab.run("head", words, user=user, cwd=cwd, input="#!/bin/bash\n" + script)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("user", ["root", "ada"])
def test_srun_starts_tasks_on_all_nodes(slurm: Lab, user: str) -> None:
    show = "srun -N3 --ntasks-per-node=2 sh -c 'echo $SLURMD_NODENAME $(hostname) $(id -un)'"
    expected = [f"{node} {node} {user}" for node in slurm.nodes for _ in range(2)]
    assert expected == sorted(said(slurm, "head", show, user=user).splitlines())


@pytest.mark.parametrize("user", ["root", "ada"])
def test_sbatch_runs_a_script_with_steps(slurm: Lab, user: str, tmp_path: Path) -> None:
    out = Path(f"{slurm.folder.homes}/ada/out") if user == "ada" else tmp_path / "out"
    number = submit(slurm, "hostname; srun hostname; id -un; echo the end", "-N2", f"-o{out}", user=user)
    until(lambda: job(slurm, number)["JobState"] == "COMPLETED", "the job ends well")
    first, *steps, who, end = out.read_text().splitlines()
    assert ("n1", ["n1", "n2"], user, "the end") == (first, sorted(steps), who, end)


def test_srun_gives_the_highest_status(slurm: Lab) -> None:
    assert 5 == slurm.run("head", ["srun", "-N3", "sh", "-c", "exit $((SLURM_PROCID + 3))"]).returncode


def test_gpus_are_given_out_by_slurm(slurm: Lab) -> None:
    show = "sh -c 'echo $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES'"
    assert ["3 0,1,2"] * 2 == said(slurm, "head", f"srun -N2 --gpus-per-node=3 {show}").splitlines()
    assert "" == said(slurm, "head", f"srun -N1 {show}"), "who asks for none gets none"
    holding = slurm.start("head", ["srun", "-wn1", "--gpus-per-node=3", "sleep", "4242"])
    until(lambda: "RUNNING" in jobs(slurm).values(), "a job holds three")
    assert "1 3" == said(slurm, "head", f"srun -wn1 --gpus-per-node=1 {show}")
    done = slurm.run("head", ["srun", "--immediate=2", "-wn1", "--gpus-per-node=2", "true"])
    assert (1, True) == (done.returncode, "Unable to allocate resources" in done.stderr)
    too_many = slurm.run("head", ["srun", "--gpus-per-node=5", "true"])
    assert "Requested node configuration is not available" in too_many.stderr
    said(slurm, "head", "scancel $(squeue -h -o %i)")
    holding.wait(30)


RUNS = "echo run ${SLURM_RESTART_COUNT:-0} >> %s; exec sleep 4242\n"


@pytest.mark.parametrize(("partition", "grace"), [("main", 0), ("spare", 6)])
def test_an_urgent_job_preempts_one_that_runs_again(slurm: Lab, tmp_path: Path, partition: str, grace: int) -> None:
    """The job is requeued under the same ID, and starts again soon after the urgent one has ended."""
    wrote = tmp_path / "runs"
    number = submit(slurm, RUNS % wrote, f"-p{partition}", "-N3", "--exclusive", "-o/dev/null")
    until(lambda: wrote.exists(), "it runs")
    urgent = slurm.run("head", ["srun", "-purgent", "-N3", "--exclusive", "hostname"], timeout=60)
    assert list(slurm.nodes) == sorted(urgent.stdout.split())
    until(lambda: "run 1" in wrote.read_text(), "it runs again", timeout=30)
    assert ["run 0", "run 1"] == wrote.read_text().splitlines()
    assert {number: "RUNNING"} == jobs(slurm)
    assert "1" == job(slurm, number)["Restarts"]


def test_a_requeued_job_starts_again_soon(slurm: Lab, tmp_path: Path) -> None:
    """Not only after Slurm's default of two minutes."""
    wrote = tmp_path / "runs"
    number = submit(slurm, RUNS % wrote, "-o/dev/null")
    until(lambda: wrote.exists(), "it runs")
    said(slurm, "head", f"scontrol requeue {number}")
    until(lambda: "run 1" in wrote.read_text(), "it runs again", timeout=30)


DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): time.sleep(4242)
os.setsid()
if os.fork(): os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for number in range(3): os.dup2(null, number)
open(sys.argv[1], "w").write("x")
time.sleep(4242)
"""


def test_nothing_of_a_cancelled_job_lives(slurm: Lab, tmp_path: Path) -> None:
    """Not even a process that forked twice, left its session, and ignores SIGTERM."""
    up = tmp_path / "daemon is up"
    running = slurm.start("head", ["srun", "-wn2", sys.executable, "-c", DAEMON, str(up)])
    until(lambda: up.exists(), "the daemon is up")
    first = slurm.status()["hosts"]["n2"]

    def left() -> list[int]:
        return [pid for pid in namespaces.inhabitants(first) if str(up).encode() in cmdline(pid)]

    assert 2 == len(left())
    said(slurm, "head", "scancel $(squeue -h -o %i)")
    until(lambda: not left(), "they are dead", timeout=20)
    until(lambda: not jobs(slurm), "the job is not COMPLETING for ever")
    running.wait(30)


def test_orphans_are_reaped(lab: Lab) -> None:
    """The first process of a host reaps like an init."""
    said(lab, "n1", "for i in $(seq 20); do (sh -c 'exit 3' &) ; done; (sleep 0 & exec true) &")
    first = lab.status()["hosts"]["n1"]
    until(lambda: all(map(procfs.lives, namespaces.inhabitants(first))), "no zombie is left")


def test_a_drained_node_is_intended_and_not_an_error(slurm: Lab) -> None:
    said(slurm, "head", "scontrol update nodename=n3 state=drain reason=test")
    slurm.fault("partition", "n1")
    slurm.clear()
    assert "drained" == said(slurm, "head", "sinfo -h -n n3 -p main -o %T")
    said(slurm, "head", "scontrol update nodename=n3 state=resume")


# ---- other labs ------------------------------------------------------------------------------------------------------


def test_without_shared_home_each_node_has_its_own(own_lab: Callable[..., Lab]) -> None:
    """An empty home, except for Python and the lab's own files."""
    lab = own_lab(nodes=2, shared_home=False)
    home = os.path.expanduser("~root")  # as sshd finds it, whatever HOME is here
    assert sorted(os.listdir(home)) == sorted(said(lab, "head", f"ls -A {home}").splitlines())
    assert not set(os.listdir(home)) & set(said(lab, "n1", f"ls -A {home}").splitlines()) - of_python(home)
    for folder in (home, "/home", f"{lab.folder.homes}/ada"):
        said(lab, "n1", f"echo mine > {folder}/a-file-of-n1")
        for host in ("head", "n2"):
            assert "" == said(lab, host, f"ls {folder} | grep a-file-of-n1 || true"), folder
        assert not os.path.exists(f"{folder}/a-file-of-n1")
    assert "45" == said(lab, "n1", sys.executable, "-c", "import ssl, muster; print(sum(range(10)))")
    for user in ("root", "ada"):
        assert "n2" == said(lab, "n1", "ssh -oBatchMode=yes n2 hostname", user=user)
        assert ["n1", "n2"] == sorted(said(lab, "head", "srun -N2 hostname", user=user).split())
    # the directory where sbatch was called does not exist there, as on such clusters
    said(lab, "head", "mkdir", "/tmp/on-the-head")
    done = lab.run("head", ["srun", "-N2", "sh", "-c", "pwd > /tmp/here"], cwd="/tmp/on-the-head")
    assert "couldn't chdir to `/tmp/on-the-head'" in done.stderr
    assert "/tmp" == said(lab, "n2", "cat /tmp/here")


def of_python(home: str) -> set[str]:
    """Return the paths that stay visible in an empty home: Python and the sources."""
    places = (sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix), SOURCES)
    return {os.path.relpath(place, home).split("/")[0] for place in places if place.startswith(home + "/")}


def test_what_the_hosts_are_to_share_they_share(stage: LabProcess) -> None:
    """Even below /tmp, which each host has for itself, and through symbolic links."""
    for name in ("code", "data", "other"):
        stage.path(f"/tmp/{name}").mkdir()
    stage.path("/tmp/link").symlink_to("/tmp/data")
    up = ("up", "--nodes", "1", "--share", "/tmp/code,/tmp/link")
    assert 0 == stage.muster("lab", *up).returncode
    assert 0 == stage.muster("lab", *up).returncode, "it is up already"
    for host in ("head", "n1"):
        script = f"echo {host} >> /tmp/code/all; echo {host} >> /tmp/data/all; echo {host} > /tmp/own; ls /tmp"
        done = stage.muster("lab", "exec", host, "--", "sh", "-c", script)
        assert (["code", "data", "own"], "") == (done.stdout.split(), done.stderr)
    for name in ("code", "data"):
        assert "head\nn1\n" == stage.path(f"/tmp/{name}/all").read_text()
    assert not stage.path("/tmp/own").exists()
    done = stage.muster("lab", "up", "--nodes", "1", "--share", "/tmp/other")
    expected = "error: a lab is already up, and its hosts do not share /tmp/other\nhint: run `muster lab down` first\n"
    assert (2, expected) == (done.returncode, done.stderr)
    assert 0 == stage.muster("lab", "down").returncode
    assert stage.path("/tmp/code/all").exists()
    done = stage.muster("lab", "up", "--share", "/tmp/nowhere")
    expected = "error: --share: directory not found: /tmp/nowhere\nhint: create it first\n"
    assert (2, expected) == (done.returncode, done.stderr)


def test_two_labs_at_once_know_nothing_of_each_other(own_lab: Callable[..., Lab]) -> None:
    one, other = own_lab(nodes=2, gpus=0), own_lab(nodes=1, cpus=64)
    assert ["n1", "n2"] == sorted(said(one, "head", "srun -N2 hostname").split())
    assert "1 64" == said(other, "head", "sinfo -h -p main -o '%D %c'")
    said(one, "n1", "echo x > /run/mine")
    assert 1 == other.run("n1", ["test", "-e", "/run/mine"]).returncode
    one.fault("crash", "n1")
    assert "n1" == said(other, "head", "ssh n1 hostname")
    one.down()
    assert "n1" == said(other, "head", "srun hostname")


def test_a_lab_of_40_nodes_comes_up(own_lab: Callable[..., Lab]) -> None:
    began = time.monotonic()
    lab = own_lab(nodes=40, gpus=16, cpus=1024)
    print(f"a lab of 40 nodes was up after {time.monotonic() - began:.1f} s")
    assert sorted(lab.nodes) == sorted(said(lab, "head", "srun -N40 hostname").split())
    assert "n40" == said(lab, "n1", "ssh n40 hostname")


def test_a_lab_of_one_node_without_gpus(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(nodes=1, gpus=0, cpus=1)
    assert "n1" == said(lab, "head", "srun hostname")
    assert "(null)" == said(lab, "head", "sinfo -h -p main -o %G")
    assert "gpu" not in said(lab, "n1", "ls /run/gpu")


def test_ports_and_subnet_that_are_in_use_are_no_obstacle(stage: LabProcess) -> None:
    """Other programs may use the ports and addresses of sshd and Slurm, because the lab has its own network."""
    addresses = "".join(f"address add 10.77.{last}/16 dev br0\n" for last in ("0.1", "1.1", "255.254"))
    links = f"link add br0 type bridge\n{addresses}link set br0 up\nlink add lab0 type bridge\n"
    done = stage.run("ip", "-batch", "-", input=links)
    assert (0, "") == (done.returncode, done.stderr)
    listen = (
        "import socket, sys\n"
        "held = [socket.create_server((host, port)) for host in ('', ) for port in (22, 6817, 6818)]\n"
        "name = socket.socket(type=socket.SOCK_DGRAM); name.bind(('', 53))\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    listening = stage.start(sys.executable, "-c", listen, stdin=subprocess.PIPE)
    with listening:
        assert listening.stdout
        assert "ready\n" == listening.stdout.readline()
        assert 0 == stage.muster("lab", "up", "--nodes", "2").returncode
        # the lab's daemons, not the machine's, which never answer
        done = stage.muster("lab", "exec", "head", "--", "srun", "-N2", "hostname")
        assert ["n1", "n2"] == sorted(done.stdout.split()), done.stderr
        config = stage.muster("lab", "ssh-config").stdout
        stage.path("/run/config").write_text(config)
        assert "n1\n" == stage.run("ssh", "-F", "/run/config", "-oBatchMode=yes", "n1", "hostname").stdout
        assert 0 == stage.muster("lab", "down").returncode
        listening.communicate(timeout=30)
    assert "lab0" in stage.run("ip", "-o", "link").stdout


def test_up_with_a_strict_umask_is_a_lab_for_both_users(stage: LabProcess) -> None:
    muster = f"{sys.executable} -m muster lab"
    done = stage.run("sh", "-c", f"umask 077; {muster} up --nodes 1 && {muster} exec --user ada head -- srun id -un")
    assert (0, "ada") == (done.returncode, done.stdout.splitlines()[-1]), done.stderr


def test_more_keys_of_slurm_can_be_set(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(slurm={"KillWait": "2", "MaxJobCount": "77"})
    assert re.search(r"KillWait += 2 sec\n.*MaxJobCount += 77\n", said(lab, "head", "scontrol show config"), re.DOTALL)
