"""The site hook, which makes a plain `python script.py` a fork server, a rank, or the store process.

It is the only module in a directory that is first on PYTHONPATH, so Python imports it as `sitecustomize` before the
script: when the interpreter is complete, and before any of the user's code. It removes its traces. What it does then
depends on the `mode` in MUSTER_HOOK:

    prove   report that the hook works, and the version of torch; continue
    rank    set up a rank; continue, and Python runs the script
    serve   import torch, then fork ranks when the agent asks. Each child continues, and Python itself runs the script
            in it: no frame of muster is below it, and `__main__`, exits, signals and tracebacks are Python's own
    nursery import torch, then fork a fork server for each run of a session, which becomes that of its command line
    store   serve the store of an attempt until the agent ends this process

The code for each mode is in the modules beside this one. Only those that the mode needs are read, because each rank
pays for them, and none of them remains in `sys.modules`: a module of the user may have the same name.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PARTS = "_muster_hook"
"""The package of the other modules, and its directory beside this file."""


def _enter() -> dict[str, Any]:
    """Remove all traces of the hook, and return the configuration."""
    import marshal  # part of the interpreter, unlike json: it needs no import from a file

    conf: dict[str, Any] = marshal.loads(bytes.fromhex(os.environ.pop("MUSTER_HOOK")))
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    sys.path_importer_cache.pop(folder, None)
    if conf["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = conf["pythonpath"]
    return conf


def _part(name: str) -> Any:
    """Import another module of the hook, with what it imports of the hook, without a trace in `sys`."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), _PARTS)
    package: Any = type(sys)(_PARTS)
    package.__path__ = [folder]  # not by `sys.path`: a script's own Python may ignore PYTHONPATH
    sys.modules[_PARTS] = package
    try:
        return __import__(f"{_PARTS}.{name}", fromlist=(name,))
    finally:
        for module in [module for module in sys.modules if module.partition(".")[0] == _PARTS]:
            del sys.modules[module]
        sys.path_importer_cache.pop(folder, None)


def _theirs() -> bool:
    """Import the sitecustomize that the hook precedes; return True if there is one."""
    import _frozen_importlib
    import _frozen_importlib_external

    spec = _frozen_importlib_external.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None:
        return False
    module = _frozen_importlib.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return True


def _main() -> bool:
    conf = _enter()
    if conf["mode"] in ("serve", "nursery"):
        warm = None
        try:
            warm = _part("fork_server").ForkServer(conf) if conf["mode"] == "serve" else _part("nursery").Nursery(conf)
            warm.prepare(_theirs)
            warm.serve()
        finally:
            # In any case only a child that is to run the script may continue from here.
            if warm is None or not warm.leaving:
                os._exit(1)
        if warm.their_error is not None:
            raise warm.their_error
        theirs: bool = warm.theirs
        return theirs
    if conf["mode"] == "prove":
        _part("probe").prove(conf)
    elif conf["mode"] == "store":
        _part("store").keep_store(conf["fd"], *conf["store"])
    elif conf["mode"] == "rank":
        _part("rank").become_rank(conf["stack"], conf["pipes"])
        sys.modules.pop("__future__", None)
    return _theirs()


if not _main():
    raise ImportError("nothing to customize", name="sitecustomize")
