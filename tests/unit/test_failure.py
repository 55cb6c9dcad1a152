"""Analysis of the last output of failed ranks, recorded from real programs (Python 3.11, torch 2.13)."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from muster.agent.failure import Evidence, explain, notes_of


def verdict(stderr: str | bytes, signalled: bool = False, **more: Any) -> dict[str, Any]:
    """Return what `explain` makes of this stderr of a rank without a site hook."""
    text = stderr if isinstance(stderr, bytes) else stderr.encode()
    return explain(Evidence(text, signalled=signalled, code=None if signalled else 1)._replace(**more))


class Case(NamedTuple):
    """The end of a stderr, and the expected result."""

    truth: str
    stderr: str
    kind: str
    summary: str
    frames: tuple[str, ...] | None = None
    """The lines to be shown; None for all lines of `stderr`."""
    signalled: bool = False


RAISED = """\
Traceback (most recent call last):
  File "/home/ann/train.py", line 9, in <module>
    step(batch)
  File "/home/ann/train.py", line 5, in step
    raise ValueError("bad batch")
ValueError: bad batch
"""

CHAINED = """\
Traceback (most recent call last):
  File "/home/ann/link.py", line 2, in <module>
    {}["x"]
    ~~^^^^^
KeyError: 'x'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/home/ann/link.py", line 4, in <module>
    raise RuntimeError("no such\\n  thing") from e
RuntimeError: no such
  thing
"""

HANDLING = "\nDuring handling of the above exception, another exception occurred:\n\n"

REFUSED = """\
Traceback (most recent call last):
ConnectionRefusedError: [Errno 111] Connection refused
"""

GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/home/ann/group.py", line 3, in <module>
  |     f()
  |   File "/home/ann/group.py", line 2, in f
  |     raise ExceptionGroup("many", [ValueError(1), TypeError(2)])
  | ExceptionGroup: many (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: 1
    +---------------- 2 ----------------
    | TypeError: 2
    +------------------------------------
"""

SYNTAX = """\
  File "/home/ann/train.py", line 1
    def f(:
          ^
SyntaxError: invalid syntax
"""

# torch.distributed adds the rank to each line once there is a process group
GLOO = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/home/ann/train.py", line 6, in <module>
[rank0]:     dist.all_reduce(torch.ones(1))
[rank0]:   File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3252, in all_reduce
[rank0]:     work.wait()
[rank0]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:63159: \
Connection reset by peer. This is typically caused by a remote worker hanging. GLHF! 🏖️
"""

GLOO_OLD = """\
Traceback (most recent call last):
  File "/home/ann/train.py", line 6, in <module>
    dist.all_reduce(torch.ones(1))
RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:39001
"""

STORE = """\
[E1121 10:14:57.710661652 socket.cpp:1028] [c10d] The client socket has timed out after 1000ms while trying to connect
Exception raised from throwTimeoutError at /pytorch/torch/csrc/c10d/socket.cpp:1030 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x9d (0x7f6572179b8d in /venv/lib/libc10.so)
frame #1: _start + 0x21 (0x5618abc85081 in /venv/bin/python)

Traceback (most recent call last):
  File "/home/ann/train.py", line 2, in <module>
    dist.init_process_group("gloo")
torch.distributed.DistNetworkError: The client socket has timed out after 1000ms while trying to connect to (n1, 1).
[W1121 10:14:58.1 ProcessGroup.cpp:12] Warning: destroy_process_group() was not called
"""

INTERRUPTED = """\
Traceback (most recent call last):
  File "/home/ann/train.py", line 2, in <module>
    time.sleep(100)
KeyboardInterrupt
"""

FAULT = """\
epoch 1
Fatal Python error: Segmentation fault

Current thread 0x00007f298e014b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/ann/train.py", line 4 in <module>
"""

TERMINATED = """\
terminate called after throwing an instance of 'std::out_of_range'
  what():  vector::_M_range_check
"""

WATCHDOG = """\
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 Rank 0] Process group watchdog thread terminated with exception: CUDA error: device-side assert
Exception raised from c10_cuda_check_implementation at /pytorch/c10/cuda/CUDAException.cpp:43 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x96 (0x7f6572179b8d in /venv/lib/libc10.so)
frame #1: <unknown function> + 0xd6df4 (0x7f657217ab62 in /venv/lib/libstdc++.so.6)
frame #2: <unknown function> + 0x8609 (0x7f657217b022 in /lib/x86_64-linux-gnu/libpthread.so.0)
frame #3: clone + 0x43 (0x7f655ec3b752 in /lib/x86_64-linux-gnu/libc.so.6)

"""

HYDRA = """\
Could not override 'db.usr'.
To append to your config use +db.usr=x
Key 'usr' is not in struct
    full_key: db.usr
    object_type=dict

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""

ARGPARSE = """\
usage: train.py [-h] [--lr LR]
train.py: error: unrecognized arguments: --foo
"""

AT_EXIT = """\
Exception ignored in: <function A.__del__ at 0x7fa39a354720>
Traceback (most recent call last):
  File "/home/ann/train.py", line 3, in __del__
ValueError: late
"""

WORKER = """\
Traceback (most recent call last):
  File "/home/ann/train.py", line 5, in <module>
    for batch in loader:
  File "/venv/lib/python3.11/site-packages/torch/_utils.py", line 794, in reraise
    raise exception
ValueError: Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/torch/utils/data/_utils/worker.py", line 374, in _worker_loop
    data = fetcher.fetch(index)
           ^^^^^^^^^^^^^^^^^^^^
  File "/venv/lib/python3.11/site-packages/torch/utils/data/_utils/fetch.py", line 54, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
  File "/home/ann/train.py", line 4, in __getitem__
    raise ValueError("boom")
ValueError: boom
"""

BAR = "\r 10%|#    | 1/10 [00:00<00:01]\r 20%|##   | 2/10 [00:00<00:01]"

HANDLED = RAISED + "cannot read the cache, going on without it\n"

TRACEBACK = tuple(RAISED.splitlines())

CASES = [
    Case("A Python exception is the rank's own failure.", RAISED, "raised", "ValueError: bad batch"),
    Case(
        "What was said before it is left out.",
        "epoch 1\nepoch 2\n" + RAISED,
        "raised",
        "ValueError: bad batch",
        TRACEBACK,
    ),
    Case(
        "So is a line without its end before it.",
        "a" + BAR + "\n" + RAISED,
        "raised",
        "ValueError: bad batch",
        TRACEBACK,
    ),
    Case(
        "A progress bar that was not ended stands on the same line.",
        BAR + RAISED,
        "raised",
        "ValueError: bad batch",
        TRACEBACK,
    ),
    Case(
        "Of a chain of exceptions the last one is shown, with all lines of its text; then each cause and where it was.",
        CHAINED,
        "raised",
        "RuntimeError: no such (caused by KeyError: 'x')",
        (
            *CHAINED.splitlines()[8:],
            "caused by KeyError: 'x'",
            '  File "/home/ann/link.py", line 2, in <module>',
            '    {}["x"]',
        ),
    ),
    Case(
        "A rank that wraps what torch says of a lost peer has lost a peer.",
        GLOO_OLD + HANDLING + RAISED,
        "lost peer",
        "ValueError: bad batch (while handling " + GLOO_OLD.splitlines()[-1] + ")",
        (
            *RAISED.splitlines(),
            "while handling " + GLOO_OLD.splitlines()[-1],
            *GLOO_OLD.splitlines()[1:3],
        ),
    ),
    Case(
        "One that was refused a connection by something else has not.",
        REFUSED + HANDLING + RAISED,
        "raised",
        "ValueError: bad batch (while handling ConnectionRefusedError: [Errno 111] Connection refused)",
        (*RAISED.splitlines(), "while handling ConnectionRefusedError: [Errno 111] Connection refused"),
    ),
    Case("Notes that were added to an exception are kept.", RAISED + "in file 7\n", "raised", "ValueError: bad batch"),
    Case(
        "A group of exceptions is an exception.",
        GROUP,
        "raised",
        "ExceptionGroup: many (2 sub-exceptions): ValueError: 1",
    ),
    Case("A SyntaxError of the script itself has no head.", SYNTAX, "raised", "SyntaxError: invalid syntax"),
    Case(
        "A SyntaxError of a module has one.",
        'Traceback (most recent call last):\n  File "/home/ann/main.py", line 1, in <module>\n    import train\n'
        + SYNTAX,
        "raised",
        "SyntaxError: invalid syntax",
    ),
    Case(
        "An exception at exit that Python ignores is not why the rank failed.",
        RAISED + AT_EXIT,
        "raised",
        "ValueError: bad batch",
        TRACEBACK,
    ),
    Case(
        "Lost peer: gloo, with the rank before each line.",
        GLOO,
        "lost peer",
        GLOO.splitlines()[-1].partition(": ")[2],
        tuple(line.partition(" ")[2] for line in GLOO.splitlines()),
    ),
    Case("Lost peer: gloo, as older torch says it.", GLOO_OLD, "lost peer", GLOO_OLD.splitlines()[-1]),
    Case(
        "The store cannot be reached. The words of c10d around it are left out.",
        STORE,
        "no connection",
        STORE.splitlines()[-2],
        tuple(STORE.splitlines()[5:-1]),
    ),
    Case("Ctrl-C is an exception like others.", INTERRUPTED, "raised", "KeyboardInterrupt"),
    Case(
        "The same when Python then ends itself by SIGINT.", INTERRUPTED, "raised", "KeyboardInterrupt", signalled=True
    ),
    Case(
        "faulthandler tells what crashed.",
        FAULT,
        "ended",
        "Fatal Python error: Segmentation fault",
        tuple(FAULT.splitlines()[1:]),
        signalled=True,
    ),
    Case(
        "A traceback that was handled is not why a signal ended the rank.",
        HANDLED,
        "ended",
        "cannot read the cache, going on without it",
        ("cannot read the cache, going on without it",),
        signalled=True,
    ),
    Case(
        "A traceback with nothing after it was on its way out when the signal came.",
        RAISED + "\n[W1121 10:14:58.1 ProcessGroup.cpp:12] Warning: destroy_process_group() was not called\n",
        "raised",
        "ValueError: bad batch",
        TRACEBACK,
        signalled=True,
    ),
    Case(
        "A crash after a traceback that was handled is the crash's.",
        HANDLED + FAULT,
        "ended",
        "Fatal Python error: Segmentation fault",
        tuple(FAULT.splitlines()[1:]),
        signalled=True,
    ),
    Case("C++ tells what it threw.", TERMINATED, "ended", "what():  vector::_M_range_check", signalled=True),
    Case("argparse's last line says what is wrong.", ARGPARSE, "ended", ARGPARSE.splitlines()[-1]),
    Case("`sys.exit(text)` says it in its own words.", "no data in /data\n", "ended", "no data in /data"),
    Case("Silence tells nothing.", "", "ended", "", ()),
    Case("Nor do empty lines.", "\n\n  \n", "ended", "", ()),
    Case(
        "Of several paragraphs the last ones are shown, five lines at least.",
        "".join(f"line {number}\n\n" for number in range(9)),
        "ended",
        "line 8",
        tuple(f"line {number}" for number in range(4, 9)),
    ),
    Case(
        "Of a paragraph at the end all lines are shown: hydra says first what is wrong.",
        "loading\n\n" + HYDRA,
        "ended",
        HYDRA.splitlines()[-1],
        tuple(line for line in HYDRA.splitlines() if line),
    ),
    Case(
        "Of a long one its last lines.",
        "".join(f"line {number}\n" for number in range(30)),
        "ended",
        "line 29",
        tuple(f"line {number}" for number in range(16, 30)),
    ),
    Case(
        "Carriage returns: of a line that was drawn over, its last form.",
        "loading\r\n 10%\r 20%\r\ngave up\r\n",
        "ended",
        "gave up",
        ("loading", " 20%", "gave up"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.truth)
def test_verdict(case: Case) -> None:
    """Check kind, summary and lines of each text of the table."""
    frames = case.stderr.splitlines() if case.frames is None else list(case.frames)
    found = verdict(case.stderr, case.signalled)
    assert (found["kind"], found["summary"], found["frames"]) == (case.kind, case.summary, frames)


def test_the_frames_below_a_cpp_exception_do_not_hide_it() -> None:
    """The exception is reported, not the place where the thread started."""
    found = verdict(WATCHDOG, signalled=True)
    assert "device-side assert" in found["summary"]


def test_the_exception_of_a_dataloader_worker_is_shown() -> None:
    """It is below the exception that forwards it to the rank."""
    found = verdict(WORKER)
    assert (found["kind"], "ValueError: boom" in found["frames"]) == ("raised", True)


def test_a_long_traceback_is_shown_by_its_head_and_its_end() -> None:
    lines = [line for number in range(20) for line in (f'  File "train.py", line {number}, in f', f"    g({number})")]
    text = "\n".join(["Traceback (most recent call last):", *lines, "ZeroDivisionError: division by zero", ""])
    frames = verdict(text)["frames"]
    assert (frames[:2], frames[2:]) == (
        ["Traceback (most recent call last):", "  ..."],
        [*lines[-10:], "ZeroDivisionError: division by zero"],
    )


def test_invalid_utf8_does_no_harm() -> None:
    """They are shown as the replacement character; a summary has a maximum length."""
    found = verdict(b"\xff\xfe broken \x00\n" + b"x" * 2000 + b"\n")
    assert found["frames"][0] == "\ufffd\ufffd broken \ufffd"
    assert found["summary"] == "x" * 500


LOST = [
    "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:39001",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection reset by peer",
    "TCPStore: Connection refused",
    "[c10d] Broken pipe",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "NCCL communicator was aborted on rank 1.",
    "Rank 0 successfully reached monitoredBarrier, but received errors while waiting for send/recv",
    "c10d: Socket closed",
    "Timed out waiting 1800000ms for recv operation to complete",
]


@pytest.mark.parametrize("words", LOST)
def test_these_messages_reveal_the_end_of_another_rank(words: str) -> None:
    text = RAISED.replace("ValueError: bad batch", f"RuntimeError: {words}").encode()
    assert verdict(text)["kind"] in ("lost peer", "timed out")


@pytest.mark.parametrize("words", ["CUDA out of memory", "size mismatch for fc.weight", "No such file: 'peer.txt'"])
def test_these_do_not(words: str) -> None:
    text = RAISED.replace("ValueError: bad batch", f"RuntimeError: {words}").encode()
    assert verdict(text)["kind"] == "raised"


def test_the_nearest_and_the_first_of_many_causes_are_shown() -> None:
    link = "\nThe above exception was the direct cause of the following exception:\n\n"
    texts = [
        f'Traceback (most recent call last):\n  File "a.py", line {n}, in f\n    g()\nKeyError: {n}\n' for n in range(8)
    ]
    frames = verdict(link.join(texts))["frames"]
    assert ["caused by KeyError: 6", "caused by KeyError: 1", "caused by KeyError: 0"] == [
        line for line in frames if line.startswith("caused by")
    ]


def test_colors_hide_no_exception() -> None:
    """Python writes colored tracebacks on a terminal since 3.13."""
    lines = [
        b"Traceback (most recent call last):",
        b'  File \x1b[35m"a.py"\x1b[0m, line \x1b[35m1\x1b[0m, in \x1b[35m<module>\x1b[0m',
        b"    \x1b[31m1\x1b[1;31m/\x1b[0m0",
        b"\x1b[1;35mZeroDivisionError\x1b[0m: \x1b[35mdivision by zero\x1b[0m",
    ]
    told = verdict(b"\n".join(lines) + b"\n")
    assert ("raised", "ZeroDivisionError: division by zero") == (told["kind"], told["summary"])
    assert '  File "a.py", line 1, in <module>' in told["frames"]


def test_output_on_stdout_is_not_a_cause() -> None:
    """On a pseudo-terminal both streams of a rank are one."""
    told = verdict(b"epoch 1\nsaved the checkpoint\n", mixed=True)
    assert ("ended", "", []) == (told["kind"], told["summary"], told["frames"])
    failed = b"epoch 1\n" + b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nKeyError: 3\n'
    assert "KeyError: 3" == verdict(failed, mixed=True)["summary"]


def note(*chain: tuple[str, str], leaves: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a note of the site hook about a chain of (how, text)."""
    frames = [["/home/ann/train.py", 9, "main"], ["/venv/lib/python3.11/site-packages/torch/nn/functional.py", 3, "f"]]
    items = [{"how": how, "text": text, "frames": frames, "leaves": list(leaves)} for how, text in chain]
    return {"at": 1.5, "chain": items}


LOST_BY_GLOO = (
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:2"
)
UNCAUGHT = "[rank1]: " + "\n[rank1]: ".join(RAISED.splitlines()) + "\n"


def test_a_note_proves_an_exception() -> None:
    """Whatever a replaced sys.excepthook has printed: the traceback is made from the note."""
    found = verdict("oh no\n", note=note(("", "ValueError: bad batch")), hooked=True)
    assert ("raised", True, "train.py:9 in main") == (found["kind"], found["proven"], found["place"])
    assert found["frames"][1] == '  File "/home/ann/train.py", line 9, in main'
    assert found["frames"][-1] == found["summary"] == "ValueError: bad batch"


def test_a_damaged_note_is_none() -> None:
    for damaged in ({}, {"chain": 3}, {"chain": [{"how": ""}]}, {"chain": [{"text": "x", "frames": [1]}]}):
        assert "no data" == verdict("no data\n", note=damaged)["summary"]


@pytest.mark.parametrize(
    ("truth", "stderr", "evidence", "proven"),
    [
        ("the hook would have left a note", RAISED, {"hooked": True, "err_age": 0.0}, False),
        ("torch's excepthook has put the rank before each line", UNCAUGHT, {"hooked": True}, True),
        ("Python exits with 1", RAISED, {"code": 1}, True),
        ("any other status is the script's own", RAISED, {"code": 3}, False),
        ("a signal proves nothing", RAISED, {"signalled": True, "code": None}, False),
        ("but after Ctrl-C Python ends itself by SIGINT", INTERRUPTED, {"signalled": True, "code": None}, True),
    ],
)
def test_proof_that_an_exception_was_uncaught(truth: str, stderr: str, evidence: dict[str, Any], proven: bool) -> None:
    found = verdict(stderr, **evidence)
    assert ("raised", proven) == (found["kind"], found["proven"]), truth


def test_an_exception_that_was_logged_just_before_the_exit_is_why() -> None:
    """An older one was handled; so was one that the rank has written something after."""
    assert "ValueError: bad batch" == verdict(RAISED, hooked=True, code=1, err_age=0.02)["summary"]
    for code, age in ((1, 2.0), (3, 0.0)):
        found = verdict(RAISED, hooked=True, code=code, err_age=age)
        assert ("ended", "", []) == (found["kind"], found["summary"], found["frames"])
    later = verdict(RAISED + "no room, giving up\n", hooked=True, code=3, err_age=0.0)
    assert ("ended", "no room, giving up") == (later["kind"], later["summary"])


def test_an_exception_that_was_logged_to_stdout_is_why() -> None:
    found = verdict("", stdout=b"ERROR:root:training failed\n" + RAISED.encode(), hooked=True, out_age=0.05)
    assert ("raised", "ValueError: bad batch", False) == (found["kind"], found["summary"], found["proven"])
    assert "ERROR no data" == verdict("", stdout=b"step 3\nERROR no data\n", out_age=0.05)["summary"]
    assert "" == verdict("", stdout=b"step 3\nsaved\n", out_age=0.05)["summary"]
    assert "" == verdict("", stdout=RAISED.encode(), hooked=True, out_age=4.0)["summary"], "it was handled"
    assert "" == verdict("", stdout=RAISED.encode(), hooked=True, code=3, out_age=0.05)["summary"], "3 is its choice"


def test_the_traceback_of_a_thread_or_a_worker_process_is_not_the_ranks() -> None:
    for before in ("Exception in thread Thread-1 (track):", "Process Process-1:", "Error in atexit._run_exitfuncs:"):
        found = verdict(f"{before}\n{RAISED}")
        assert "raised" != found["kind"], before


def test_torchs_record_file_is_read_if_nothing_else_tells() -> None:
    found = verdict("", record=RAISED, hooked=True)
    assert ("raised", "ValueError: bad batch", "train.py:5 in step") == (
        *(found["kind"], found["summary"], found["place"]),
    )


CHAINS = [
    ("an explicit cause decides", (("", "TrainerError: step 9"), ("caused by", LOST_BY_GLOO)), "lost peer"),
    ("so does a cause of its own", (("", "TrainerError: step 9"), ("caused by", "KeyError: 3")), "raised"),
    ("a cause at the root", ((("", LOST_BY_GLOO)), ("caused by", "KeyError: 3")), "raised"),
    ("a lost peer in the clean-up", (("", LOST_BY_GLOO), ("while handling", "KeyError: 3")), "lost peer"),
    ("an exception in the clean-up", (("", "OSError: gone"), ("while handling", "KeyError: 3")), "raised"),
]


@pytest.mark.parametrize(("truth", "chain", "kind"), CHAINS)
def test_the_root_of_a_chain_decides(truth: str, chain: tuple[tuple[str, str], ...], kind: str) -> None:
    found = verdict("", note=note(*chain), hooked=True)
    assert kind == found["kind"], truth
    own_before = "KeyError: 3" if truth == "a lost peer in the clean-up" else ""
    assert own_before == found["own_before"], truth
    assert all(text.partition(":")[0] in found["summary"] for _, text in chain), "both are named"


def test_of_a_group_the_first_exception_of_its_own_decides() -> None:
    texts = (("", "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)"),)
    found = verdict("", note=note(*texts, leaves=(LOST_BY_GLOO, "KeyError: 3")))
    assert ("raised", True) == (found["kind"], found["summary"].endswith(": KeyError: 3"))
    assert "lost peer" == verdict("", note=note(*texts, leaves=(LOST_BY_GLOO,)))["kind"]


UNREACHED = "DistNetworkError: The client socket has timed out after 9000ms while trying to connect to (10.9.9.1, 2)."
NOT_SERVED = (
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
    "port: 45649, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
)

WORDS = [
    ("ConnectionRefusedError: [Errno 111] Connection refused", "raised", []),
    ("requests.exceptions.ReadTimeout: HTTPConnectionPool(host='data', port=80): Read timed out.", "raised", []),
    (LOST_BY_GLOO, "lost peer", []),
    ("RuntimeError: Rank 2 failed to pass monitoredBarrier in 5000 ms", "timed out", [2]),
    ("RuntimeError: Ranks 1, 2 failed to pass monitoredBarrier in 5000 ms", "timed out", [1, 2]),
    (
        "torch.distributed.DistStoreError: Timed out after 6 seconds waiting for clients. 3/4 clients joined.",
        "timed out",
        [],
    ),
    (UNREACHED, "no connection", []),
    (NOT_SERVED, "raised", []),
    ("RuntimeError: [enforce fail at gloo/transport/tcp/pair.cc:456] op.preamble.length <= op.nbytes", "mismatch", []),
]


@pytest.mark.parametrize(("words", "kind", "blames"), WORDS)
def test_what_messages_tell(words: str, kind: str, blames: list[int]) -> None:
    found = verdict("", note=note(("", words)))
    assert (kind, blames) == (found["kind"], found["blames"])


def test_frames_of_libraries_are_left_out_before_the_users() -> None:
    def frame(path: str, number: int) -> list[str]:
        return [f'  File "{path}", line {number}, in f{number}', f"    g{number}()"]

    lines = [*frame("/home/ann/train.py", 0), *frame("/home/ann/train.py", 1)]
    lines += [line for number in range(2, 20) for line in frame("/usr/lib/python3.11/copy.py", number)]
    text = "\n".join(["Traceback (most recent call last):", *lines, "TypeError: no copy", ""])
    found = verdict(text)
    assert lines[:4] == found["frames"][1:5]
    assert [*lines[-2:], "TypeError: no copy"] == found["frames"][-3:]
    assert ("  ..." in found["frames"], "train.py:1 in f1") == (True, found["place"])


def test_the_place_is_in_the_users_code_if_the_root_is_in_a_library() -> None:
    found = note(("", "RuntimeError: unexpected pos 704 vs 598"), ("while handling", "RuntimeError: iostream error"))
    found["chain"][1]["frames"] = [["/venv/lib/python3.11/site-packages/torch/serialization.py", 1312, "_save"]]
    assert "train.py:9 in main" == verdict("", note=found)["place"]


def test_notes_about_a_rank() -> None:
    atexit = f"Error in atexit._run_exitfuncs:\n{RAISED}"
    assert ["a function registered with atexit failed: ValueError: bad batch"] == notes_of(b"", atexit.encode())
    for words in (b"loss: nan", b"step 3, loss=NaN, lr=0.1", b"{'loss': nan, 'step': 3}", b"Loss is -inf"):
        assert 1 == len(notes_of(b"loss: 0.3\n" + words + b"\n", b"")), words
    for words in (b"loss: 0.25", b"no loss of nanoseconds", b"loss: nan\nloss: 0.3"):
        assert [] == notes_of(words + b"\n", b""), words


def test_an_exception_in_a_process_of_mp_spawn_is_shown_with_its_own_traceback() -> None:
    """The parent raises it again, with the text of the traceback; its own one only says that it waited."""
    text = (
        "torch.multiprocessing.spawn.ProcessRaisedException: \n\n-- Process 1 terminated with the following error:\n"
        'Traceback (most recent call last):\n  File "/venv/site-packages/torch/multiprocessing/spawn.py",'
        " line 87, in _wrap\n    fn(i, *args)\n"
        '  File "/home/ann/train.py", line 3, in work\n    raise KeyError("x")\nKeyError: \'x\'\n'
    )
    frames = [["/home/ann/train.py", 6, "<module>"]]
    note = {"chain": [{"how": "", "text": text, "frames": frames, "leaves": []}]}
    found = explain(Evidence(note=note, hooked=True))
    assert ("raised", "KeyError: 'x' (in mp.spawn's process 1)") == (found["kind"], found["summary"])
    assert "train.py:3 in work" == found["place"]
    assert ['    raise KeyError("x")', "KeyError: 'x'"] == found["frames"][-2:]
