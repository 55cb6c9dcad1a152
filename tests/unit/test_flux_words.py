"""Flux's command lines and the parsers of its output. The outputs are written after its manual: none is recorded."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from scheduler_samples import given, without_hint

from muster.errors import InvalidRequest
from muster.schedulers import flux_env, flux_jobs, flux_request
from muster.schedulers.scheduler import After, Allocation, Answer, Final, Refusal, Wish

WISH = Wish("train", 2, "8", None, None, run_dir="/runs/x")

RUNNING = {
    "id": 36507222016,
    "jobid": "ƒvCwZjB3",
    "name": "train",
    "username": "ann",
    "state": "RUN",
    "queue": "gpu",
    "priority": 16,
    "urgency": 16,
    "nnodes": 2,
    "nodelist": "n[1-2]",
    "t_submit": 1000.5,
    "t_run": 1001.5,
    "expiration": 4601.5,
    "duration": 3600.0,
    "runtime": 65.3,
    "annotations": {"user": {"uri": "ssh://n1/tmp/flux"}},
}
PENDING = {
    "id": 58,
    "name": "later",
    "username": "bob",
    "state": "SCHED",
    "queue": "gpu",
    "nnodes": 4,
    "urgency": 16,
    "duration": 90000.0,
    "annotations": {"sched": {"t_estimate": 5000.0}},
}
WAITING = {"id": 59, "name": "third", "state": "DEPEND", "dependencies": ["after-success=ƒ2"]}
HELD = {"id": 60, "name": "fourth", "state": "SCHED", "urgency": 0}
ENDED = {"id": 61, "name": "fifth", "state": "INACTIVE", "result": "TIMEOUT"}
JOBS = json.dumps({"jobs": [RUNNING, PENDING, WAITING, HELD, ENDED]})

NODES = """
free|gpu,debug|2|96|8|n[1-2]
allocated|gpu,debug|1|16|4|n2
down|gpu|1|64|8|n3
allocated||0|0|0|
"""


def test_the_request_and_its_command_line() -> None:
    asked = given(
        time="1:30:30",
        queue="gpu",
        account="lab",
        gpus_per_node="4",
        cpus_per_task=32,
        exclusive=True,
        constraint="a100",
        flux_opt=("urgency=20", "o=mpi=none"),
    )
    found = flux_request.request(WISH._replace(after=(After("fA", "ok"), After("fB", "failed"))), asked)
    assert (2, 16) == (found.nodes, found.tasks)
    assert flux_request.submit(found, "/runs/x/batch.sh") == (
        *("flux", "batch", "--job-name=train", "--output=/runs/x/flux-{{id.f58plain}}.out"),
        *("--nodes=2", "--nslots=2", "--cores-per-slot=32", "--gpus-per-slot=4", "--time-limit=5430s", "--queue=gpu"),
        *("--bank=lab", "--requires=a100", "--exclusive", "--dependency=afterok:fA", "--dependency=afternotok:fB"),
        *("--urgency=20", "-o", "mpi=none", "/runs/x/batch.sh"),
    )
    some = flux_request.options_of(flux_request.request(WISH._replace(nodes=None, each=None, ranks=16), given()))
    assert ["--nslots=16", "--cores-per-slot=1"] == some[2:]
    assert "fvCwZjB3" == flux_request.submitted("ƒvCwZjB3\n")


@pytest.mark.parametrize(
    ("wish", "options", "words"),
    [
        (WISH._replace(gpus="8"), {}, "--gpus 8: Flux counts GPUs per node"),
        (WISH._replace(spares=1), {}, "--spare-nodes 1"),
        (
            WISH._replace(nodes=None, each=None, ranks=9),
            {"exclusive": True},
            "--exclusive requires the number of nodes",
        ),
        (WISH, {"gpus_per_node": "a100:4"}, "--gpus-per-node a100:4: muster does not request a type of GPU from Flux"),
        (WISH, {"flux_opt": ("nodes=3",)}, "--flux-opt nodes: muster sets this option of flux batch itself"),
    ],
)
def test_what_is_refused(wish: Wish, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        flux_request.request(wish, given(**options))


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("bank=lab", "use `--account` of muster"),
        ("env=-*", "use `--env` of muster"),
        ("cwd=/x", "use `--cwd` of muster"),
        ("nslots=3", "use `-N` or `-g` of muster"),
        ("-c=3", "use `--cpus-per-task` of muster"),
        ("quiet", "leave it out: muster sets it"),
        ("output=x", "leave it out: muster sets it"),
    ],
)
def test_what_to_use_in_place_of_options_that_muster_sets(option: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        flux_request.request(WISH, given(flux_opt=(option,)))
    assert hint == caught.value.hint


def test_job_ids() -> None:
    """In base 58, with an `f` before."""
    assert ["f1", "fz", "f21"] == [flux_jobs.f58(number) for number in (0, 57, 58)]


def test_jobs() -> None:
    found = list(flux_jobs.jobs(JOBS).values())
    assert ["RUN", "SCHED", "DEPEND", "SCHED", "TIMEOUT"] == [one.state for one in found]
    assert (("n1", "n2"), "train", "") == (found[0].hosts, found[0].name, found[0].why)
    assert "waiting for free resources" == found[1].why
    assert "waits for after-success=ƒ2" == found[2].why
    assert found[3].why.startswith("held")
    assert {} == flux_jobs.jobs("") == flux_jobs.jobs("[]") == flux_jobs.jobs('{"jobs": []}')


def test_a_record_and_ends() -> None:
    found = flux_jobs.record_of(json.dumps(RUNNING))
    assert found is not None
    assert ("RUN", 1001.5, 4601.5, 1000.5, "gpu") == (
        found.state,
        found.start,
        found.end,
        found.submitted,
        found.partition,
    )
    pending = flux_jobs.record_of(json.dumps(PENDING))
    assert pending is not None and 5000.0 == pending.start and pending.end is None
    assert flux_jobs.record_of("flux-jobs: ERROR: unknown job") is None
    assert Final("TIMEOUT") == flux_jobs.final_state(json.dumps(ENDED))
    assert Final() == flux_jobs.final_state(json.dumps(RUNNING)) == flux_jobs.final_state("")
    assert set(flux_jobs.ENDS) == {"COMPLETED", "FAILED", "CANCELED", "TIMEOUT"}


def test_nodes_and_the_queue() -> None:
    first, second, third = flux_jobs.nodes(NODES)
    assert ("n1", ("gpu", "debug"), "free", 48, 48, 0, {"": 4}, "", True) == first
    assert ("mixed", 64, 48, {"": 8}) == (second.state, second.cores, second.free_cores, second.gpus)
    assert ("n3", "down", False) == (third.name, third.state, third.takes_jobs)
    assert {"n2": {"": 4}} == flux_jobs.used_gpus(NODES)
    running, pending = flux_jobs.queue(JOBS)[:2]
    assert ("ann", "gpu", "RUN", 2, "", "00:01:05", "01:00:00", "", "train", "n[1-2]", "") == running[1:]
    assert ("25:00:00", "waiting for free resources") == (pending.limit, pending.reason)
    assert pending.start.startswith("1970-01-0")


def test_refusals() -> None:
    said = "flux-batch: ERROR: [Errno 22] Invalid queue 'x' specified\n"
    assert Refusal("[Errno 22] Invalid queue 'x' specified", "list the queues with `flux queue list`") == (
        flux_request.refused(said)
    )


def test_the_allocation() -> None:
    inside = {"FLUX_ENCLOSING_ID": "ƒAB", "FLUX_URI": "local:///run/x"}
    assert flux_env.allocation(inside) is flux_env.allocation({}) is None, "no variable tells the nodes"
    ask = flux_env.ask_allocation(inside)
    assert ask is not None
    assert Allocation("fAB", ("n1", "n2"), 0) == ask.read(Answer(0, "n1 n2\n"))
    assert ask.read(Answer(1, "")) is None
    assert flux_env.ask_allocation({}) is flux_env.ask_allocation({"FLUX_URI": "local:///run/flux/local"}) is None
    assert Allocation("fAB", ("n1", "n2"), 0) == flux_env.allocation({**inside, "MUSTER_FLUX_HOSTS": "n1 n2"})
    kept = flux_env.submit_env({**inside, "FLUX_JOB_ID": "ƒC", "PATH": "/bin", "HOSTNAME": "n1"})
    assert {**inside, "PATH": "/bin"} == kept


def test_commands_inside_a_job_ask_the_instance_around_it(tmp_path: Path) -> None:
    program = tmp_path / "flux"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for more, said in (({}, "jobs --json fA\n"), ({"FLUX_ENCLOSING_ID": "fA"}, "--parent jobs --json fA\n")):
        done = subprocess.run(flux_jobs.one("fA"), env={**env, **more}, capture_output=True, text=True, check=True)
        assert said == done.stdout


def test_every_option_of_another_scheduler_has_a_hint() -> None:
    assert not without_hint("flux")


def test_job_ids_that_are_none() -> None:
    """A negative one has no name in base 58."""
    told = json.dumps({"jobs": [{"id": -1, "state": "RUN"}, {"id": True}, {"id": 58, "state": "RUN"}]})
    assert ["f21"] == list(flux_jobs.jobs(told))
