"""Which native code is known to do nothing at the exit of a process, and who is waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from muster.agent.hook import quick_exit
from muster.agent.hook.quick_exit import is_known, loaded_code

SITE = "/home/ann/.venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/python3.11",
        "/opt/conda/bin/python",
        "/root/.pyenv/versions/3.13.1/bin/python3.13t",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "/usr/lib/libc-2.31.so",
        "/usr/lib64/libc.so.6",
        "/usr/lib/libstdc++.so.6.0.30",
        "/usr/lib/x86_64-linux-gnu/libnss_mdns4_minimal.so.2",
        "/usr/lib/libpython3.11.so.1.0",
        "/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so",
        f"{SITE}/torch/lib/libtorch_cpu.so",
        f"{SITE}/torch/_C.cpython-311-x86_64-linux-gnu.so",
        f"{SITE}/torch/lib/libgomp.so.1",
        f"{SITE}/torch.libs/libgomp-a34b3233.so.1.0.0",
        f"{SITE}/numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so",
        f"{SITE}/numpy.libs/libscipy_openblas64_-32a4b2a6.so",
        f"{SITE}/numpy.libs/libgfortran-040039e1-0352e75f.so.5.0.0",
        f"{SITE}/tokenizers/tokenizers.abi3.so",
    ],
)
def test_known(path: str) -> None:
    """The parts of a plain torch on the CPU."""
    assert is_known(path)


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE}/torch/lib/libtorch_cuda.so",
        f"{SITE}/torch/lib/libc10_cuda.so",
        f"{SITE}/nvidia/cuda_runtime/lib/libcudart.so.13",
        "/usr/lib/libcuda.so.1",
        "/usr/lib/libmpi.so.40",
        "/usr/lib/libtcmalloc.so.4",
        "/usr/lib/gcc/libasan.so.8",
        "/usr/lib/libcupti.so",
        "/home/ann/project/ops.so",
        "/home/ann/libc.so.6/ops.so",
        "/home/ann/numpy.so",
        "/home/ann/libc.so.6 (deleted)",
        "/home/ann/libcx.so",
        f"{SITE}/pyarrow/libarrow.so.2400",
        f"{SITE}/mypackage/_C.cpython-311-x86_64-linux-gnu.so",
    ],
)
def test_unknown(path: str) -> None:
    """CUDA, MPI, profilers, allocators, and everything of users."""
    assert not is_known(path)


def test_maps_are_read() -> None:
    """Files that are mapped as code; data and memory do not count."""
    maps = (
        "7f00-7f01 r-xp 00000000 fe:00 1      /a b/libx.so (deleted)\n7f01-7f02 r--p 00000000 fe:00 1 /data\n"
        "7f02-7f03 r-xp 00000000 00:00 0 [vdso]\n7f03-7f04 rwxp 00000000 00:00 0 \n"
    )
    assert loaded_code(maps) == {"/a b/libx.so (deleted)"}


WORKER = """
import ctypes, hashlib, importlib.util, os, sys, threading, time
path = {path!r}
spec = importlib.util.spec_from_file_location("quick_exit", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module._FINISH = 60.0  # the machine may be busy
sys.modules["torch.distributed.distributed_c10d"] = module
named, go, done = threading.Event(), threading.Event(), []

def work():
    ctypes.CDLL(None).prctl(15, b"pt_gloo_runloop", 0, 0, 0)
    named.set()
    go.wait()
    hashlib.sha256(memoryview(bytearray(1 << 26))).digest()  # without the lock, as the destructors of C++
    done.append(time.monotonic())
    forever.wait()

forever = threading.Event()
threading.Thread(target=work, daemon=True).start()
named.wait()
before = time.monotonic()
module.let_workers_finish()
print(len(done), time.monotonic() - before < module._FINISH)
go.set()
module.let_workers_finish()
print(len(done))
"""


def test_threads_of_gloo_that_run_are_waited_for_and_those_that_sleep_are_not() -> None:
    path = Path(quick_exit.__file__)
    words = [sys.executable, "-c", WORKER.format(path=str(path))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert ("0 True\n1\n", "") == (done.stdout, done.stderr)
