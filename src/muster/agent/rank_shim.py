"""The program that an external launcher starts instead of the script: `python muster-….pyz [--local-rank=N] RUN`.

It detects its rank from the launcher's variables, registers with the agent of its machine, and gets the command to run.
It starts that as its only child, with the rank's log files and torchrun's variables, forwards signals, and reports how
it exited: a launcher may hide an exit status.
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
from muster.linux.exits import Ended, next_exit
from muster.protocol.frames import VERSION, FrameDecoder, Refused, encode_frame
from muster.protocol.local_sockets import AGENT, TOKEN, Sockets

_PASSED_ON = processes.CATCHABLE - {signal.SIGCHLD}

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals by which a launcher asks a rank to exit: they are forwarded whatever the rank does about them."""

_NOTED = 15.0
"""Seconds within which the agent must acknowledge an exit: it waits with that while a peer may be cleaning up."""

_BUSY = 60.0
"""Seconds during which connecting to a busy agent is retried: many ranks may register at once."""

CANNOT = 125
"""Exit status if there is no agent, or it refuses."""


def main(words: list[str]) -> int:
    """Run a rank and return its exit status; does not return if a signal killed it."""
    open_standard_descriptors()
    if words[0] == "remote-exec":
        return remote_exec(words[1], words[2:])
    given = []
    while words and words[0].startswith("--"):
        given.append(words.pop(0))
    run = words[0]
    me = detect(os.environ)
    if me is None:
        return _refuse("the launcher sets no environment variables of ranks")
    agent = _reach(run)
    if agent is None:
        return _refuse(f"no answer from the agent of {run} on {socket.gethostname()}")
    order = _join(agent, me)
    if "refused" in order:
        return _refuse(order["refused"])
    return _supervise_child(agent, order, lambda: _start(order, given))


def remote_exec(run: str, words: list[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command on another node through the agents, instead of ssh: `[-x] HOST WORDS…`; return its exit status.

    `env` is set there, and is on no command line.
    """
    while words and words[0].startswith("-"):
        words = words[1:]
    agent = _reach(run)
    if agent is None:
        return _refuse(f"no answer from the agent of {run} on {socket.gethostname()}")
    agent.sendall(encode_frame("exec_request", host=words[0], words=words[1:], env=dict(env or {})))
    return int(_answer(agent, "exec_result").get("code", 255))


def _refuse(why: str) -> int:
    print(f"error: {why}", file=sys.stderr, flush=True)
    return CANNOT


def _reach(run: str) -> socket.socket | None:
    """Connect to the agent of this machine, if the same user runs it; other listeners are rejected.

    The socket's name depends on a token in the shim's archive, which only that user can read.
    """
    archive = __file__
    for _ in range(3):  # muster/agent/rank_shim.py
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
    return _answer(agent, "rank_command") or {"refused": "the agent on this machine has exited"}


def _answer(agent: socket.socket, kind: str) -> dict[str, Any]:
    """Return the next message of this kind, skipping others; empty if the connection ends first."""
    frames = FrameDecoder()
    while True:
        data = agent.recv(1 << 16)
        for fields, _ in frames.feed(data):
            if fields["kind"] == kind:
                return fields
        if not data:
            return {}


def environment_of(order: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the rank, over what the launcher passes on."""
    found = environment(env, order["environment"], {})
    if order["hook"]:
        found = hook_env(found, order["hook"], mode="rank", stack=order["stack"], pipes=order["pipes"])
    return found


def inside(me: Identity, run: str) -> None:
    """Be a rank in this process, which a launcher has spawned: a child calls the function or runs the script.

    Does not return; the process exits as its child did.
    """
    agent = _reach(run)
    order = _join(agent, me) if agent is not None else {"refused": f"no answer from the agent of {run}"}
    if agent is None or "refused" in order:
        sys.exit(_refuse(order["refused"]))
    sys.exit(_supervise_child(agent, order, lambda: _fork(order, me)))


def _supervise_child(agent: socket.socket, order: Mapping[str, Any], start: Callable[[], int]) -> int:
    """Start the rank's program, wait for its exit, and report both; return its exit status."""
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
    """When the launcher asked the rank to exit."""
    collected = threading.Event()
    """Set once its exit was collected: another process may have its pid then."""

    def pass_on(number: int, _: object = None) -> None:
        """Forward a signal to the rank; a scheduler's signal to all tasks is sent only to processes that handle it."""
        if number in _ENDS:
            asked.append(time.monotonic())
        if collected.is_set():
            return
        for catcher in [pid] if number in _ENDS else processes.catchers(pid, number):
            processes.send_signal(catcher, number)

    for number in _PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    for come in early:
        pass_on(come)
    _tell(agent, "started", pid=pid)
    noted = threading.Event()
    threading.Thread(target=_watch, args=(agent, pid, collected, noted), daemon=True).start()
    ended = _wait(pid)
    collected.set()
    code, ended_by = ended.code, ended.signal
    _end_rest(order["grace"] if code == 0 else 0.0)
    _fill_redirected(order)
    found = ended._asdict()
    del found["pid"]
    _tell(agent, "exited", asked=asked[0] if asked else None, **found)
    noted.wait(_NOTED)  # until the exit is recorded: the launcher may kill everything as soon as it sees it
    if ended_by is not None:
        _exit_like_child(ended_by)
    return code if code is not None else CANNOT


def _fill_redirected(order: Mapping[str, Any]) -> None:
    """Copy the rank's output to files that the launcher was asked to write, which would otherwise stay empty.

    deepspeed's --enable_each_rank_log and torchrun's --redirects make such files the stdout and stderr of the shim.
    """
    for fd, path in zip((1, 2), order["logs"]):
        try:
            ours = os.fstat(fd)
            # a launcher that redirects nothing passes on its own file, which is the agent's
            of_launcher = os.stat(f"/proc/{os.getppid()}/fd/{fd}")
            if not stat.S_ISREG(ours.st_mode) or os.path.samestat(ours, of_launcher):
                continue
            with open(path, "rb") as log:
                while data := log.read(1 << 20):
                    os.write(fd, data)
        except OSError:
            pass  # the rank's own log has everything


def _watch(agent: socket.socket, pid: int, collected: threading.Event, noted: threading.Event) -> None:
    """Kill the rank when the connection to its agent ends, because no launcher does."""
    try:
        gone = not _answer(agent, "recorded")
    except (OSError, Refused):
        gone = True
    if gone and not collected.is_set():
        processes.send_signal(pid, signal.SIGKILL)
    noted.set()


def _tell(agent: socket.socket, kind: str, **fields: Any) -> None:
    try:
        agent.sendall(encode_frame(kind, **fields))
    except OSError:
        pass  # the agent has exited; `_watch` detects that


def _complain(order: Mapping[str, Any], error: OSError) -> None:
    """Write an error to the rank's log, if possible."""
    try:
        with open(processes.open_first(order["err"]), "w") as file:
            what = error.filename or order["argv"][0]
            file.write(f"error: cannot start {what}: {processes.reason(error)}\n")
    except OSError:
        print(f"error: {error}", file=sys.stderr, flush=True)


def _files(order: Mapping[str, Any]) -> tuple[int, int, int]:
    # a launcher passes its own stdin to the only rank that it starts, or to the first
    stdin = 0 if order["stdin"] else os.open(os.devnull, os.O_RDWR)
    if order["screen"]:
        terminal = os.O_RDWR | os.O_NOCTTY
        return stdin, os.open(order["screen"], terminal), os.open(order["screen"], terminal)
    return stdin, processes.open_first(order["out"]), processes.open_first(order["err"])


def _start(order: Mapping[str, Any], given: list[str]) -> int:
    """Start the program of the rank; return its pid."""
    argv = list(order["argv"])
    if order["args_index"] is not None:
        argv[order["args_index"] : order["args_index"]] = given
    env = environment_of(order, os.environ)
    return processes.spawn(argv, env, order["cwd"], *_files(order), cpus=order["cpus"])


def _fork(order: Mapping[str, Any], me: Identity) -> int:
    """Call the function, or run the script, in a child that is like this process; return its pid."""
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
        program = order["argv"][order["args_index"] - 1 :]
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
        # as plain Python prints it: without the frames of this module
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>", runpy.__file__):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit((code or 0) & 255)


def _argument(word: str) -> Any:
    """Return a command line word as a function's argument: `2` is a number, as in `mp.spawn(main, args=(2,))`."""
    import ast

    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word


def _wait(pid: int) -> Ended:
    """Return how the rank exited. Orphans are collected too."""
    while True:
        ended = next_exit()
        if ended is None:
            raise ChildProcessError(f"process {pid} of the rank is gone")
        if ended.pid == pid:
            return ended


def _end_rest(patience: float) -> None:
    """Give processes that the rank left this many seconds to exit, then kill them."""
    deadline = time.monotonic() + patience
    while processes.leftover_descendants(os.getpid(), set()) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.kill_descendants(os.getpid())


def _exit_like_child(number: int) -> None:
    """Exit by the same signal, so that the launcher sees what happened."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), number)
    time.sleep(5)
