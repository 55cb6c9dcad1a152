"""muster: run an unchanged distributed training script, or a Python function, on any hosts, with any launcher.

    import muster

    results = muster.run(train, lr=0.1, hosts="n[1-2]", nproc_per_node=4)   # what train returned, by rank
    run = muster.submit(train, lr=0.1, slurm=True, nnodes=2, nproc_per_node=8, time="4:00:00")
    run = muster.attach("last")

Importing muster imports nothing else; each name below is imported when it is first used.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muster.agent.rank_info import detect as detect_rank
    from muster.core.results import RunResult, RunState
    from muster.errors import MusterError, RemoteError
    from muster.python.executor import Executor
    from muster.python.rank import Preemption, Rank, get_logger, init, on_preemption, progress
    from muster.python.roles import RoleHosts, roles
    from muster.python.run import Run, attach
    from muster.python.session import Cluster, hold
    from muster.python.signatures import Role, RunKeywords, run, submit
    from muster.python.sweep import Point, Sweep

__all__ = [
    "Cluster",
    "Executor",
    "MusterError",
    "Point",
    "Preemption",
    "Rank",
    "RemoteError",
    "Role",
    "RoleHosts",
    "Run",
    "RunKeywords",
    "RunResult",
    "RunState",
    "Sweep",
    "__version__",
    "attach",
    "detect_rank",
    "get_logger",
    "hold",
    "init",
    "on_preemption",
    "progress",
    "roles",
    "run",
    "submit",
]

_PLACES = {
    "detect_rank": ("muster.agent.rank_info", "detect"),
    **dict.fromkeys(("RunResult", "RunState"), ("muster.core.results", "")),
    **dict.fromkeys(("MusterError", "RemoteError"), ("muster.errors", "")),
    "Executor": ("muster.python.executor", ""),
    **dict.fromkeys(
        ("Preemption", "Rank", "get_logger", "init", "on_preemption", "progress"), ("muster.python.rank", "")
    ),
    **dict.fromkeys(("RoleHosts", "roles"), ("muster.python.roles", "")),
    **dict.fromkeys(("Run", "attach"), ("muster.python.run", "")),
    **dict.fromkeys(("Cluster", "hold"), ("muster.python.session", "")),
    **dict.fromkeys(("Point", "Sweep"), ("muster.python.sweep", "")),
    **dict.fromkeys(("Role", "RunKeywords", "run", "submit"), ("muster.python.signatures", "")),
}
"""Module and name of each public name; an empty name is the public one."""


if not TYPE_CHECKING:  # so that a type checker reports names that do not exist

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in _PLACES:
            raise AttributeError(f"module 'muster' has no attribute {name!r}")
        from importlib import import_module

        module, own = _PLACES[name]
        found = getattr(import_module(module), own or name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
