"""What the stand-in programs share: hosts that are all this machine, options, and tasks that start and end together.

A stand-in does what a test needs of the real program, and refuses the rest: an option that it does not know is an
error. It is trusted because `tests/test_launchers.py` runs the same tests on it and on the real program.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import signal
import subprocess
import threading
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, NoReturn

NODES = ("n1", "n2", "n3")
"""All hosts; the head, where a test starts its programs, is none of them."""

ADDRESS = "127.0.0.1"
"""The address of each host."""

GPUS = 4
"""Number of GPUs per node."""

HOST = "STANDIN_HOST"
"""The variable with the host of a process, which replaces the host's own name."""

SLURM = {
    "SLURM_PROCID": "rank",
    "SLURM_LOCALID": "local_rank",
    "SLURM_NODEID": "node",
    "SLURM_NTASKS": "size",
    "SLURM_NPROCS": "size",
    "SLURM_STEP_NUM_TASKS": "size",
    "SLURM_NNODES": "nodes",
    "SLURM_STEP_NUM_NODES": "nodes",
    "SLURM_TASKS_PER_NODE": "tasks_per_node",
    "SLURM_STEP_TASKS_PER_NODE": "tasks_per_node",
    "SLURM_STEP_NODELIST": "node_list",
    "SLURMD_NODENAME": "host",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "rank",
    "OMPI_COMM_WORLD_SIZE": "size",
    "OMPI_COMM_WORLD_LOCAL_RANK": "local_rank",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "local_size",
    "OMPI_COMM_WORLD_NODE_RANK": "local_rank",
    "PMIX_RANK": "rank",
}
HYDRA = {
    "PMI_RANK": "rank",
    "PMI_SIZE": "size",
    "MPI_LOCALRANKID": "local_rank",
    "MPI_LOCALNRANKS": "local_size",
}


@dataclass(frozen=True)
class Task:
    """One process of a step. The tables above have its fields by the names of the real programs."""

    rank: int
    local_rank: int
    local_size: int
    size: int
    node: int
    nodes: int
    host: str
    node_list: str
    tasks_per_node: str

    def variables(self, dialect: dict[str, str]) -> dict[str, str]:
        """Return the variables that identify the process."""
        return {name: str(getattr(self, field)) for name, field in dialect.items()} | {HOST: self.host}


def tasks_of(counts: dict[str, int]) -> list[Task]:
    """Return so many tasks on each of these hosts, ranks numbered along the hosts."""
    tasks: list[Task] = []
    for node, (host, count) in enumerate(counts.items()):
        for local_rank in range(count):
            tasks.append(
                Task(
                    rank=len(tasks),
                    local_rank=local_rank,
                    local_size=count,
                    size=sum(counts.values()),
                    node=node,
                    nodes=len(counts),
                    host=host,
                    node_list=folded(counts),
                    tasks_per_node=repeated(counts.values()),
                )
            )
    return tasks


def folded(hosts: Iterable[str]) -> str:
    """Write hosts in Slurm's notation: `n[1-2]`, `n[1,3]`, `n2`."""
    spans: list[list[int]] = []
    for number in sorted(int(host[1:]) for host in hosts):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
    return f"n{words}" if words.isdigit() else f"n[{words}]"


def unfolded(text: str) -> list[str]:
    """Parse Slurm's notation of hosts."""
    hosts: list[str] = []
    for word, stem, spans in re.findall(r"(([^,\[\]]+)(?:\[([^\]]*)\])?)", text):
        if "[" not in word:
            hosts.append(stem)
            continue
        for span in spans.split(","):
            first, _, last = span.partition("-")
            hosts += [f"{stem}{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return hosts


def repeated(counts: Iterable[int]) -> str:
    """Write counts in Slurm's notation: `2(x3),1`."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    return ",".join(f"{count}(x{times})" if times > 1 else f"{count}" for count, times in runs)


def say(words: str) -> None:
    """Write a line to stderr without Python's buffer: a signal handler may print while another one does."""
    _write_all(2, f"{words}\n".encode())


def refuse(words: str, status: int) -> NoReturn:
    """Print why nothing is done, and exit."""
    say(words)
    raise SystemExit(status)


OPTIONAL = -1
"""In a table of options: the value may be left out, and stands behind `=`; without it the value is "1"."""


def read_options(
    words: list[str], table: dict[str, tuple[str, int]], unknown: Callable[[str], NoReturn], attached: bool = False
) -> tuple[list[tuple[str, str]], list[str]]:
    """Split a command line at its first word that is no option.

    `table` says for each spelling what it means and how many values follow; several values are joined by blanks.
    `--long=value` is understood, and with `attached` also `-Nvalue`.
    """
    given: list[tuple[str, str]] = []
    words = list(words)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        spelling, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if attached and spelling not in table and word[:2] in table:
            spelling, equals, value = word[:2], "=", word[2:]
        if spelling not in table:
            unknown(word)
        meaning, count = table[spelling]
        if count == OPTIONAL:
            value = value if equals else "1"
        elif equals:
            if count != 1:
                unknown(word)
        elif len(words) < count:
            unknown(word)
        else:
            value = " ".join(words.pop(0) for _ in range(count))
        given.append((meaning, value))
    return given, words


def job_variables(job: str, hosts: Iterable[str], gpus: int) -> dict[str, str]:
    """Return the variables that Slurm sets for every process of a job."""
    hosts = list(hosts)
    variables = {
        "SLURM_JOB_ID": job,
        "SLURM_JOBID": job,
        "SLURM_JOB_NODELIST": folded(hosts),
        "SLURM_NODELIST": folded(hosts),
        "SLURM_JOB_NUM_NODES": str(len(hosts)),
        "SLURM_NNODES": str(len(hosts)),
    }
    if gpus:
        variables["SLURM_GPUS_PER_NODE"] = variables["SLURM_GPUS_ON_NODE"] = str(gpus)
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in range(gpus))
    return variables


def login_environment(host: str) -> dict[str, str]:
    """Return sshd's environment for a command on a host: only HOME is the caller's, so that a test can have its own.

    SSH_CLIENT is omitted: a bash that sees it reads ~/.bashrc, and the user's own file must not affect a test.
    """
    person = pwd.getpwuid(os.getuid())
    return {
        "HOME": os.environ.get("HOME", person.pw_dir),
        "USER": person.pw_name,
        "LOGNAME": person.pw_name,
        "SHELL": person.pw_shell,
        "PATH": f"{Path(__file__).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SSH_CONNECTION": f"{ADDRESS} 50000 {ADDRESS} 22",
        HOST: host,
    }


def unknown_to_ssh(host: str) -> str:
    """Return ssh's message for an unknown host."""
    return f"ssh: Could not resolve hostname {host}: Name or service not known"


def exit_status(returncode: int) -> int:
    """Return the exit status; a signal becomes 128 + n."""
    return 128 - returncode if returncode < 0 else returncode


class Step:
    """Tasks whose output is passed on line by line, and which leave nothing behind."""

    def __init__(self, label: bool = False):
        self.label = label
        self.ended: dict[int, int] = {}
        """The return codes, by rank, in the order in which tasks ended."""
        self._running: dict[int, Task] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._writing = threading.Lock()
        _prctl(_SET_CHILD_SUBREAPER, 1)

    def start(
        self, task: Task, command: list[str], environment: dict[str, str], output: IO[bytes] | None = None
    ) -> None:
        """Start one task; raise OSError if there is no such program. With `output` all its output goes there."""
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output or subprocess.PIPE,
            stderr=output or subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._running[process.pid] = task
        self._processes[task.rank] = process

    def feed(self, ranks: Container[int]) -> None:
        """Copy stdin to these tasks; the others read nothing."""
        readers = []
        for rank, process in self._processes.items():
            assert process.stdin is not None
            if rank in ranks:
                readers.append(process.stdin)
            else:
                process.stdin.close()
        if readers:
            threading.Thread(target=_copy, args=(readers,), daemon=True).start()

    def wait(self, on_end: Callable[[Task, int], None]) -> None:
        """Pass on output until all tasks have ended; report each end. Call `feed` before."""
        threads = []
        for rank, process in self._processes.items():
            for stream, target in ((process.stdout, 1), (process.stderr, 2)):
                if stream is None:
                    continue
                prefix = f"{rank}: ".encode() if self.label else b""
                threads.append(threading.Thread(target=self._pass_on, args=(stream, target, prefix)))
                threads[-1].start()
        while self._running:
            pid, status = os.waitpid(-1, 0)
            task = self._running.pop(pid, None)
            if task is not None:
                returncode = os.waitstatus_to_exitcode(status)
                self._processes[task.rank].returncode = returncode
                self.ended[task.rank] = returncode
                on_end(task, returncode)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.kill()
        for thread in threads:
            thread.join()

    def signal(self, number: int) -> None:
        """Send a signal to the running tasks, not to their children."""
        for pid in self._running:
            os.kill(pid, number)

    def end(self, grace: float) -> None:
        """Ask the tasks to exit, and kill what is left of them after so many seconds."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: self.kill())
        signal.setitimer(signal.ITIMER_REAL, grace)

    def kill(self) -> None:
        """Kill the tasks and all their descendants: this process is their subreaper."""
        while found := _descendants():
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not self._reap(found):
                return

    def _reap(self, killed: list[int]) -> bool:
        """Collect exited children that are not tasks; return whether there were any."""
        strangers = [pid for pid in killed if pid not in self._running]
        for pid in strangers:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # it is a grandchild: another process's child until that one is dead
        return bool(strangers)

    def _pass_on(self, stream: IO[bytes], target: int, prefix: bytes) -> None:
        for line in stream:
            if prefix and not line.endswith(b"\n"):
                line += b"\n"
            with self._writing:
                try:
                    _write_all(target, prefix + line)
                except BrokenPipeError:
                    pass  # no reader is left; the task must not be blocked


def _copy(readers: list[IO[bytes]]) -> None:
    while piece := os.read(0, 65536):
        for reader in readers:
            try:
                reader.write(piece)
                reader.flush()
            except (BrokenPipeError, ValueError):
                pass
    for reader in readers:
        try:
            reader.close()
        except BrokenPipeError:
            pass


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _end_with_parent() -> None:
    """Run in a task before it starts: the kernel kills it when the stand-in is killed."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def _descendants() -> list[int]:
    """Return the living descendants of this process."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]
