"""Runs on hosts reached by ssh: started in a terminal, and ended with it."""

from __future__ import annotations

import hashlib
import os
import re
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from lab_cluster import EXAMPLE, STEPS_UNTIL_GO, TICK, LabCluster
from waiting import until


@pytest.mark.parametrize("each", [2, 8])
def test_three_hosts(there: LabCluster, each: int) -> None:
    done = there.muster("run", "--hosts", "n[1-3]", "-g", str(each), str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    total = sum(range(3 * each))
    assert f"[{0:>{len(str(3 * each - 1))}}] the sum of 0 to {3 * each - 1} is {total}, as it should be" in done.stdout
    for rank in range(3 * each):
        assert f"rank {rank} of {3 * each} on n{rank // each + 1}, local rank {rank % each}" in done.stdout
        assert f"rank {rank} of" in there.log(rank)
    assert f"all {3 * each} ranks succeeded" in done.stderr.splitlines()[-1]
    assert "succeeded" == there.outcome()["state"]
    there.nothing_left()


def test_hosts_of_a_file_with_numbers_of_their_own(there: LabCluster) -> None:
    (there.folder / "hosts").write_text("# ours\nn1 slots=1\nn2 slots=3\nn3:0,2\n")
    show = ["--", "sh", "-c", "echo $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $CUDA_VISIBLE_DEVICES"]
    done = there.muster("run", "--hostfile", "hosts", "--prefix", "", *show)
    assert 0 == done.returncode, done.stderr
    expected = ["0 0 1 0", "1 0 3 1", "2 1 3 1", "3 2 3 1", "4 0 2 2 0,2", "5 1 2 2 0,2"]
    assert expected == sorted(line.strip() for line in done.stdout.splitlines())
    done = there.muster("run", "--hostfile", "hosts", "-n", "3", "--prefix", "", *show)
    assert ["0 0 1 0", "1 0 2 1", "2 1 2 1"] == sorted(line.strip() for line in done.stdout.splitlines())


def test_ranks_on_hosts_have_terminals_where_they_are_wanted(there: LabCluster) -> None:
    """Of the default size if muster itself has no terminal; and their output is in their logs."""
    line = "test -t 1 && test -t 2 && stty size <&1 && echo $TERM"
    done = there.muster("run", "--tty", "-H", "n1,n2", "-g", "1", "--", "sh", "-c", line, env={"TERM": "xterm"})
    assert 0 == done.returncode, done.stdout + done.stderr
    shown = {f"[{rank}] {word}" for rank in range(2) for word in ("24 76", "xterm")}
    assert shown == set(done.stdout.splitlines())
    assert "24 76\nxterm\n" == there.log(1)
    there.nothing_left()


def test_the_first_failure_is_reported_with_its_host(there: LabCluster) -> None:
    text = TICK + "\nif dist.is_initialized() or True:\n    pass\n"
    text = text.replace("time.sleep", "1 / (dist.get_rank() != 4 or step < 3); time.sleep")
    done = there.muster("run", "-H", "n1,n2,n3", "-g", "2", there.script(text), "100", "0.05")
    assert 1 == done.returncode, done.stderr
    assert "rank 4 on n3 failed first" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert 4 == there.outcome()["root_cause"]["rank"]
    there.nothing_left()


def test_a_restart_over_hosts(there: LabCluster) -> None:
    text = TICK.replace(
        "time.sleep",
        "import os; dist.barrier(); step == 2 and dist.get_rank() == 3 and "
        "os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.kill(os.getpid(), 9); time.sleep",
    )
    done = there.muster("run", "-H", "n1,n2", "-g", "2", "--max-restarts", "1", there.script(text), "5", "0.01")
    assert 0 == done.returncode, done.stderr
    assert "rank 3 failed: killed by SIGKILL; restarting all ranks (restart 1 of 1)" in done.stderr
    assert 3 == there.log(0).count("\n")
    assert 5 == there.log(0, attempt=1).count("\n")
    there.nothing_left()


def test_ctrl_c_ends_all_hosts(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2,n3", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(3, 3)
    there.kill("head", "-m muster run", signal.SIGINT)
    assert 130 == process.wait(timeout=120), there.said()
    assert "interrupted" == there.outcome()["state"]
    assert "interrupted (Ctrl-C): sending SIGINT to 3 ranks" in there.said()
    there.nothing_left()


def test_the_end_of_the_terminal_is_the_end_of_the_ranks_after_the_lease(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2", "--lease", "3s", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(2, 3)
    there.kill("head", "-m muster run")
    process.wait()
    outcome = there.ended()
    assert ("interrupted", "the terminal that started the run was gone for 3s (--lease)") == (
        outcome["state"],
        outcome["reason"],
    )
    there.nothing_left()


def test_a_broken_connection_of_the_terminal_is_made_again(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2", "-g", "1", there.script(TICK), "200", "0.05")
    there.steps(2, 20)
    there.kill("head", r"\bssh\b.* n1 ")
    assert 0 == process.wait(timeout=120), there.said()
    for rank in range(2):
        said = [line for line in there.said().splitlines() if line.startswith(f"[{rank}]")]
        assert said == [f"[{rank}] rank {rank} step {step} sum 2" for step in range(200)], "no line lost or doubled"
    there.nothing_left()


def test_a_stopped_terminal_ends_nothing(there: LabCluster) -> None:
    """Ctrl-Z for longer than the lease."""
    process = there.start("run", "-H", "n1,n2", "--lease", "1s", "-g", "1", there.script(TICK), "100", "0.05")
    there.steps(2, 3)
    there.kill("head", "-m muster run", signal.SIGTSTP)
    there.steps(2, 99)
    time.sleep(2)
    there.kill("head", "-m muster run", signal.SIGCONT)
    process.send_signal(signal.SIGCONT)  # the program that enters the lab stops with what it runs
    assert 0 == process.wait(timeout=120), there.said()
    assert 100 == there.said().count("[1] rank 1 step")
    there.nothing_left()


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_killed_controller_is_restarted_transparently(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2", "-g", "1", there.script(TICK), "200", "0.05")
    there.steps(2, 10)
    there.kill("n1", "muster.pyz serve")
    assert 0 == process.wait(timeout=120), there.said()
    for rank in range(2):
        said = [line for line in there.said().splitlines() if line.startswith(f"[{rank}]")]
        assert said == [f"[{rank}] rank {rank} step {step} sum 2" for step in range(200)], "no line lost or doubled"
    assert "supervisor began again" in (there.run / "events.jsonl").read_text()
    there.nothing_left()


@pytest.mark.parametrize("host", ["n1", "n2"])
def test_a_killed_agent_ends_the_run_on_all_hosts(there: LabCluster, host: str) -> None:
    process = there.start("run", "-H", "n1,n2,n3", "-g", "1", "--grace", "2", there.script(TICK), "10000", "0.05")
    there.steps(3, 3)
    assert {"n1", "n2", "n3"} == set(there.temporary())
    os.kill(there.agent(host), signal.SIGKILL)
    assert 125 == process.wait(timeout=120), there.said()
    assert f"lost {host}: muster's agent on it exited, and its ranks with it" in there.said()
    there.nothing_left()


def test_a_killed_fork_server_ends_nothing(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2", "-g", "1", there.script(TICK), "100", "0.05")
    there.steps(2, 3)
    there.kill("n2", r"script\.py")  # the first of them is the fork server
    assert process.wait(timeout=120) in (0, 137), there.said()
    there.nothing_left()


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_partition_of_ten_seconds_is_survived(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2,n3", "-g", "1", there.script(STEPS_UNTIL_GO))
    there.steps(3, 3)
    there.lab.fault("partition", "n3")
    time.sleep(10)  # the length of the fault matters
    there.lab.clear()
    made = there.log(0).count("\n")
    there.steps(3, made + 10)
    (there.folder / "go").touch()
    assert 0 == process.wait(timeout=120), there.said()
    there.nothing_left()


@pytest.mark.slow
def test_a_long_partition_ends_the_run_on_both_sides(there: LabCluster) -> None:
    process = there.start(
        "run", "-H", "n1,n2,n3", "-g", "1", "--lease", "5s", "--grace", "1", there.script(TICK), "10000", "0.1"
    )
    there.steps(3, 3)
    there.lab.fault("partition", "n3")
    assert 125 == process.wait(timeout=120), there.said()
    assert "lost n3: unreachable for" in there.said()
    until(lambda: not there.ours(["n3"]), "the host that was cut off ended its own rank")
    there.lab.clear()
    there.nothing_left()


@pytest.mark.slow
def test_a_stalled_file_system_ends_nothing(there: LabCluster) -> None:
    """The file system of the run directory, on the controller's node and on another, for longer than the lease."""
    there.home = Path(there.lab.folder.shared, there.folder.name)  # as seen from outside
    there.env["MUSTER_HOME"] = f"{there.lab.folder.share}/{there.folder.name}"
    process = there.start("run", "-H", "n1,n2", "-g", "1", "--lease", "2s", there.script(TICK), "100", "0.05")
    there.steps(2, 3)
    for host in ("n1", "n2"):
        there.lab.fault("stall", host)
    time.sleep(20)  # leases of 2 s, and 10 s in which the kernel detects a lost peer
    assert process.poll() is None, there.said()
    there.lab.clear()
    assert 0 == process.wait(timeout=120), there.said()
    assert 100 == there.said().count("[1] rank 1 step")
    there.nothing_left()


def test_a_frozen_node_ends_nothing(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2", "-g", "1", "--lease", "2s", there.script(TICK), "100", "0.05")
    there.steps(2, 3)
    there.lab.fault("freeze", "n2")
    frozen = time.monotonic()
    shown = there.muster("show", "last").stdout  # in seconds, whichever is silent
    assert re.search(r"^0 +n1 +[0-9]+ +[0-9.]+ [MG]iB +[0-9.]+ [MG]iB +[0-9]+%", shown, re.M), shown
    assert "unknown: no answer from n2" in shown
    stacks = there.muster("stacks", "last")
    assert "warning: no answer from n2" in stacks.stderr
    assert "rank 1 on n2: no answer" in stacks.stdout
    assert "warning: no answer from n2" in there.muster("why", "last").stderr
    time.sleep(max(0.0, frozen + 8 - time.monotonic()))  # longer than the lease, and than the probes of the kernel
    there.lab.clear()
    assert 0 == process.wait(timeout=120), there.said()
    there.nothing_left()


def test_no_part_of_a_large_stdin_is_lost_when_the_terminal_is_cut_off(there: LabCluster) -> None:
    """A file larger than the largest frame; the connection to the controller is cut in the middle of it."""
    numbers = b"".join(b"%011d\n" % number for number in range(6_000_000))  # 72 MB
    (there.folder / "in").write_bytes(numbers)
    wait = "touch some; until [ -e go ]; do sleep 0.02; done"
    text = f"[ $RANK = 1 ] || exit 0; head -c 12000000 | md5sum; {wait}; exec md5sum"
    with open(there.folder / "in") as file:
        command = ["--stdin", "1", "--", "sh", "-c", text]
        run = there.start("run", "--hosts", "n[1-2]", "-g", "1", *command, stdin=file)
        until((there.folder / "some").exists, "the rank has read a part")
        for pid in there.pids("head", "ssh .*n1"):
            with suppress(ProcessLookupError):  # some end with the one before
                os.kill(pid, signal.SIGKILL)
        (there.folder / "go").touch()
        assert 0 == run.wait(timeout=120), there.said()
    parts = (hashlib.md5(part).hexdigest() for part in (numbers[:12_000_000], numbers[12_000_000:]))
    assert [f"{part}  -" for part in parts] == there.log(1).splitlines()
    there.nothing_left()


TYPED = """
set -m
"$@" --host n1 -- sh -c 'read answer; echo "got <$answer>"; wc -c' < in
echo "piped: $?"
"$@" --host n1 -- sh -c 'read answer; printf "name? "; read answer; echo "hello $answer"; touch said
until [ -e go ]; do sleep 0.1; done'
echo "typed: $?"
read -t 0 && echo "the shell reads what was typed"
"$@" --host n1 -- sh -c 'until [ -e background ]; do sleep 0.1; done' &
sleep 0.1
fg_word=waits; echo "$fg_word"
read line
touch background
wait $!
echo "background: $?, $line"
"""


def test_a_single_rank_reads_the_terminal_from_another_host(there: LabCluster) -> None:
    """Without --stdin: a file, and typed input, of which nothing reaches the shell; a run in the background of its
    terminal reads nothing from it and is not stopped."""
    (there.folder / "in").write_text("y\n" * 100_000)
    (there.folder / "typed.sh").write_text(TYPED)
    ours, theirs = os.openpty()
    command = ["setsid", "-c", "bash", "typed.sh", *there.argv("run", "--prefix", "")]
    env = {**there.lab.environment(), **there.env}
    with there.lab.start(
        "head", command, env=env, cwd=str(there.folder), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = ""

        def until_shown(words: str) -> None:
            nonlocal seen
            while words not in seen:
                assert select.select([ours], [], [], 120)[0], seen
                seen += os.read(ours, 4096).decode()

        try:
            until_shown("piped: 0")
            assert "got <y>" in seen and "199998" in seen, seen
            os.write(ours, b"first\n")
            until_shown("name? ")
            os.write(ours, b"you\n")
            until_shown("hello you")
            until((there.folder / "said").exists, "the rank has read both lines")
            os.write(ours, b"echo for the rank\n")
            (there.folder / "go").touch()
            until_shown("waits")
            assert "typed: 0" in seen and "the shell reads" not in seen, seen
            until(lambda: there.pids("n1", "sh -c until"), "the rank in the background runs")
            os.write(ours, b"for the shell\n")
            until_shown("background: 0, for the shell")
        finally:
            process.kill()
            os.close(ours)
    there.nothing_left()
