"""Torch's own server, which answers questions about a rank while its Python is blocked."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LOGGER = "torch.distributed.c10d_logger"
"""The module through whose `_WaitCounter` each call of init_process_group goes."""


def serve_from_first_group(logger: Any, path: str) -> None:
    """Have torch start its server at `path` when this process calls init_process_group for the first time.

    `logger` is the module `LOGGER`. The server has C++ threads, which answer while Python is blocked. They must not
    be there before: a thread more makes Python 3.12 warn of each fork. From then on torch has threads of its own. A
    torch without a server, or whose private names have changed, is left alone.
    """
    real: Any = getattr(logger, "_WaitCounter", None)
    if real is None:
        return
    rank = os.getpid()

    def counter(name: str, *more: Any) -> Any:
        if str(name).endswith(".init_process_group"):
            logger._WaitCounter = real
            if os.getpid() == rank:  # not in a child that it has forked
                _start_server(path)
        return real(name, *more)

    logger._WaitCounter = counter


def _start_server(path: str) -> None:
    """Start torch's server without a line in the log; do nothing if that is impossible."""
    import ctypes

    try:
        found = os.path.join(os.path.dirname(sys.modules["torch"].__file__ or ""), "lib", "libc10.so")
        # It writes a line when it starts, and three when it ends: it is never ended.
        level = ctypes.c_int.in_dll(ctypes.CDLL(found), "FLAGS_caffe2_log_level")
        server_type: Any = sys.modules["torch._C._distributed_c10d"]._WorkerServer
        before, level.value = level.value, 4
        try:
            server = server_type(path)
        finally:
            level.value = before
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    except Exception:
        return


class Until:
    """A finder that is asked for one module, `name`, and calls `then` with it once it is imported.

    It removes itself when it is asked, and the other finders find the module.
    """

    def __init__(self, name: str, then: Any) -> None:
        self.name, self.then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of the other finders for the one module."""
        if name != self.name:
            return None
        finders: list[Any] = sys.meta_path
        finders.remove(self)
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        real, then = spec.loader, self.then

        class Loader(type(real)):  # type: ignore[misc]
            def exec_module(self, module: Any) -> None:
                module.__spec__.loader = module.__loader__ = real
                real.exec_module(module)
                then(module)

        loader = object.__new__(Loader)
        loader.__dict__.update(real.__dict__)
        spec.loader = loader
        return spec
