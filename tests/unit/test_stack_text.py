"""Stacks as faulthandler writes them."""

from __future__ import annotations

import pytest

from muster.core.verdict import Frame
from muster.diagnostics.stack_text import Origin, origin, threads_of

TEXT = """\
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/home/ann/data.py", line 7 in fill
  ...

Thread 0x00007f0000000002 [worker] (most recent call first):
  <no Python frame>

Current thread 0x00007f0000000003 (most recent call first):
  Garbage-collecting
  File "/venv/lib/python3.11/site-packages/torch/_tensor.py", line 623 in backward
  File "/home/ann/a, line 1 in b.py", line ??? in main
"""


def test_the_main_thread_is_the_last_one_that_is_written() -> None:
    main, empty, other = threads_of(TEXT)
    assert main.user == Frame("/home/ann/a, line 1 in b.py", 0, "main")
    assert main.inner == Frame("/venv/lib/python3.11/site-packages/torch/_tensor.py", 623, "backward")
    assert (empty.frames, empty.user, empty.inner) == ((), None, None)
    assert (other.cut, other.is_of_user, other.user) == (True, True, Frame("/home/ann/data.py", 7, "fill"))
    assert threads_of("") == ()
    assert threads_of("nothing of that kind\n  File x\n") == ()


@pytest.mark.parametrize(
    ("file", "whose"),
    [
        ("/home/ann/train.py", Origin.USER),
        ("train.py", Origin.USER),
        ("<stdin>", Origin.USER),
        ("/home/ann/.venv/lib/python3.11/site-packages/numpy/core.py", Origin.LIBRARY),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", Origin.LIBRARY),
        ("<string>", Origin.LIBRARY),
        ("<attrs generated init>", Origin.LIBRARY),
        ("/venv/lib64/python3.9/site-packages/torch/nn/modules/module.py", Origin.TORCH),
        ("/src/pytorch/torch/distributed/distributed_c10d.py", Origin.TORCH),
        ("/usr/lib/python3.11/threading.py", Origin.STANDARD),
        ("/opt/conda/lib/python3.13t/queue.py", Origin.STANDARD),
        ("<frozen importlib._bootstrap>", Origin.STANDARD),
    ],
)
def test_whose_code_it_is(file: str, whose: Origin) -> None:
    assert origin(file) is whose


def test_without_code_of_the_user_that_of_a_library_is_shown() -> None:
    (thread,) = threads_of(
        "Stack (most recent call first):\n"
        '  File "/usr/lib/python3.11/ssl.py", line 1 in read\n'
        '  File "/venv/lib/python3.11/site-packages/hub/get.py", line 5 in get\n'
        '  File "/venv/lib/python3.11/site-packages/torch/nn/a.py", line 2 in b\n'
    )
    assert thread.user == Frame("/venv/lib/python3.11/site-packages/hub/get.py", 5, "get")
