"""Grid Engine's command lines and the parsers of its output, which was recorded from 8.1.9."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from scheduler_samples import given, recorded, without_hint

from muster.errors import InvalidRequest
from muster.schedulers import (
    _shared,
    get_scheduler,
    sge_batch,
    sge_env,
    sge_jobs,
    sge_nodes,
    sge_request,
)
from muster.schedulers._shared import job_id
from muster.schedulers.scheduler import After, Allocation, Answer, Final, Phase, Refusal, Request, Wish
from muster.schedulers.sge_request import ParallelEnvironment

WISH = Wish("train", 2, "8", None, None, run_dir="/runs/x y")


def test_the_request_and_its_command_line() -> None:
    options = given(resource=("gpu=1", "h_rt=1:00:00"), queue="gpu.q", sge_opt=("M=ann@example.org", "m=ea"))
    found = sge_request.request(WISH, options)
    assert (2, 16) == (found.nodes, found.tasks)
    found = sge_request.complete(found).read(Answer(0, recorded("sge/parallel_environments.txt").replace(" 4", " 8")))
    assert sge_batch.submit(found, "/runs/x y/batch.sh") == (
        *("qsub", "-terse", "-C", "", "-N", "train", "-S", "/bin/bash", "-j", "y"),
        *("-o", "/runs/x y/sge-$JOB_ID.out", "-notify", "-r", "n", "-wd", "/runs/x y"),
        *("-q", "gpu.q", "-l", "gpu=1", "-l", "h_rt=1:00:00", "-w", "e", "-M", "ann@example.org", "-m", "ea"),
        *("-pe", "mpi4", "16", "/runs/x y/batch.sh"),
    )
    assert "6" == job_id("Welcome to our cluster\n6\n")


@pytest.mark.parametrize(
    ("wish", "slots", "size"),
    [
        (WISH, None, (2, 16)),
        (WISH._replace(nodes=None), None, (1, 8)),
        (WISH._replace(each=None), None, (2, 2)),
        (WISH._replace(each="gpu"), 4, (2, 8)),
        (WISH, 32, (2, 64)),
        (WISH._replace(nodes=None, ranks=16), None, (2, 16)),
        (WISH._replace(nodes=None, each=None, ranks=10), None, (None, 10)),
        (WISH._replace(each=None, ranks=10), None, (2, 10)),
        (WISH._replace(each=None, ranks=9), None, (2, 10)),
    ],
)
def test_sizes(wish: Wish, slots: int | None, size: tuple[int | None, int]) -> None:
    found = sge_request.request(wish, given(**({"slots": slots} if slots else {})))
    assert size == (found.nodes, found.tasks)


@pytest.mark.parametrize(
    ("wish", "options", "words"),
    [
        (WISH._replace(gpus="8"), {}, "--gpus 8: Grid Engine counts GPUs per slot"),
        (WISH._replace(each="gpu"), {}, "-g gpu: the number of slots has to be known"),
        (WISH._replace(spares=1), {}, "--spare-nodes 1"),
        (
            WISH._replace(after=(After("7", "ok"),)),
            {},
            "--after: Grid Engine starts a job when job 7 has ended, however",
        ),
        (WISH, {"sge_opt": ("N=x",)}, "--sge-opt N: muster sets this option of qsub itself"),
    ],
)
def test_what_grid_engine_cannot_do_is_an_error(wish: Wish, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match="^" + words.replace("(", r"\(")) as caught:
        sge_request.request(wish, given(**options))
    assert caught.value.hint


def test_waiting_for_jobs_however_they_end() -> None:
    found = sge_request.request(WISH._replace(after=(After("7", "any"), After("8", "any"))), given())
    assert ("hold_jid", "7,8") in found.options


def test_every_option_of_another_scheduler_has_a_hint() -> None:
    assert not without_hint("sge")


KNOWN = [
    ParallelEnvironment("fill", 9999, "$fill_up", True),
    ParallelEnvironment("loose", 9999, "2", False),
    ParallelEnvironment("mpi1", 9999, "1", True),
    ParallelEnvironment("mpi2", 9999, "2", True),
    ParallelEnvironment("mpi4", 9999, "4", True),
    ParallelEnvironment("round", 9999, "$round_robin", True),
    ParallelEnvironment("small", 3, "2", True),
    ParallelEnvironment("smp", 9999, "$pe_slots", True),
]


@pytest.mark.parametrize(
    ("nodes", "slots", "names"),
    [
        (2, 4, ["mpi2"]),
        (1, 2, ["smp", "mpi2"]),
        (1, 3, ["smp"]),
        (4, 4, ["mpi1"]),
        (None, 7, ["fill", "round", "smp"]),
        (2, 6, []),
    ],
)
def test_the_parallel_environment_fits(nodes: int | None, slots: int, names: list[str]) -> None:
    usable = [one for one in KNOWN if one.name != "small" or slots > 3]
    assert names == [one.name for one in sge_request.fitting(usable, nodes, slots)]


def test_parallel_environments() -> None:
    out = recorded("sge/parallel_environments.txt")
    assert {*sge_request.parallel_environments(out)} == {one for one in KNOWN if one.name not in ("loose", "small")}
    ask = sge_request.complete(Request("x", 2, tasks=6))
    with pytest.raises(InvalidRequest, match="gives a job 3 slots on each of 2 nodes") as caught:
        ask.read(Answer(0, out))
    assert "mpi2 (2)" in str(caught.value.hint)
    named = Request("x", 2, (("pe", "mine"),), tasks=6)
    assert named == sge_request.complete(named).read(Answer(0, ""))


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("train", "train"),
        ("my job", "my_job"),
        ("7b", "_7b"),
        ("a/b:c@d*", "a_b_c_d_"),
        ("lr=0.1,x", "lr=0.1,x"),
        ("", "muster"),
    ],
)
def test_names_of_jobs(name: str, accepted: str) -> None:
    assert accepted == _shared.plain_name(name)


def test_the_script(tmp_path: Path) -> None:
    """It has the environment of the submission, which is then gone; its exit status means nothing to Grid Engine."""
    secrets = tmp_path / "environment.sh"
    secrets.write_text("export TOKEN='s e'\n")
    request = Request("x", 1, (("pe", "smp"),), "/runs/x/sge-$JOB_ID.out", tasks=1, env_file=str(secrets))
    for code, status in ((0, 0), (3, 3), (99, 1), (100, 1)):
        secrets.write_text("export TOKEN='s e'\n")
        command = ("/bin/sh", "-c", f'echo "$TOKEN"; kill -USR2 $PPID; exit {code}')
        script = tmp_path / "batch.sh"
        script.write_text(sge_batch.batch_script(request, (), command))
        done = subprocess.run(["bash", script], capture_output=True, text=True)
        assert (status, "s e\n") == (done.returncode, done.stdout), done.stderr
        assert not secrets.exists()
    text = sge_batch.batch_script(request, ("module load cuda",), ("/bin/python", "x"))
    assert text.startswith("#!/bin/bash -l\n") and "module load cuda" in text


@pytest.mark.parametrize(
    ("err", "refusal"),
    [
        (
            'Unable to run job: job rejected: the requested parallel environment "nope" does not exist\nExiting.\n',
            Refusal(
                'the requested parallel environment "nope" does not exist',
                "list the parallel environments with `qconf -spl`",
            ),
        ),
        ("Unable to run job: error: no suitable queues\nExiting.\n", Refusal("no suitable queues", "…")),
        ('Unable to run job: unknown resource "x"\nExiting.\n', Refusal('unknown resource "x"', "…")),
        ("", Refusal("no error message")),
    ],
)
def test_rejected(err: str, refusal: Refusal) -> None:
    found = sge_batch.refused(err)
    assert refusal.words == found.words
    assert bool(refusal.hint) == bool(found.hint)


def test_jobs() -> None:
    found = sge_jobs.jobs(recorded("sge/jobs.xml"))
    scheduler = get_scheduler("sge")
    assert {job: (one.name, scheduler.phase(one.state), one.hosts) for job, one in found.items()} == {
        "45": ("held", Phase.PENDING, ()),
        "46": ("e100", Phase.PENDING, ()),
        "47": ("five", Phase.RUNNING, ("n1", "n2")),
        "48": ("later", Phase.PENDING, ()),
    }
    assert [job for job, one in found.items() if one.hopeless] == ["46"]
    assert "qmod -cj 46" in found["46"].why and "qrls 45" in found["45"].why
    assert {} == sge_jobs.jobs("error: commlib error: got select error (Connection refused)")


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        *(
            ("qw", "pending"),
            ("Rq", "pending"),
            ("hqw", "held"),
            ("hRwq", "held"),
            ("Eqw", "error"),
            ("EhRqw", "error"),
        ),
        *(("r", "running"), ("t", "running"), ("hr", "running"), ("Rr", "running"), ("S", "suspended")),
        *(("tS", "suspended"), ("dr", "deleting"), ("dRS", "deleting"), ("z", ""), ("?", "?")),
    ],
)
def test_states(letters: str, state: str) -> None:
    assert state == sge_jobs.state_of(letters)


def test_the_record_of_a_job() -> None:
    found = sge_jobs.record_of(recorded("sge/running.xml"))
    assert found is not None and found.start is not None
    assert ("running", found.start + 3600, "all.q") == (found.state, found.end, found.partition)
    found = sge_jobs.record_of(recorded("sge/pending.xml"))
    assert found is not None
    assert ("pending", None, None) == (found.state, found.start, found.end)
    assert 'cannot run in PE "mpi2" because it only offers 0 slots' in found.reason
    assert None is sge_jobs.record_of(
        "<?xml version='1.0'?>\n<unknown_jobs >\n    <ST_name>9</ST_name>\n</unknown_jobs>"
    )


QACCT = """==============================================================
jobnumber    7
failed       {failed}
exit_status  {status}
"""


@pytest.mark.parametrize(
    ("failed", "status", "state"),
    [
        ("37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", "137                  (Killed)", "time limit"),
        ("100 : assumedly after job", "137                  (Killed)", "killed"),
        ("0    ", "3                   ", "failed"),
        ("0    ", "0                   ", "done"),
        ("30  : application error returned", "100", "failed"),
        ("26  : opening input/output file", "0", "not started"),
    ],
)
def test_ends(failed: str, status: str, state: str) -> None:
    assert Final(state) == sge_jobs.final_state(QACCT.format(failed=failed, status=status), "7")
    assert state in sge_jobs.ENDS


def test_the_end_of_jobs_that_are_no_longer_listed() -> None:
    assert Final("killed") == sge_jobs.final_state(recorded("sge/deleted_running.txt"), "47")
    out = recorded("sge/deleted_pending.txt")
    assert Final("deleted") == sge_jobs.final_state(out, "45"), "it never ran, so accounting has no record"
    assert Final() == sge_jobs.final_state(out.replace(" 45 ", " 4 "), "45")
    again = QACCT.format(failed="25  : rescheduling", status="99") + QACCT.format(failed="0", status="3")
    assert Final("failed") == sge_jobs.final_state(again, "7"), "the last of several starts counts"


def test_the_time_before_a_job_is_killed() -> None:
    assert 5.0 == sge_jobs.kill_wait("qname a\nnotify                00:00:60\nqname b\nnotify   00:00:05\n")
    assert 60.0 == sge_jobs.kill_wait("denied: host is neither submit nor admin host")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3600", 3600.0),
        ("1:00:00", 3600.0),
        ("0:30", 30.0),
        ("::30", 30.0),
        ("INFINITY", None),
        ("", None),
        ("1:2:3:4", None),
    ],
)
def test_time_limits(text: str, seconds: float | None) -> None:
    assert seconds == _shared.seconds_of(text)


def test_ranks_are_warned_before_a_time_limit() -> None:
    terms = sge_request.terms(given(resource=("gpu=1,h_rt=2:00:00",)))
    assert (120.0, True, "USR1") == (terms.before, terms.chosen, terms.signal)
    assert 15.0 == sge_request.terms(given(resource=("h_rt=60",))).before
    assert 0.0 == sge_request.terms(given()).before


def test_the_job_of_a_process(tmp_path: Path) -> None:
    hosts = tmp_path / "pe_hostfile"
    hosts.write_text("n2 2 all.q@n2 UNDEFINED\nn1 1 all.q@n1 UNDEFINED\nn1 1 fast.q@n1 <NULL>\n")
    env = {"JOB_ID": "7", "SGE_TASK_ID": "undefined", "PE_HOSTFILE": str(hosts), "RESTARTED": "0"}
    assert Allocation("7", ("n2", "n1"), 0, (2, 2)) == sge_env.allocation(env)
    assert None is sge_env.allocation({**env, "PE_HOSTFILE": "/nowhere"}), "a shell that outlived its job"
    assert None is sge_env.allocation({"JOB_ID": "of another program"})


def test_the_environment_of_a_new_job() -> None:
    env = {
        "SGE_ROOT": "/r",
        "SGE_TASK_ID": "1",
        "JOB_ID": "7",
        "TMPDIR": "/tmp/7",
        "HOSTNAME": "a",
        "X": "1",
        "PATH": "p",
    }
    assert {"SGE_ROOT": "/r", "X": "1", "PATH": "p"} == sge_env.submit_env(env)


QRSH = """#!/bin/bash
echo "qrsh $1 $2 $3 for job $JOB_ID" >&2
[ "$3" = n3 ] && exit 1
host=$3; shift 3; exec env -i PATH="$PATH" TMPDIR="/tmp of $host" "$@"
"""


def test_a_step_on_each_node(tmp_path: Path) -> None:
    """The environment travels, what belongs to a node does not, and words arrive as they are."""
    (tmp_path / "qrsh").write_text(QRSH)
    (tmp_path / "qrsh").chmod(0o755)
    hosts = tmp_path / "pe_hostfile"
    hosts.write_text("n1 1 all.q@n1 UNDEFINED\n")
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "JOB_ID": "7",
        "SGE_TASK_ID": "undefined",
        "PE_HOSTFILE": str(hosts),
        "TMPDIR": "/tmp of n1",
        "MINE": "a 'b'\nc",
        "BIG": "x" * 90000,
    }
    script = 'echo "$MUSTER_SGE_HOST|$MINE|$TMPDIR|${#BIG}|$1|$2" | tr "\\n" " "; echo'
    argv = sge_env.step(["n1", "n2", "n3"], ["sh", "-c", script, "sh", "it's", ""], "7", None, False)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240)
    lines = sorted(line.strip() for line in done.stdout.splitlines())
    assert [f"{host}|a 'b' c|/tmp of {host}|90000|it's|" for host in ("n1", "n2")] == lines, done.stderr
    assert (1, {"n3": "exit status 1"}) == (done.returncode, sge_env.failed_steps(done.stderr))
    assert "-noshell n1" not in done.stderr, "the first node's only slot is the script's own"


def test_processes_of_a_step_ignore_what_grid_engine_sends_to_all_of_them(tmp_path: Path) -> None:
    """Their controller gets the same signals, and ends them."""
    (tmp_path / "qrsh").write_text(QRSH)
    (tmp_path / "qrsh").chmod(0o755)
    hosts = tmp_path / "pe_hostfile"
    hosts.write_text("n1 1 all.q@n1 UNDEFINED\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_ID": "7", "PE_HOSTFILE": str(hosts)}
    argv = sge_env.step(["n1", "n2"], ["grep", "SigIgn", "/proc/self/status"], "7", None, False)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240)
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    both = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGUSR2 - 1
    assert [both, both] == [mask & both for mask in masks], done.stderr


def test_a_step_with_stdin(tmp_path: Path) -> None:
    (tmp_path / "qrsh").write_text(QRSH)
    (tmp_path / "qrsh").chmod(0o755)
    argv = sge_env.step(["n2"], ["sh", "-c", 'echo "$MUSTER_SGE_HOST"; cat; exit 7'], "7", None, True)
    data = os.urandom(50000)
    done = subprocess.run(argv, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, input=data, capture_output=True)
    assert (7, b"n2\n" + data) == (done.returncode, done.stdout), done.stderr


def test_nodes_and_the_whole_queue() -> None:
    out = recorded("sge/everything.xml")
    one, two = sge_nodes.nodes(out)
    assert ("n1", ("all.q",), "in use", 4, 2, {"": 2}, True) == (
        *(one.name, one.partitions, one.state, one.cores, one.free_cores, one.gpus, one.takes_jobs),
    )
    assert 24105 == one.memory
    assert {"n1": {"": 2}, "n2": {"": 2}} == sge_nodes.used_gpus(out)
    assert "n2" == two.name
    jobs = {job.job: job for job in sge_nodes.queue(out)}
    assert (2, "all.q", "running", "n1,n2", "3600", "gpu=1 per slot") == (
        *(
            jobs["47"].nodes,
            jobs["47"].partition,
            jobs["47"].state,
            jobs["47"].hosts,
            jobs["47"].limit,
            jobs["47"].gpus,
        ),
    )
    assert ("pending", "4 slots requested", "") == (jobs["48"].state, jobs["48"].reason, jobs["48"].hosts)


def test_a_node_that_takes_no_jobs() -> None:
    out = recorded("sge/everything.xml").replace("<arch>", "<state>au</state><arch>", 1)
    assert [("unreachable", False), ("in use", True)] == [(one.state, one.takes_jobs) for one in sge_nodes.nodes(out)]
