"""What a foreign launcher starts in place of the script: `python muster-….pyz [--local-rank=N] RUN`.

It learns from the launcher's variables which rank it is, tells the agent of its machine, and gets from there what to
run. Then it starts that as its only child, in the rank's log files and under torchrun's names, passes signals on, and
tells how it ended: a launcher may hide a status, this does not.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from muster.agent.forkserver import hook_env
from muster.agent.rank_environment import environment
from muster.agent.rank_info import Identity, detect
from muster.linux import processes
from muster.linux.descriptors import open_standard_descriptors
from muster.protocol.frames import VERSION, FrameDecoder, Refused, encode_frame
from muster.protocol.local_sockets import AGENT, TOKEN, Sockets

_PASSED_ON = processes.CATCHABLE - {signal.SIGCHLD}

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those of them by which a launcher asks a rank to end: they are passed on whatever the rank does about it."""

_NOTED = 10.0
"""Seconds in which the agent must have taken note of an end."""

_BUSY = 60.0
"""Seconds for which an agent is asked again that takes no connection: many ranks may come at once."""

CANNOT = 125
"""The exit status where there is no agent, or it refuses."""


def main(words: list[str]) -> int:
    """Be a rank; gives its exit status, or does not return where a signal ended it."""
    open_standard_descriptors()
    if words[0] == "remote-exec":
        return remote_exec(words[1], words[2:])
    given = []
    while words and words[0].startswith("--"):
        given.append(words.pop(0))
    run = words[0]
    me = detect(os.environ)
    if me is None:
        return _refuse("the launcher tells nothing about ranks")
    agent = _reach(run)
    if agent is None:
        return _refuse(f"no agent of {run} answers on {socket.gethostname()}")
    order = _join(agent, me)
    if "refused" in order:
        return _refuse(order["refused"])
    return _supervise_child(agent, order, lambda: _start(order, given))


def remote_exec(run: str, words: list[str], env: Mapping[str, str] | None = None) -> int:
    """In place of ssh: `[-x] HOST WORDS…`, through the agents that are there already; gives the exit status.

    `env` is set there, and stands on no command line.
    """
    while words and words[0].startswith("-"):
        words = words[1:]
    agent = _reach(run)
    if agent is None:
        return _refuse(f"no agent of {run} answers on {socket.gethostname()}")
    agent.sendall(encode_frame("exec_request", host=words[0], words=words[1:], env=dict(env or {})))
    return int(_answer(agent, "exec_result").get("code", 255))


def _refuse(why: str) -> int:
    print(f"muster: {why}", file=sys.stderr, flush=True)
    return CANNOT


def _reach(run: str) -> socket.socket | None:
    """The agent of this machine, where the same user runs it: whoever else listens is not spoken to.

    The name depends on a token that is in the shim's archive, which only that user can read.
    """
    archive = __file__
    for _ in range(3):  # muster/agent/rank.py
        archive = os.path.dirname(archive)
    token = globals()["__loader__"].get_data(os.path.join(archive, TOKEN)).decode()
    deadline = time.monotonic() + _BUSY
    while True:
        try:
            return Sockets(run, token).connect(AGENT, os.getuid())
        except TimeoutError:
            if time.monotonic() > deadline:
                return None


def _join(agent: socket.socket, me: Identity) -> dict[str, Any]:
    agent.sendall(encode_frame("register", version=VERSION, **me._asdict()))
    return _answer(agent, "rank_command") or {"refused": "the agent of this machine has ended"}


def _answer(agent: socket.socket, kind: str) -> dict[str, Any]:
    """The next message of this kind; others are skipped. Empty when none comes."""
    frames = FrameDecoder()
    while True:
        data = agent.recv(1 << 16)
        for fields, _ in frames.feed(data):
            if fields["kind"] == kind:
                return fields
        if not data:
            return {}


def environment_of(order: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the rank, over what the launcher passes on."""
    found = environment(env, order["environment"], {})
    if order["hook"]:
        found = hook_env(found, order["hook"], mode="rank", stack=order["stack"], pipes=order["pipes"])
    return found


def inside(me: Identity, run: str) -> None:
    """Be a rank in this very process, which a launcher has spawned: a child calls the function or runs the script.

    Does not return; the process ends as its child did.
    """
    agent = _reach(run)
    order = _join(agent, me) if agent is not None else {"refused": f"no agent of {run} answers here"}
    if agent is None or "refused" in order:
        sys.exit(_refuse(order["refused"]))
    sys.exit(_supervise_child(agent, order, lambda: _fork(order, me)))


def _supervise_child(agent: socket.socket, order: Mapping[str, Any], start: Callable[[], int]) -> int:
    """Start the program of the rank, see it to its end, and tell of both; gives its exit status."""
    processes.become_subreaper()
    early: list[int] = []
    for number in _PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: early.append(number))
    try:
        pid = start()
    except OSError as error:
        _complain(order, error)
        _tell(agent, "exited", code=CANNOT, signal=None)
        _answer(agent, "recorded")
        return CANNOT
    asked: list[float] = []
    """When the launcher asked the rank to end."""

    def pass_on(number: int, _: object = None) -> None:
        """Send it to the rank; what a scheduler sends to all tasks ends none that has no handler for it."""
        if number in _ENDS:
            asked.append(time.monotonic())
        for catcher in [pid] if number in _ENDS else processes.catchers(pid, number):
            processes.send_signal(catcher, number)

    for number in _PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    for come in early:
        pass_on(come)
    _tell(agent, "started", pid=pid)
    noted = threading.Event()
    threading.Thread(target=_watch, args=(agent, pid, noted), daemon=True).start()
    code, ended_by = _wait(pid)
    _end_rest(order["grace"] if code == 0 else 0.0)
    _fill_redirected(order)
    _tell(agent, "exited", code=code, signal=ended_by, asked=asked[0] if asked else None)
    noted.wait(_NOTED)  # until it is written down: the launcher may end everything as soon as it sees this end
    if ended_by is not None:
        _exit_like_child(ended_by)
    return code if code is not None else CANNOT


def _fill_redirected(order: Mapping[str, Any]) -> None:
    """Copy what the rank wrote to files that the launcher was told to keep of it, else they would stay empty.

    deepspeed's --enable_each_rank_log and torchrun's --redirects make such files the stdout and stderr of the shim.
    """
    for fd, path in zip((1, 2), order["logs"]):
        try:
            ours = os.fstat(fd)
            # a launcher that redirects nothing hands on its own file, which is the agent's
            of_launcher = os.stat(f"/proc/{os.getppid()}/fd/{fd}")
            if not stat.S_ISREG(ours.st_mode) or os.path.samestat(ours, of_launcher):
                continue
            with open(path, "rb") as log:
                while data := log.read(1 << 20):
                    os.write(fd, data)
        except OSError:
            pass  # the rank's own log has everything


def _watch(agent: socket.socket, pid: int, noted: threading.Event) -> None:
    """Without its agent a rank must not live: no launcher sees to that."""
    try:
        gone = not _answer(agent, "recorded")
    except (OSError, Refused):
        gone = True
    if gone:
        processes.send_signal(pid, signal.SIGKILL)
    noted.set()


def _tell(agent: socket.socket, kind: str, **fields: Any) -> None:
    try:
        agent.sendall(encode_frame(kind, **fields))
    except OSError:
        pass  # the agent has ended; `_watch` sees that too


def _complain(order: Mapping[str, Any], error: OSError) -> None:
    """Leave word in the rank's log, if it can be written."""
    try:
        with open(processes.open_first(order["err"]), "w") as file:
            what = error.filename or order["argv"][0]
            file.write(f"muster: cannot start {what}: {processes.reason(error)}\n")
    except OSError:
        print(f"muster: {error}", file=sys.stderr, flush=True)


def _files(order: Mapping[str, Any]) -> tuple[int, int, int]:
    # a launcher passes its own stdin on to the only rank that it starts, or to the first
    stdin = 0 if order["stdin"] else os.open(os.devnull, os.O_RDWR)
    if order["screen"]:
        terminal = os.O_RDWR | os.O_NOCTTY
        return stdin, os.open(order["screen"], terminal), os.open(order["screen"], terminal)
    return stdin, processes.open_first(order["out"]), processes.open_first(order["err"])


def _start(order: Mapping[str, Any], given: list[str]) -> int:
    """Start the program of the rank; gives its pid."""
    argv = list(order["argv"])
    if order["args_at"] is not None:
        argv[order["args_at"] : order["args_at"]] = given
    env = environment_of(order, os.environ)
    return processes.spawn(argv, env, order["cwd"], *_files(order), cpus=order["cpus"])


def _fork(order: Mapping[str, Any], me: Identity) -> int:
    """Call the function, or run the script, in a child that is like this process; gives its pid."""
    import importlib
    import runpy
    import traceback

    parent, env = os.getpid(), environment_of({**order, "hook": ""}, os.environ)
    pid = processes.fork()
    if pid:
        return pid
    code: Any = 1
    try:
        os.setsid()
        for caught in _PASSED_ON:
            if signal.getsignal(caught) != signal.SIG_IGN:
                signal.signal(caught, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, fd in enumerate(_files(order)):
            os.dup2(fd, target)
        if not processes.set_pdeathsig(parent):
            os._exit(CANNOT)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(env)
        program = order["argv"][order["args_at"] - 1 :]
        module, colon, function = program[0].partition(":")
        sys.path[0] = os.getcwd() if colon else os.path.dirname(os.path.abspath(program[0]))
        sys.argv = program
        if colon:
            getattr(importlib.import_module(module), function)(me.rank, *map(_argument, program[1:]))
        else:
            runpy.run_path(program[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        # as plain Python would print it: without the frames that only brought it there
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>", runpy.__file__):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit((code or 0) & 255)


def _argument(word: str) -> Any:
    """A word of the command line as a function's argument: `2` is a number, as in `mp.spawn(main, args=(2,))`."""
    import ast

    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word


def _wait(pid: int) -> tuple[int | None, int | None]:
    """How the rank ended: (code, None) or (None, signal). What it leaves behind is collected too."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            if os.WIFSIGNALED(status):
                return None, os.WTERMSIG(status)
            return os.WEXITSTATUS(status), None


def _end_rest(patience: float) -> None:
    """What the rank left behind ends within this time by itself, or is ended."""
    deadline = time.monotonic() + patience
    while processes.leftover_descendants(os.getpid(), set()) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.kill_descendants(os.getpid())


def _exit_like_child(number: int) -> None:
    """End by the same signal, so that the launcher sees what happened."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), number)
    time.sleep(5)
