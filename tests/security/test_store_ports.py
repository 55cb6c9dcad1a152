"""`--rendezvous authenticated`: no other machine can reach the store of the ranks, and all works as before."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from lab_cluster import LabCluster
from waiting import until

COUNT = """
import os, sys, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
store = dist.distributed_c10d._get_default_store()
store.set(f"large {dist.get_rank()}", "x" * (1 << 20))
print(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], flush=True)
for step in range(int(sys.argv[1])):
    store.add("steps", 1)
    one = torch.ones(1)
    dist.all_reduce(one)
    print(f"step {step} sum {one.item():g}", flush=True)
    time.sleep(float(sys.argv[2]))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and len(sys.argv) > 3:
    sys.exit(5)
dist.barrier()
large = len(store.get(f"large {(dist.get_rank() + 1) % dist.get_world_size()}"))
print("counted", store.add("steps", 0), large, flush=True)
dist.destroy_process_group()
"""
"""STEPS SECONDS [FAIL]: each rank counts its steps in the store."""


def listeners(there: LabCluster, host: str) -> list[tuple[str, str, int]]:
    """Return the listening TCP sockets on a host: address, port, pid."""
    done = there.lab.run(host, ["ss", "-Hltnp"], cwd="/", check=True)
    found = re.findall(r"^LISTEN +\d+ +\d+ +(\S+):(\d+) +\S+ +.*?pid=(\d+)", done.stdout, re.M)
    return [(address, port, int(pid)) for address, port, pid in found]


def connects(there: LabCluster, host: str, address: str, port: str) -> bool:
    """Return whether a TCP connection from a host succeeds."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 5)"
    done = there.lab.run(host, ["/usr/bin/python3", "-c", code], cwd="/")
    assert not done.returncode or "ConnectionRefused" in done.stderr, done.stderr
    return done.returncode == 0


def about(pid: int, name: str) -> str:
    """Return the content of a file in /proc/PID; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def test_over_ssh_no_port_of_the_store_can_be_reached_and_nothing_is_lost_with_the_controller(
    there: LabCluster,
) -> None:
    words = ("-H", "n1,n2", "-g", "2", "--launcher", "exec", "--rendezvous", "authenticated")
    assert 0 == there.muster("run", "-d", *words, there.script(COUNT), "100", "0.05").returncode
    there.steps(4, 3)
    (port,) = {there.log(rank).split()[1] for rank in range(4)}
    for host in ("n1", "n2"):
        assert ["127.0.0.1"] == [address for address, known, _ in listeners(there, host) if known == port]
        assert connects(there, host, "127.0.0.1", port), "as the ranks do"
        assert not connects(there, "head", host, port)
    ours = {
        about(pid, "cmdline").replace("\0", " ")
        for host in ("n1", "n2")
        for address, _, inside in listeners(there, host)
        for pid in there.pids(host, ".")
        if not address.startswith("127.") and f"\nNSpid:\t{pid}\t{inside}\n" in about(pid, "status")
    }
    kinds = {re.sub(r".*(script\.py|muster\.pyz serve).*", r"\1", words) for words in ours}
    assert {"script.py", "muster.pyz serve"} == kinds, "gloo, and what asks for the secret"
    controller = there.pids("n1", "muster.pyz serve")[0]
    os.kill(controller, signal.SIGKILL)
    assert 0 == there.muster("wait", "last").returncode
    assert "supervisor began again" in (there.run / "events.jsonl").read_text()
    assert [f"counted 400 {1 << 20}"] * 4 == [there.log(rank).splitlines()[-1] for rank in range(4)]
    there.nothing_left()
    until(lambda: not connects(there, "n2", "127.0.0.1", port), "the port is closed with the run")


def test_in_a_job_of_slurm_with_forked_ranks_and_a_second_attempt(there: LabCluster) -> None:
    words = ("--slurm", "-N", "2", "-g", "2", "--time", "5", "--rendezvous", "authenticated", "--max-restarts", "1")
    done = there.muster("run", *words, there.script(COUNT), "3", "0", "fail")
    assert 0 == done.returncode, done.stderr
    for attempt in range(2):
        assert {"127.0.0.1"} == {there.log(rank, attempt=attempt).split()[0] for rank in range(4)}
    assert [f"counted 12 {1 << 20}"] * 4 == [there.log(rank, attempt=1).splitlines()[-1] for rank in range(4)]
    there.nothing_left()
