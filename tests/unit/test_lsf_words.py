"""LSF's command lines and the parsers of its output. The outputs are written after its manual: none is recorded."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from scheduler_samples import given, recorded, without_hint

from muster.errors import ControlError, InvalidRequest
from muster.schedulers import lsf_env, lsf_jobs, lsf_request
from muster.schedulers.scheduler import After, Allocation, Final, Phase, Refusal, Wish

WISH = Wish("train", 2, "8", None, None, run_dir="/runs/x")


def test_the_request_and_its_command_line() -> None:
    asked = given(
        time="1:30:30",
        queue="gpu",
        project="lab",
        mem="64G",
        gpus_per_node="4",
        exclusive=True,
        nodelist="h01,h02",
        lsf_opt=("u=ann@example.org", "N"),
    )
    found = lsf_request.request(WISH._replace(after=(After("7", "ok"), After("8", "failed"))), asked)
    assert (2, 16) == (found.nodes, found.tasks)
    assert lsf_request.submit(found, "/runs/x/batch.sh") == (
        *("bsub", "-J", "train", "-o", "/runs/x/lsf-%J.out", "-rn", "-n", "16", "-R", "span[ptile=8]"),
        *("-R", "rusage[mem=65536MB/host]", "-gpu", "num=4", "-W", "1:31", "-q", "gpu", "-P", "lab", "-m", "h01 h02"),
        *("-x", "-w", "done(7) && exit(8)", "-u", "ann@example.org", "-N", "/bin/bash", "/runs/x/batch.sh"),
    )
    assert "123" == lsf_request.submitted("Note: job <x>\nJob <123> is submitted to queue <gpu>.\n")


@pytest.mark.parametrize(
    ("wish", "options", "words"),
    [
        (WISH, {"cpus_per_task": 32}, ["-n", "64", "-R", "span[ptile=32]"]),
        (WISH._replace(each=None), {"gpus_per_node": "4"}, ["-n", "8", "-R", "span[ptile=4]", "-gpu", "num=4"]),
        (WISH._replace(nodes=None, each=None, ranks=16), {}, ["-n", "16"]),
    ],
)
def test_sizes(wish: Wish, options: dict[str, object], words: list[str]) -> None:
    found = lsf_request.options_of(lsf_request.request(wish, given(**options)))
    assert words == found[found.index("-rn") + 1 :]


@pytest.mark.parametrize(
    ("wish", "options", "words"),
    [
        (WISH._replace(gpus="8"), {}, "--gpus 8: LSF counts GPUs per node"),
        (WISH._replace(spares=1), {}, "--spare-nodes 1"),
        (WISH, {"lsf_opt": ("J=x",)}, "--lsf-opt J: muster sets this option of bsub itself"),
    ],
)
def test_what_is_refused(wish: Wish, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        lsf_request.request(wish, given(**options))


def test_jobs() -> None:
    found = lsf_jobs.jobs(recorded("lsf/jobs.json"))
    running, pending, timed_out, done = found.values()
    assert ("101", "train", "RUN", ("h01", "h02"), "") == (running.job, *running[1:4], running.why)
    assert pending.why.startswith("New job is waiting for scheduling; Not enough slots")
    assert Phase.PENDING is lsf_jobs.STATES[pending.state] and () == pending.hosts
    assert ("time limit", "DONE") == (timed_out.state, done.state)
    assert {} == lsf_jobs.jobs("") == lsf_jobs.jobs('{"RECORDS": []}') == lsf_jobs.jobs("LSF is down")


def test_no_job_is_an_answer(tmp_path: Path) -> None:
    """bjobs fails then, with a message; any other failure is no answer."""
    program = tmp_path / "bjobs"
    program.write_text('#!/bin/sh\necho "$SAYS" >&2\nexit 255\n')
    program.chmod(0o755)
    for says, code in (("No unfinished job found", 0), ("LSF is down. Please wait ...", 255)):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SAYS": says}
        done = subprocess.run(lsf_jobs.mine(), env=env, capture_output=True, text=True, check=False)
        assert code == done.returncode
        assert {} == lsf_jobs.jobs(done.stdout)


def test_a_record() -> None:
    found = lsf_jobs.record_of(recorded("lsf/jobs.json"))
    assert found is not None
    assert datetime(2026, 11, 27, 10).timestamp() == found.start
    assert datetime(2026, 11, 27, 11).timestamp() == found.end
    assert ("RUN", "gpu", ("h01", "h02")) == (found.state, found.partition, found.hosts)
    assert lsf_jobs.record_of('{"RECORDS": []}') is None


@pytest.mark.parametrize(
    ("stat", "reason", "state"),
    [
        ("DONE", "", "DONE"),
        ("EXIT", "", "EXIT"),
        ("EXIT", "TERM_RUNLIMIT: job killed after reaching LSF run time limit", "time limit"),
        ("EXIT", "TERM_OWNER: job killed by owner", "deleted"),
        ("EXIT", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "killed"),
        ("RUN", "", ""),
    ],
)
def test_ends(stat: str, reason: str, state: str) -> None:
    told = f'{{"RECORDS": [{{"JOBID": "1", "STAT": "{stat}", "EXIT_REASON": "{reason}"}}]}}'
    assert Final(state) == lsf_jobs.final_state(told)
    assert not state or state in lsf_jobs.ENDS
    assert Final() == lsf_jobs.final_state("")


def test_hosts_and_the_queue() -> None:
    first, second = lsf_jobs.nodes(recorded("lsf/hosts.json"))
    assert ("h01", (), "ok", 64, 56, 514457, {"": 4}, "", True) == first
    assert (False, "fan broken") == (second.takes_jobs, second.reason)
    assert {"h01": {"": 4}} == lsf_jobs.used_gpus(recorded("lsf/hosts.json"))
    entry, pending, *_ = lsf_jobs.queue(recorded("lsf/jobs.json"))
    assert "Nov 28 02:00:00 2026" == pending.start
    assert ("101", "ann", "gpu", "RUN", 2, "gpu=8", "605 second(s)", "60.0", "", "train", "h01,h02", "") == entry


def test_refusals() -> None:
    said = "nosuch: No such queue. Job not submitted.\n"
    assert Refusal("nosuch: No such queue", "list the queues with `bqueues`") == lsf_request.refused(said)
    assert Refusal("no error message") == lsf_request.refused("")


def test_the_allocation(tmp_path: Path) -> None:
    env = {"LSB_JOBID": "12", "LSB_MCPU_HOSTS": "h01 8 h02 4 "}
    assert Allocation("12", ("h01", "h02"), 0, (8, 4)) == lsf_env.allocation(env)
    file = tmp_path / "hosts"
    file.write_text("h01\nh01\nh02\n")
    of_file = {"LSB_JOBID": "12", "LSB_DJOB_HOSTFILE": str(file)}
    assert Allocation("12", ("h01", "h02"), 0, (2, 1)) == lsf_env.allocation(of_file)
    assert lsf_env.allocation({}) is lsf_env.allocation({"LSB_JOBID": "12"}) is None
    assert {"PATH": "/bin"} == lsf_env.submit_env({**env, "PATH": "/bin", "HOSTNAME": "h"})


def test_every_option_of_another_scheduler_has_a_hint() -> None:
    assert not without_hint("lsf")


def test_records_without_a_job_id_are_skipped() -> None:
    told = '{"RECORDS": [{"STAT": "RUN"}, {"JOBID": "-p", "STAT": "RUN"}, {"JOBID": "7", "STAT": "RUN"}]}'
    assert ["7"] == list(lsf_jobs.jobs(told)) == [one.job for one in lsf_jobs.queue(told)]
    assert lsf_jobs.record_of('{"RECORDS": [{"STAT": "RUN", "START_TIME": "Foo 99 10:00:00 2026"}]}') is not None


@pytest.mark.parametrize("said", ["", "Request accepted.\n", "Job <x> is submitted\n", "accepted\n"])
def test_a_submission_without_an_id_is_one_sentence(said: str) -> None:
    with pytest.raises(ControlError, match="the job was submitted, but its id is unknown"):
        lsf_request.submitted(said)
