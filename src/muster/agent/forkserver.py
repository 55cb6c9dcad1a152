"""The agent's side of the fork server: it checks that the site hook works, starts the server, and requests forks.

The other side is `hook/fork_server.py`, which runs inside that interpreter.
"""

from __future__ import annotations

import json
import marshal
import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from muster.linux.hardware import physical_cores
from muster.linux.processes import STACKS_SIGNAL, spawn
from muster.protocol.paths import rank_file

if TYPE_CHECKING:
    from muster.protocol.trace import Tracer

READ_AT_LOAD = frozenset(
    (
        # libtorch, by a trace of getenv during the import of torch 2.13
        *("PYTORCH_API_USAGE_STDERR", "TORCH_CPP_LOG_LEVEL", "TORCH_CUSTOM_TERMINATE", "TORCH_DISTRIBUTED_DEBUG"),
        *("TORCH_SHOW_CPP_STACKTRACES", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT"),
        *("TORCH_BLAS_PREFER_HIPBLASLT", "TORCH_LINALG_PREFER_CUSOLVER", "TORCH_LINALG_PREFER_HIPSOLVER"),
        *("TORCH_ROCM_FA_PREFER_CK", "KINETO_USE_DAEMON"),
        # its allocator, which a static initializer of GPU builds selects
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"),
        # OpenBLAS, a dependency of numpy
        "GOTO_NUM_THREADS",
    )
)
"""Environment variables that C++ code reads when torch or numpy is loaded."""

READ_AT_LOAD_PREFIXES = (
    *(
        "ACC_",
        "DNNL_",
        "FSSPEC_",
        "GFORTRAN_",
        "GOMP_",
        "INTEL_LIBITTNOTIFY",
        "KMP_",
        "MKL_",
        "MKLDNN_",
        "NPY_",
        "OMP_",
    ),
    *("ONEDNN_", "OPENBLAS_", "OPENSSL_", "TQDM_"),
)
"""Prefixes of more of them: libraries for arithmetic and threads, by the same trace; tqdm and fsspec in Python."""

CAUGHT_UP = ("OMP_NUM_THREADS", "TORCH_DISTRIBUTED_DEBUG", "TORCH_LOGS", "TMPDIR", "TEMP", "TMP")
"""Variables whose effect the site hook applies in a rank when the script imports torch, as torch would have done."""


def counting() -> dict[str, Any]:
    """Return what the site hook needs to recognize variables that take effect when torch is imported."""
    return {
        "names": sorted(READ_AT_LOAD),
        "prefixes": READ_AT_LOAD_PREFIXES,
        "caught_up": CAUGHT_UP,
        "threads": physical_cores(),
    }


def hook_env(env: Mapping[str, str], folder: str, **conf: Any) -> dict[str, str]:
    """Return `env` with variables that make a Python load the site hook in `folder`, configured by `conf`."""
    conf["pythonpath"] = env.get("PYTHONPATH")
    path = folder if not env.get("PYTHONPATH") else folder + os.pathsep + env["PYTHONPATH"]
    return dict(env, PYTHONPATH=path, MUSTER_HOOK=marshal.dumps(conf).hex())


def inspection_conf(folder: str, rank: int, socket_path: str) -> dict[str, Any]:
    """Return what the site hook needs so that a rank writes its stacks on request, and a note about an exception.

    Torch in the rank answers at `socket_path`.
    """
    stack, note = (rank_file(folder, rank, kind) for kind in ("stack", "exception.json"))
    return {"path": stack, "signal": int(STACKS_SIGNAL), "socket": socket_path, "note": note}


def write_hook(folder: str, sources: Mapping[str, str | bytes]) -> None:
    """Write the site hook to a directory of its own.

    `sources` is what `bootstrap.hook_sources` returns, possibly with bytecode after it. That is valid if the source has
    the time that it says: so the source gets it.
    """
    for name, source in sources.items():
        path = os.path.join(folder, name)
        for directory in (folder, os.path.dirname(path)):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        with open(path, "wb") as file:
            file.write(source.encode() if isinstance(source, str) else source)
        if isinstance(source, bytes):
            module = os.path.basename(path).partition(".")[0]
            text = os.path.join(os.path.dirname(os.path.dirname(path)), f"{module}.py")
            os.utime(text, (0, int.from_bytes(source[8:12], "little")))


class HookedPython:
    """A Python under the site hook, and the socket between it and the agent."""

    pid = 0
    """0 until it is known: another process may fork it."""
    sock: socket.socket
    """Set once it is started."""

    def __init__(self) -> None:
        self.connected = False
        self.tracer: Tracer | None = None
        """Prints the messages if tracing is on."""
        self._data = b""
        self._orders = 0

    def start(
        self,
        argv: list[str],
        env: Mapping[str, str],
        cwd: str,
        files: tuple[int, int, int],
        folder: str,
        keep: Iterable[int] = (),
        **conf: Any,
    ) -> None:
        """Start it.

        `files` are its stdin, stdout and stderr, `folder` holds the site hook, `conf` is the hook's configuration.
        """
        self.sock, theirs = socket.socketpair()
        self.connected = True
        try:
            env = hook_env(env, folder, fd=theirs.fileno(), agent=os.getpid(), **conf)
            self.pid = spawn(argv, env, cwd, *files, keep=(theirs.fileno(), *keep))
        finally:
            theirs.close()

    def request_fork(self, children: Mapping[str, Any], fds: Iterable[int] = ()) -> int:
        """Request children {name: what the site hook needs}; return the number of the request."""
        self._orders += 1
        passed = list(fds)
        order = {"order": self._orders, "children": children, "passes": len(passed)}
        if self.tracer is not None:
            self.tracer.says({"kind": "fork", **order})
        data = json.dumps(order).encode()
        data = len(data).to_bytes(4, "big") + data
        sent = socket.send_fds(self.sock, [data], passed) if passed else 0
        self.sock.sendall(data[sent:])
        return self._orders

    def messages(self) -> list[dict[str, Any]] | None:
        """Return new messages, each with its `kind`; None after the end of the connection or an invalid message.

        Blocks if there is none.
        """
        try:
            more = self.sock.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        if not more:
            return None
        self._data += more
        found = []
        while len(self._data) >= 4:
            end = 4 + int.from_bytes(self._data[:4], "big")
            if len(self._data) < end:
                break
            try:
                message = json.loads(self._data[4:end])
                message["kind"] = message.pop("op")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                return None
            if self.tracer is not None:
                self.tracer.heard(message)
            found.append(message)
            self._data = self._data[end:]
        return found

    def close(self) -> None:
        """Close the connection; a fork server then exits by itself."""
        if self.connected:
            self.sock.close()
            self.connected = False
