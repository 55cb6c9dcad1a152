"""The environment of another process as it is now."""

from __future__ import annotations

import os
import subprocess
import sys

from muster.linux import environment

PROGRAM = """
import os, sys
os.environ["MASTER_ADDR"] = "10.255.255.1"
os.environ["LATER"] = "x" * 1000
del os.environ["GONE"]
for number in range(300):
    os.environ[f"MORE_{number}"] = str(number)
print("ready", flush=True)
sys.stdin.read()
"""


def test_variables_that_a_process_has_set_itself() -> None:
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "GONE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = environment.current(process.pid, ("MASTER_ADDR", "MASTER_PORT", "GONE", "MORE_299"))
        process.communicate("")
    assert found == {"MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500", "MORE_299": "299"}


def test_a_process_that_is_gone_or_has_no_such_library() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert environment.current(process.pid, ("PATH",)) == {}
    assert environment.current(2, ("PATH",)) == {}  # a thread of the kernel, or nobody
