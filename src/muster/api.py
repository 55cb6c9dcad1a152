"""Start, watch and stop runs from a Python program.

    from muster import api

    run = api.start(api.prepare(["train.py", "--lr", "0.1"], nproc_per_node=4))
    outcome = run.result()

Nothing here prints, ends the process or takes a signal, unless that is asked for (`Foreground`). Nothing changes the
directory, the environment, the umask or the limits of the process, and no child of it is adopted, waited for or killed
but muster's own. Any thread may call these functions, and several may at once. What a run has to say goes to views and
callbacks, which are called in the thread of the run.

The command line stands on this. It is a foundation: names may still change.
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
from muster.linux import processes
from muster.rundir import homes
from muster.rundir.finding import find_run, namesakes
from muster.rundir.run import Run
from muster.rundir.store import store_at
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
    """Work out what a command and options mean, as `muster run` does. Nothing is written, and nothing is started.

    `command`: the script and its arguments; with `module=True` a module, with `no_python=True` a program.
    `options`: those of `muster run`, by their keys in muster.toml (`nproc_per_node=4`, `hosts="n1,n2"`, `detach=True`).
    Neither muster.toml nor variables such as MUSTER_HOSTS are read.
    `env`: the environment that ranks inherit and that says where runs are kept (MUSTER_HOME), instead of os.environ.
    `output`: views are shown what ranks write, those that the option `ranks` names or all. Files of the run have it
    in any case.
    `progress` and `warn` are called with words for a person, while the run is prepared and started.
    `foreground`: what of this process belongs to the run; nothing without it.

    Raises `muster.errors.InvalidRequest` for what cannot be started as asked.
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
    """Start a run whose `drive` the caller calls next, in whatever thread: until then ranks on this machine wait.

    Raises `MusterError`; then nothing is left of it. Unless you have a thread to spare for the run, take `start`.
    """
    asked, options = context.asked, context.options
    _tell_of_others(context)
    # imported late: a run on this machine starts sooner without the modules of the others
    if options.scheduled:
        from muster.runner import scheduled

        return scheduled.start(context)
    if asked.hosts or options.detach:
        from muster.runner import hosts

        return hosts.start(context)
    from muster.runner import local

    return local.start(context)


def start(context: RunContext, *views: View) -> RunHandle:
    """Start a run, which a thread of its own sees to its end; gives the handle to wait for it, stop it and watch it.

    Returns when the agents of the hosts are there, or a scheduler has the job; the ranks start soon after. `views` are
    shown the run from its beginning. Unless it is detached, which shows nothing, it ends when this process does.
    Raises `MusterError` for what does not start; then nothing is left of it.
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
    except KeyboardInterrupt:  # in this thread, so nobody gets the handle
        unwanted.set()
        with suppress(Empty):
            if isinstance(handle := begun.get_nowait(), RunHandle):
                handle.stop()
        raise
    if isinstance(found, RunHandle):
        return found
    raise found


def find(which: str, env: Mapping[str, str] | None = None, run_dir: str | None = None) -> RunHandle:
    """The handle of a run that is there already, by its id, its name, the beginning of its id, or `last`, whoever has
    started it. Raises `InvalidRequest` where there is none."""
    from muster.runner.detached import DetachedRun

    store = store_at(run_dir, dict(os.environ if env is None else env))
    return DetachedRun(find_run(store, which, _lives))


def _lives(run: Run) -> bool:
    from muster.client.reconcile import lives

    return lives(run)


def _tell_of_others(context: RunContext) -> None:
    """Say that runs are not kept where they should be, or that a run of the same name lives: `muster kill NAME` would
    fit both."""
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
            context.warn(f"warning: {other.id} has the same name, {name}, and has not ended")
