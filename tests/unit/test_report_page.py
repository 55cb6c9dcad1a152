"""The report of a run as HTML: what stands on it, nothing secret, and small for many ranks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from report_cases import KINDS, many_ranks, write_run

from muster.core.env_forwarding import secrets_of, without_secrets
from muster.core.results import Failure, FailureKind, RankExit, RunResult, RunState
from muster.report import REPORT, is_reported, make_report, write_report
from muster.report.collect import collect
from muster.report.page import report_page
from muster.rundir.run import Run
from muster.ui.hang_text import verdict_in_words
from muster.ui.text import outcome_as_json, outcome_in_words


def words(page: str) -> str:
    """The text of a page, without elements."""
    return unescape(re.sub(r"<[^>]*>", " ", page.partition("</style>")[2]))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_result_first(kind: str) -> None:
    data = KINDS[kind]
    text = words(report_page(data))
    assert data.run_id in text
    first = text.index("Timeline") if data.attempts else len(text)
    told = data.outcome
    headline = outcome_in_words(told, data.operand, data.ranks, data.hosts).split("\n")[0] if told else data.state
    assert headline in text[:first]


def test_the_exception() -> None:
    text = words(report_page(KINDS["exception"]))
    assert "ValueError: bad label -7" in text and "ranks 0-1,3 (3 ranks)" in text
    assert "numpy 1.26.4 → 2.0.0" in re.sub(r"\s+", " ", text)
    assert "2 × NVIDIA H100" in text


def test_the_hang() -> None:
    data = KINDS["hang"]
    text = re.sub(r"\s+", " ", words(report_page(data)))
    hosts = {rank: f"n{1 + rank // 2}" for rank in range(4)}
    assert (3,) == data.looks[0].verdict.odd
    assert verdict_in_words(data.looks[0].verdict, hosts) in text[: text.index("Timeline")]
    assert "default_pg 0-2 all_reduce #1240 float32 [1024] waiting" in text
    assert "default_pg 3 all_reduce #1239 float32 [1024] completed" in text
    stacks = text[text.index("state default_pg") : text.rindex("1m 30s after the start")]
    assert stacks.index(" rank 3: ") < stacks.index(" ranks 0-2 (3 ranks): "), "the odd one first"
    assert 1 == stacks.count("line 41 in load"), "a stack is shown once, without threads of libraries"


def test_there_is_no_script_and_nothing_from_elsewhere() -> None:
    for data in KINDS.values():
        page = report_page(data)
        assert not re.search(r"<script|\son\w+=|https?://|@import|url\(", page)


def test_texts_of_others_are_escaped() -> None:
    evil = "<script>alert(1)</script>\x1b[2J\u202e"
    data = KINDS["exception"]._replace(
        name=evil,
        command=evil,
        hosts=(evil, evil),
        tracebacks=(data_text := KINDS["exception"].tracebacks[0]._replace(text=evil), data_text),
        logs=(KINDS["exception"].logs[0]._replace(lines=(evil,)),),
        options=((evil, evil),),
    )
    page = report_page(data)
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e" in page


def test_a_thousand_ranks_are_folded() -> None:
    page = report_page(many_ranks(1024))
    assert len(page.encode()) < 2 << 20
    assert len(re.findall('class="track"', page)) < 100
    text = words(page)
    assert "rank 517" in text and "1023 ranks" in text


def test_equal_pages_of_equal_data() -> None:
    assert report_page(KINDS["restart"]) == report_page(KINDS["restart"])


# ---- read from a run directory --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path)


def test_what_is_read_from_a_run(run: Run) -> None:
    data = collect(run, {})
    assert [(0, 1.5, 4.0), (1, 5.0, 9.0)] == [(each.number, each.began, each.ended) for each in data.attempts]
    first, last = data.attempts
    assert first.root_cause is not None and 1 == first.root_cause.rank
    assert [False, False] == [span.end.by_muster for span in last.ranks if span.end]
    assert first.ranks[0].end is not None and first.ranks[0].end.by_muster, "it was signalled after rank 1 had failed"
    assert [(2.0, 2.5, 4.0), (2.0, None, 3.0)] == [(span.started, span.output, span.ended) for span in first.ranks]
    assert [("err", ("Traceback", "ValueError: bad"))] == [
        (end.stream, end.lines) for end in data.logs if end.rank == 1
    ]
    assert "2.6.0" == data.provenance[0].torch
    assert ("--max-restarts", "1") in data.options and "--grace" not in dict(data.options)


def test_equal_tracebacks_of_several_ranks_are_folded(run: Run) -> None:
    errors = ("ValueError: label 3", "KeyError: 'x'", "ValueError: label 9")
    texts = {rank: f"Traceback\n{error}" for rank, error in enumerate(errors)}
    ends = [
        RankExit(rank, 0, 8.0, 1, failure=Failure(FailureKind.EXCEPTION, 8.0, frames=tuple(text.split("\n"))))
        for rank, text in texts.items()
    ]
    outcome = RunResult(RunState.FAILED, 1, 9.2, 1, root_cause=ends[1], exits=tuple(ends))
    run.write("outcome.json", outcome_as_json(outcome))
    found = [(each.ranks, each.text.split("\n")[-1]) for each in collect(run, {}).tracebacks]
    assert [((1,), "KeyError: 'x'"), ((0, 2), "ValueError: label 3…")] == found


def test_a_damaged_run_has_a_report(run: Run) -> None:
    with (run.path / "events.jsonl").open("a") as file:
        for record in (
            {"event": "ended", "t": "x", "rank": 0, "attempt": 1},
            {"event": "ended", "t": 1.0, "rank": 99, "attempt": 1},
            {"event": "pids", "t": 1.0, "attempt": 1, "pids": {"x": 1}},
            {"event": "do signal", "ranks": 7},
            {"event": "do restarting", "first": {}},
            {"event": "output began", "t": None, "attempt": 1, "rank": 0},
            {"event": "warm", "node": 0, "t": 1e300, "times": []},
        ):
            file.write(json.dumps(record) + "\n")
    assert "ValueError: bad" in make_report(run, {})


def test_secrets_do_not_reach_the_page(run: Run) -> None:
    secret = "correct-horse-battery"
    log = run.log(1, 1, "err")
    log.write_text(
        f"login {secret}\nurl postgres://ann:{secret}x@db/1\n--api-key {secret}y\nWANDB_API_KEY={secret}z\n"
        "token hf_abcdefghijklmnopqrstuvwx\nloss=0.25 lr=1e-3 PATH=/bin\n"
    )
    page = make_report(run, {"HF_TOKEN": secret, "LR": "1e-3"})
    assert secret not in page and "hf_abc" not in page
    assert "loss=0.25 lr=1e-3 PATH=/bin" in words(page)


def test_secrets_in_an_exception_do_not_reach_the_page(run: Run) -> None:
    """Its text is in the headline, in the result, in the timeline and in the tracebacks."""
    for name in ("outcome.json", "events.jsonl"):
        path = run.path / name
        path.write_text(
            path.read_text().replace("ValueError: bad", "ValueError: bad login-secret at ftp://a:pw-of-a@b")
        )
    page = make_report(run, {"HF_TOKEN": "login-secret"})
    assert "ValueError: bad (hidden) at ftp://(hidden)@b" in words(page)
    assert "login-secret" not in page and "pw-of-a" not in page


def test_a_mistake_in_the_report_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run.outcome
    assert outcome is not None

    def mistaken(*_: object) -> str:
        raise KeyError("mistake")

    monkeypatch.setattr("muster.report.make_report", mistaken)
    assert f"warning: cannot write {run.path / REPORT}: 'mistake'" == write_report(run, outcome, {})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("--token abc", "--token (hidden)"),
        ("--max-tokens 512 --tokenizer gpt2", "--max-tokens 512 --tokenizer gpt2"),
        ("AWS_SECRET_ACCESS_KEY=abc/def", "AWS_SECRET_ACCESS_KEY=(hidden)"),
        ("key=3 tokens=512 n_tokens=1", "key=3 tokens=512 n_tokens=1"),
        ("ghp_0123456789abcdefghij0123", "(hidden)"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK", "(hidden)"),
        ("task-sk-learn-0123456789012345678901", "task-sk-learn-0123456789012345678901"),
    ],
)
def test_what_looks_like_a_secret(text: str, found: str) -> None:
    assert found == without_secrets(text)


def test_values_of_secret_variables() -> None:
    env = {"DB_PASSWORD": "hunter2hunter2", "API_TOKEN": "short", "HOME": "/home/ann", "X": "s3://a:b@c"}
    assert ("hunter2hunter2", "s3://a:b@c") == secrets_of(env)
    assert "(hidden)!" == without_secrets("hunter2hunter2!", secrets_of(env))


def test_it_is_written_for_failures_only(run: Run) -> None:
    outcome = run.outcome
    assert outcome is not None and is_reported(outcome)
    assert "" == write_report(run, outcome, {})
    assert "ValueError: bad" in (run.path / REPORT).read_text()
    assert 0o600 == (run.path / REPORT).stat().st_mode & 0o777
    (run.path / REPORT).unlink()
    for other in (KINDS["success"].outcome, outcome._replace(exits=())):
        assert other is not None
        write_report(run, other, {})
        assert not (run.path / REPORT).exists()


def test_a_lost_host_and_a_traceback_that_the_result_has() -> None:
    assert "exit not observed" in words(report_page(KINDS["lost host"]))
    page = report_page(KINDS["restart"])
    assert "<details><summary>rank 3: " in page, "it stands in the result, so it is folded"


def test_what_a_report_is_made_with_is_imported_ahead() -> None:
    """Where a controller runs, nothing else imports it before the run has ended."""
    program = """
import sys, threading
import muster.controller.controller, muster.report
assert "muster.report.page" not in sys.modules and "muster.report.collect" not in sys.modules
muster.report.import_ahead()
[thread.join() for thread in threading.enumerate() if thread.name == "report"]
assert "muster.report.page" in sys.modules and "muster.report.collect" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
