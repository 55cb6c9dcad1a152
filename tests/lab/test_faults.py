"""Each fault has the effect that its description says, as seen by an independent program, and can be undone."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from waiting import until

from muster.errors import InvalidRequest
from muster.lab import Lab, namespaces
from muster.lab.faults import FAULTS
from muster.lab.spec import SWITCH_ADDRESS

pytestmark = pytest.mark.lab

CONNECT = "timeout 2 bash -c 'read -n4 x < /dev/tcp/{address}/22; echo $x'"
"""Prints the greeting of sshd."""


def greets(lab: Lab, start: str, end: str) -> bool:
    return "SSH-" in lab.run(start, ["sh", "-c", CONNECT.format(address=lab.address(end))]).stdout


def test_every_fault_is_in_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert [] == [name for name in FAULTS if f'"{name}"' not in text]


def test_a_partitioned_host_is_cut_off_both_ways(lab: Lab) -> None:
    assert greets(lab, "n1", "n2") and greets(lab, "n2", "n1")
    lab.fault("partition", "n2")
    assert not greets(lab, "n1", "n2") and not greets(lab, "n2", "n1")
    assert greets(lab, "n1", "n3")
    assert [("partition", "n2")] == lab.clear()
    assert greets(lab, "n1", "n2") and greets(lab, "n2", "n1")


def test_slow_names_take_seconds_to_be_not_found(lab: Lab) -> None:
    """The resolver gives up after several seconds, so a limit of 3 s is not enough."""
    ask = ["timeout", "3", "getent", "hosts", "10.99.0.1"]
    assert 2 == lab.run("n1", ask).returncode, "not found, at once"
    lab.fault("slow-dns", "n1")
    assert 124 == lab.run("n1", ask).returncode, "still asking"
    assert 2 == lab.run("n2", ask).returncode
    assert SWITCH_ADDRESS in lab.run("n1", ["cat", "/etc/resolv.conf"]).stdout
    assert 0 == lab.run("n1", ["timeout", "3", "getent", "ahostsv4", "n2"]).returncode, "known names are in a file"
    lab.clear()
    assert 2 == lab.run("n1", ask).returncode


def test_a_hosts_own_name_may_resolve_to_its_loopback_address(lab: Lab) -> None:
    def means(host: str) -> str:
        return lab.run(host, ["getent", "ahostsv4", "n1"], check=True).stdout.split()[0]

    assert lab.address("n1") == means("n1")
    lab.fault("loopback-name", "n1")
    assert "127.0.1.1" == means("n1")
    assert lab.address("n1") == means("n2")
    lab.clear()
    assert lab.address("n1") == means("n1")


def test_a_full_disk_takes_no_byte_not_even_into_an_open_file(lab: Lab) -> None:
    path = f"{lab.folder.scratch}/file"
    script = f"exec 3>{path}; echo first >&3; echo open; read x; head -c 100000 /dev/zero >&3"
    process = lab.start("n1", ["sh", "-c", script], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert "open\n" == process.stdout.readline()
    lab.fault("full-disk", "n1")
    _, errors = process.communicate("go\n", timeout=30)
    assert 0 != process.returncode and "No space left" in errors
    assert "No space left" in lab.run("n1", ["sh", "-c", f"head -c 100000 /dev/zero > {path}.new"]).stderr
    assert 0 == lab.run("n2", ["sh", "-c", f"head -c 100000 /dev/zero > {path}.new"]).returncode
    assert lab.run("n1", ["cat", path], check=True).stdout.startswith("first\n"), "what was there is there"
    lab.clear()
    lab.run("n1", ["sh", "-c", f"head -c 100000 /dev/zero > {path}.new && rm {path}*"], check=True)


def test_writes_to_a_stalled_disk_hang_and_cannot_be_killed(lab: Lab) -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse here")
    share = lab.folder.share
    lab.run("n2", ["sh", "-c", f"echo before > {share}/file; echo there > {share}/another"], check=True)
    script = f"exec 3>>{share}/file; echo open; read x; echo after >&3"
    processes = [lab.start("n1", ["sh", "-c", script], stdin=-1, stdout=-1) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdin is not None
        assert "open\n" == process.stdout.readline()
    lab.fault("stall", "n1")
    insides = [lab.inside(process) for process in processes]
    for process, inside in zip(processes, insides):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        until(lambda inside=inside: "fuse" in Path(f"/proc/{inside}/stack").read_text(), "it waits for the disk")
    os.kill(insides[0], signal.SIGKILL)
    until(lambda: state(insides[0]) == "D", "it waits in the kernel, killed and alive")
    assert "there\n" == lab.run("n1", ["cat", f"{share}/another"], check=True, timeout=20).stdout
    lab.run("n2", ["sh", "-c", f"echo other > {share}/third"], check=True)
    assert [None, None] == [process.poll() for process in processes]
    lab.clear()
    for process in processes:
        process.communicate(timeout=30)
    assert 0 == processes[1].returncode and 0 != processes[0].returncode
    assert {"after", "before"} == set(lab.run("n2", ["cat", f"{share}/file"], check=True).stdout.split())


def state(pid: int) -> str:
    """Return the process state, one letter as in ps."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_all_of_a_frozen_host_stands_still_and_goes_on(lab: Lab, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    process = lab.start("n1", ["sh", "-c", f"while :; do echo >> {beat}; sleep 0.01; done"])
    until(beat.exists, "it lives")
    lab.fault("freeze", "n1")
    inside = lab.inside(process)
    # D: it waits in vfork for a child that was stopped before its exec
    until(lambda: state(inside) in ("T", "D"), "it is stopped, though it was about to wake when the signal came")
    assert not greets(lab, "n2", "n1")
    size = beat.stat().st_size
    lab.clear()
    until(lambda: beat.stat().st_size > size, "it goes on")
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_crashed_host_loses_all_processes_and_can_be_restored(lab: Lab) -> None:
    process = lab.start("n2", ["sleep", "4545"])
    lab.inside(process)
    lab.fault("crash", "n2")
    assert 0 != process.wait(timeout=20)
    assert "n2" not in lab.status()["hosts"] and [["crash", "n2"]] == lab.status()["faults"]
    with pytest.raises(InvalidRequest, match="n2 is down"):
        lab.run("n2", ["true"])
    with pytest.raises(InvalidRequest, match="n2 is down"):
        lab.fault("partition", "n2")
    assert not greets(lab, "n1", "n2")
    lab.clear()
    assert greets(lab, "n1", "n2")
    assert "n2\n" == lab.run("head", ["srun", "-w", "n2", "hostname"], check=True).stdout


def test_dropped_ssh_breaks_sessions_and_refuses_new_ones(lab: Lab) -> None:
    """Processes that a session had started survive."""
    session = lab.start(
        "head", ["ssh", "n1", "setsid sleep 4646 </dev/null >/dev/null 2>&1 & echo up; sleep 4646"], stdout=-1
    )
    assert session.stdout is not None
    assert "up\n" == session.stdout.readline()
    lab.fault("drop-ssh", "n1")
    assert 255 == session.wait(timeout=20)
    session.stdout.close()
    refused = lab.run("head", ["ssh", "n1", "true"])
    assert 255 == refused.returncode and "Connection refused" in refused.stderr
    assert "sleep 4646" in lab.run("n1", ["ps", "-eo", "args"], check=True).stdout
    lab.clear()
    assert 0 == lab.run("head", ["ssh", "n1", "true"]).returncode
    lab.run("n1", ["sh", "-c", "kill $(ps -eo pid,args | awk '/sleep 464[6]/ {print $1}')"], check=True)


def test_without_its_controller_slurm_does_not_answer(lab: Lab) -> None:
    lab.fault("slurmctld-down")
    done = lab.run("head", ["sinfo"], timeout=60)
    assert 0 != done.returncode and "Unable to contact slurm controller" in done.stderr
    lab.clear()
    assert 0 == lab.run("head", ["sinfo"]).returncode


def test_nodes_have_registered_when_slurmctld_is_back(lab: Lab) -> None:
    """It remembers that nodes run a job, and would allocate no GPUs on them, whatever another job requests."""
    lab.run("head", ["sbatch", "-N3", "-o", "/dev/null", "--wrap", "sleep 300"], check=True)
    until(lambda: "R" in lab.run("head", ["squeue", "-h", "-o", "%t"]).stdout, "the job runs")
    began, state = time.time(), Path(lab.folder.slurm, "state", "job_state")
    until(lambda: state.stat().st_mtime > began, "slurmctld has written down that the job runs")
    daemons = [pid for node in ("n1", "n2", "n3") for pid in namespaces.running(lab.status()["hosts"][node], "slurmd")]
    lab.fault("slurmctld-down")
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)

    def resume() -> None:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)

    late = threading.Timer(2.0, resume)
    late.start()
    lab.clear()
    nodes = lab.run("head", ["scontrol", "--oneliner", "show", "nodes"], check=True).stdout
    late.join()
    assert 3 == nodes.count("BootTime=") and "BootTime=None" not in nodes
    seen = lab.run("head", ["srun", "--gpus=6", "-N2", "-n2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"])
    lab.run("head", ["scancel", "--user=root"], check=True)
    assert "0,1,2,3" in seen.stdout.split(), (seen.stdout, seen.stderr)


def test_faults_hold_together_and_are_undone_one_by_one(lab: Lab) -> None:
    lab.fault("partition", "n1")
    lab.fault("loopback-name", "n1")
    lab.fault("partition", "n2")
    lab.fault("partition", "n2")  # already in effect
    assert [["partition", "n1"], ["loopback-name", "n1"], ["partition", "n2"]] == lab.status()["faults"]
    assert [("partition", "n1")] == lab.clear("partition", "n1")
    assert [("partition", "n2")] == lab.clear(host="n2")
    assert [] == lab.clear("freeze")
    assert [("loopback-name", "n1")] == lab.clear("loopback-name")
    assert [] == lab.clear()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonsense", "n1"), "unknown fault: `nonsense`"),
        (("partition", "n9"), "the lab has no host n9"),
        (("partition",), "fault `partition` requires a host"),
        (("slurmctld-down", "n1"), "fault `slurmctld-down` affects the whole lab, and takes no host"),
    ],
)
def test_an_impossible_fault_is_rejected(lab: Lab, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        lab.fault(*words)
    assert [] == lab.status()["faults"]


def test_a_crash_takes_the_other_faults_of_its_host_with_it(lab: Lab) -> None:
    lab.fault("stall", "n3")
    lab.fault("partition", "n3")
    lab.fault("crash", "n3")
    assert [["crash", "n3"]] == lab.status()["faults"]
    lab.clear()
    assert greets(lab, "n1", "n3")
