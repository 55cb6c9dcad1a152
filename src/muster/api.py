"""Start, watch and stop runs from a Python program.

    from muster import api

    run = api.start(api.prepare(["train.py", "--lr", "0.1"], nproc_per_node=4))
    result = run.result()
    print(result.state, result.code)

No function prints, exits the process or installs a signal handler, unless the caller asks for it with `Foreground`. The
working directory, environment, umask and resource limits of the process do not change. Only children that muster
started are waited for or killed. All functions are thread-safe. Output and messages of a run go to views and callbacks,
which are called in the thread of the run.

The command line is built on this module. Names may still change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event

from muster.config.options import RUN, RunOptions
from muster.config.parse import ParsedArgs, from_table
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.rundir import homes
from muster.rundir.finding import find_run, namesakes
from muster.rundir.run import Run
from muster.rundir.store import store_at
from muster.rundir.sweeps import is_point, is_sweep
from muster.runner.context import NOTHING, Foreground, RunContext, Say, resolve
from muster.runner.handle import RunHandle
from muster.ui.view import Silent, View

__all__ = ["Foreground", "RunContext", "RunHandle", "Silent", "View", "begin", "find", "prepare", "start"]


def prepare(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: bool = False,
    progress: Say = lambda text: None,
    warn: Say = lambda text: None,
    foreground: Foreground = NOTHING,
    **options: object,
) -> RunContext:
    """Resolve a command and options to a run that can be started, as `muster run` does; write and start nothing.

    `command`: the script and its arguments. With `module=True` the first item is a module, with `no_python=True` a
    program.
    `options`: the options of `muster run` by their keys in muster.toml (`nproc_per_node=4`, `hosts="n1,n2"`,
    `detach=True`). An option that is None counts as not given. Neither muster.toml nor environment variables such as
    MUSTER_HOSTS are read.
    `env`: the environment that ranks inherit and that locates the run directories (MUSTER_HOME); os.environ if None.
    `output`: pass the output of ranks to the views: of all ranks, or of those in the option `ranks`. The log files in
    the run directory have it in any case.
    `progress`, `warn`: called with messages for the user while the run is prepared and started.
    `foreground`: whether the run may use the signals, stdin and terminal of this process; the default uses none.

    Raises `muster.errors.InvalidRequest` if the command or an option is invalid.
    """
    began = time.monotonic()
    env = dict(os.environ if env is None else env)
    given = {key: value for key, value in options.items() if value is not None}
    record = RunOptions(("argv", from_table(RUN, given, "options of the run")))
    parsed = ParsedArgs({}, list(command), False)
    wants = (True if record.ranks is None else list(record.ranks)) if output else False
    store = store_at(record.run_dir, env)
    argv = ["run", *command]
    return resolve(argv, parsed, record, env, began, store, lambda *_: Silent(wants), progress, warn, foreground)


def begin(context: RunContext) -> RunHandle:
    """Start a run and return its handle, whose `drive` the caller must call next, in any thread.

    Until then, ranks on this machine wait. Use `start` unless you want to provide the thread of the run yourself.

    Raises `muster.errors.MusterError` if the run does not start; everything started so far is cleaned up then.
    """
    asked, options = context.asked, context.options
    if not is_point(context.store, context.run_id):  # a sweep of thousands of points lists its namesakes once
        tell_of_others(context)
    # imported late: a run on this machine starts faster without the modules of the other kinds
    if options.on is not None:
        from muster.runner import held

        return held.start(context)
    if options.scheduled:
        from muster.runner import scheduled

        return scheduled.start(context)
    if asked.hosts or options.detach or asked.job.hold is not None or asked.roles:
        from muster.runner import hosts

        return hosts.start(context)
    from muster.runner import local

    return local.start(context)


def start(context: RunContext, *views: View) -> RunHandle:
    """Start a run in a new thread and return its handle, with which to wait for it, stop it and watch it.

    Returns once the agents are connected, or the scheduler has accepted the job; the ranks start soon after. `views`
    receive the events and output of the run from its beginning; a detached run sends them nothing. A run that is not
    detached is terminated when this process exits.

    Raises `muster.errors.MusterError` if the run does not start; everything started so far is cleaned up then.
    """
    begun: SimpleQueue[RunHandle | BaseException] = SimpleQueue()
    unwanted = Event()

    def work() -> None:
        try:
            handle = begin(context)
            for view in views if not handle.detached else ():
                handle.watch(view)
        except BaseException as error:
            begun.put(error)
            return
        begun.put(handle)
        if unwanted.is_set():
            handle.stop()
        with suppress(BaseException):  # `wait` raises it
            handle.drive()

    processes.start_thread(work)
    try:
        found = begun.get()
    except KeyboardInterrupt:  # raised in this thread, so the caller never gets the handle
        unwanted.set()
        with suppress(Empty):
            if isinstance(handle := begun.get_nowait(), RunHandle):
                handle.stop()
        raise
    if isinstance(found, RunHandle):
        return found
    raise found


def find(which: str, env: Mapping[str, str] | None = None, run_dir: str | None = None) -> RunHandle:
    """Return the handle of an existing run, by its id, its name, a prefix of its id, or `last`.

    It does not matter which process started the run. Of several runs with the name it is the one that has not ended, or
    the newest. `env` and `run_dir` (the option `--run-dir`) locate the run directories, as in `prepare`.

    Raises `muster.errors.InvalidRequest` if no run matches, or the prefix is ambiguous.
    """
    from muster.runner.detached import DetachedRun

    store = store_at(run_dir, dict(os.environ if env is None else env))
    run = find_run(store, which, _lives)
    if is_sweep(run):
        raise InvalidRequest(f"{run.id} is several runs", f"name one of them, such as {run.id}.0")
    return DetachedRun(run)


def _lives(run: Run) -> bool:
    from muster.client.reconcile import lives

    return lives(run)


def tell_of_others(context: RunContext) -> None:
    """Report a temporary MUSTER_HOME, and warn of unfinished runs of the same name: `muster kill NAME` matches both.

    Raises `InvalidRequest` for a second session of one name: `--on NAME` could mean both.
    """
    store = context.store
    temporary = homes.why_temporary(context.env)
    if temporary and store.root == store.homes[0]:
        context.progress(temporary)
    name = context.asked.job.name
    if not name:
        return
    from muster.client.reconcile import has_not_ended  # late: most runs have no name

    for other in namesakes(context.store, name):
        if has_not_ended(other):
            if context.asked.job.hold is not None and (other.job.get("job") or {}).get("hold") is not None:
                raise InvalidRequest(
                    f"there is a session {name}: {other.id}",
                    f"use it: muster run --on {name}; end it: muster release {name}; or give another --name",
                )
            context.warn(f"warning: {other.id} has the same name, {name}, and has not ended")
