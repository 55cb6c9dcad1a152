"""This machine, as planning must know it: its interpreters, its limits, its NUMA nodes. Starts no process."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from muster.config import trust
from muster.core.plurals import plural
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes, procfs
from muster.linux.hardware import gpu_buses
from muster.linux.hardware import read as _read


def current_folder() -> str:
    """The folder in which muster was started. Raises `NoWorkingDirectory` where it has been deleted."""
    try:
        return os.getcwd()
    except OSError as error:
        raise NoWorkingDirectory(processes.reason(error)) from None


def absolute(path: str) -> str:
    """A path as it is seen from there. Raises `NoWorkingDirectory`."""
    return os.path.normpath(path if os.path.isabs(path) else os.path.join(current_folder(), path))


def choose_python(
    given: str | None,
    program: str,
    cwd: str,
    env: Mapping[str, str],
    own: str,
    local: bool = True,
    warn: Callable[[str], object] = lambda text: None,
) -> tuple[str, str]:
    """(path, why) of the interpreter for the ranks.

    What was given; else the active virtual or conda environment; else `.venv` beside the script, if there is one, or in
    the current folder, but for one of another user; else the one that muster runs in. One given for
    other hosts (not `local`) need not exist here. `warn` is told of what is not trusted.
    """
    if given is not None and not local:
        return os.path.join(cwd, given) if "/" in given else given, "--python"
    if given is not None:
        path = _which(given, env)
        if path is None:
            raise InvalidRequest(f"--python {given}: there is no such program", "give the path of a Python interpreter")
        if os.path.basename(path) == given:
            return path, "--python"
        return absolute(given), "--python"
    for name, words in (
        ("VIRTUAL_ENV", "the active virtual environment"),
        ("CONDA_PREFIX", "the active conda environment"),
    ):
        if env.get(name):
            path = os.path.join(env[name], "bin", "python")
            if os.access(path, os.X_OK):
                return path, words
    places = [(os.path.dirname(os.path.join(cwd, program)), ".venv beside the script")] if program else []
    for folder, words in (*places, (cwd, ".venv in this folder")):
        venv = os.path.join(folder, ".venv")
        path = os.path.join(venv, "bin", "python")
        if os.access(path, os.X_OK):
            why = trust.why_not_venv(venv, env)
            if not why:
                return path, words
            warn(f"{venv} is ignored: {why}; if you trust it: `--python {path}`")
    return own, "the one muster runs in"


def _which(name: str, env: Mapping[str, str]) -> str | None:
    from shutil import which

    return which(name, path=env.get("PATH"))


def check_target(path: str | None, option: str) -> None:
    """Raise `InvalidRequest` for a file that could not be written in the end."""
    if path is None:
        return
    folder = os.path.dirname(absolute(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise InvalidRequest(
            f"{option} {path}: it cannot be written", "name a file in a folder that is there, and yours"
        )


def script_of_ours(name: str) -> str:
    """The text of a script that ranks run for muster; see `payloads/`."""
    from importlib.resources import files

    return files("muster.payloads").joinpath(name).read_text(encoding="utf-8")


def read_text(path: str, option: str) -> str:
    """The text of a file that an option names; raises `InvalidRequest`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError("NUL")
    except (OSError, ValueError) as error:
        reason = processes.reason(error) if isinstance(error, OSError) else "it is no text"
        raise InvalidRequest(f"{option} {path}: {reason}", "give the path of a text file") from None
    return text


_LONGEST_SCRIPT = 4 << 20
"""Bytes of a script that is read for all ranks."""


def is_stream(path: str, cwd: str) -> bool:
    """This path names what can be read only once, or by this process alone: /dev/stdin, a shell's `<(…)`."""
    full = os.path.join(cwd, path)
    if re.match(r"/dev/(stdin$|fd/)|/proc/(self|thread-self|\d+)/fd/", os.path.normpath(full)):
        return True
    try:
        mode = os.stat(full).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def name_of_stream(path: str) -> str:
    """The name that a script which was read from there has on all machines."""
    return re.sub(r"[^\w.-]", "-", "stdin" if path in ("-", "/dev/stdin") else f"script-{os.path.basename(path)}")


def read_stream(path: str, cwd: str) -> str:
    """The script that comes from there, `-` for stdin; raises `InvalidRequest`."""
    hint = "write it to a file, and name that"
    try:
        with open(0 if path == "-" else os.path.join(cwd, path), "rb", closefd=path != "-") as file:
            if file.isatty():
                raise InvalidRequest(f"the script `{path}` is a terminal", hint)
            data = file.read(_LONGEST_SCRIPT + 1)
    except OSError as error:
        raise InvalidRequest(f"the script `{path}` cannot be read: {processes.reason(error)}", hint) from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the script `{path}` is not UTF-8", hint) from None
    if len(data) > _LONGEST_SCRIPT or not text.strip():
        raise InvalidRequest(f"the script `{path}` is {'empty' if len(data) <= _LONGEST_SCRIPT else 'too long'}", hint)
    return text


def check_script(words: Sequence[str], cwd: str, env: Mapping[str, str], verb: str) -> None:
    """Raise `InvalidRequest` when Python could not run the file that is the first of these words."""
    path = words[0]
    full = os.path.join(cwd, path)
    if os.path.isdir(full):
        if os.path.exists(os.path.join(full, "__main__.py")):
            return
        raise InvalidRequest(f"`{path}` is a folder, not a script", "name the script in it")
    if not os.path.exists(full):
        where = "" if cwd == _here() else f" in {cwd}"
        hidden = _closed_folder(full)
        if hidden:
            raise InvalidRequest(f"the script `{path}`{where} cannot be reached: {hidden}", "look at it: `ls -ld`")
        raise InvalidRequest(f"there is no script `{path}`{where}", _program_hint(words, env, verb) or _near(full))
    if not os.access(full, os.R_OK):
        raise InvalidRequest(f"the script `{path}` cannot be read", "look at its permissions: `ls -l`")


def _here() -> str:
    try:
        return current_folder()
    except NoWorkingDirectory:
        return ""


def _program_hint(words: Sequence[str], env: Mapping[str, str], verb: str) -> str | None:
    """What to write where a program was given in place of a script: `muster run python train.py`."""
    if re.fullmatch(r"(.*/)?python[0-9.]*", words[0]) and len(words) > 1:
        return f"leave out `{words[0]}`: `muster {verb} {shlex.join(words[1:])}`"
    if "/" not in words[0] and _which(words[0], env) is not None:
        return f"a program stands after `--`: `muster {verb} -- {shlex.join(words)}`"
    return None


def _closed_folder(full: str) -> str:
    """Why this user cannot even see whether there is such a file; empty where she can."""
    try:
        os.stat(full)
    except PermissionError:
        folder = os.path.dirname(full)
        while not os.access(os.path.dirname(folder), os.X_OK):
            folder = os.path.dirname(folder)
        return f"this user may not enter the folder {folder}"
    except OSError:
        pass
    return ""


def _near(full: str) -> str | None:
    folder = os.path.dirname(full)
    if not os.path.isdir(folder):
        return f"there is no folder {folder} either"
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".py")]
    except OSError as error:
        return f"{folder} cannot be read: {processes.reason(error)}"
    near = nearest(os.path.basename(full), names)
    return f"did you mean `{near}`?" if near else f"see what there is: `ls {folder}`"


def check_command(name: str, cwd: str, env: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` when there is no such program."""
    if "/" in name:
        full = os.path.join(cwd, name)
        if not os.path.exists(full):
            raise InvalidRequest(
                f"there is no program `{name}`", "the path counts from the folder of the ranks; see --cwd"
            )
        if not os.access(full, os.X_OK) or os.path.isdir(full):
            raise InvalidRequest(
                f"`{name}` is not a program that can be run", "a script needs `chmod +x`; for Python leave `--` out"
            )
    elif _which(name, env) is None:
        raise InvalidRequest(
            f"there is no program `{name}` on PATH", "after `--` stands a program; for Python leave `--` out"
        )


def check_signals(names: Sequence[str]) -> None:
    """Raise `InvalidRequest` for a signal that muster could not pass on."""
    import signal

    known = signal.Signals.__members__.keys() - {"SIGKILL", "SIGSTOP", "SIGCHLD"}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise InvalidRequest(
            f"--signals-to-handle {','.join(wrong)}: muster cannot be sent that, or cannot catch it",
            "`kill -l` lists the signals",
        )


def check_limits(ranks: int) -> None:
    """Raise `InvalidRequest` when this machine does not allow so many ranks."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    bounds = {"the limit of processes of a user (`ulimit -u`)": soft}
    for path, words in (
        ("/proc/sys/kernel/pid_max", "the kernel's number of processes (kernel.pid_max)"),
        ("/proc/sys/kernel/threads-max", "the kernel's number of threads (kernel.threads-max)"),
        ("/sys/fs/cgroup/pids.max", "the limit of processes of this container (pids.max)"),
    ):
        text = _read(path).strip()
        if text.isdigit():
            bounds[words] = int(text)
    for words, bound in bounds.items():
        if bound != resource.RLIM_INFINITY and ranks + 32 > bound:
            raise InvalidRequest(
                f"{plural(ranks, 'rank is', 'ranks are')} more than this machine allows: {words} is {bound}",
                "ask for fewer ranks",
            )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if ranks + 64 > files:
        raise InvalidRequest(
            f"{plural(ranks, 'rank needs', 'ranks need')} about {ranks + 64} open files each, one for every other rank"
            f"; the limit is {files}",
            f"raise it with `ulimit -n {ranks + 1024}`, or ask for fewer ranks",
        )


def bindings(mode: str, ranks: int) -> tuple[tuple[int, ...], ...]:
    """The cores for each local rank under `--numa-binding`, as torchrun means its modes.

    `node`: all cores of the NUMA node that the rank's GPU is on. `socket`: all of that socket. `exclusive`: an equal
    share of the node's physical cores. `core-complex`: one group of cores that share their last cache. Where there
    are no GPUs, ranks are spread over the NUMA nodes in order.
    """
    allowed = os.sched_getaffinity(0)
    nodes = _numa_nodes(allowed)
    buses = gpu_buses()
    where: list[int] = []
    for local in range(ranks):
        text = _read(f"/sys/bus/pci/devices/{buses[local].lower()}/numa_node").strip() if local < len(buses) else ""
        node = int(text) if re.fullmatch(r"\d+", text) else sorted(nodes)[local * len(nodes) // ranks]
        where.append(node if node in nodes else sorted(nodes)[0])
    found: list[tuple[int, ...]] = []
    for local, node in enumerate(where):
        mates = [other for other in range(ranks) if where[other] == node]
        if mode == "node":
            mine = nodes[node]
        elif mode == "socket":
            mine = [core for core in sorted(allowed) if _socket(core) in {_socket(other) for other in nodes[node]}]
        elif mode == "exclusive":
            mine = _share(_physical(nodes[node]), mates.index(local), len(mates), node)
        else:
            complexes = _complexes(nodes[node])
            mine = complexes[mates.index(local) % len(complexes)]
        found.append(tuple(sorted(mine)))
    return tuple(found)


def _numa_nodes(allowed: set[int]) -> dict[int, list[int]]:
    from muster.core.layout import unfold

    found: dict[int, list[int]] = {}
    root = Path("/sys/devices/system/node")
    for path in root.glob("node[0-9]*") if root.is_dir() else ():
        text = _read(str(path / "cpulist")).strip()
        here = [core for core in (unfold(text, "cores") if text else ()) if core in allowed]
        if here:
            found[int(path.name[4:])] = here
    return found or {0: sorted(allowed)}


def _topology(core: int, name: str) -> str:
    return _read(f"/sys/devices/system/cpu/cpu{core}/topology/{name}").strip()


def _socket(core: int) -> str:
    return _topology(core, "physical_package_id")


def _physical(cores_here: list[int]) -> list[list[int]]:
    """Cores by the physical core that they share."""
    groups: dict[str, list[int]] = {}
    for core in cores_here:
        groups.setdefault(_topology(core, "thread_siblings_list") or str(core), []).append(core)
    return list(groups.values())


def _complexes(cores_here: list[int]) -> list[list[int]]:
    """Cores by the last cache that they share, the largest group first."""
    groups: dict[str, list[int]] = {}
    for core in cores_here:
        caches = Path(f"/sys/devices/system/cpu/cpu{core}/cache")
        levels = sorted(caches.glob("index*"), key=lambda path: _read(str(path / "level")).strip())
        shared = _read(str(levels[-1] / "shared_cpu_list")).strip() if levels else ""
        groups.setdefault(shared, []).append(core)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def _share(groups: list[list[int]], index: int, count: int, node: int) -> list[int]:
    if count > len(groups):
        raise InvalidRequest(
            f"--numa-binding exclusive: NUMA node {node} has {plural(len(groups), 'core')} for {plural(count, 'rank')}",
            "use `--numa-binding node`, or fewer ranks",
        )
    each, more = divmod(len(groups), count)
    first = index * each + min(index, more)
    return [core for group in groups[first : first + each + (index < more)] for core in group]


def identity() -> dict[str, str]:
    """What tells this machine, and this start of it, from others."""
    return {"host": os.uname().nodename, "boot": procfs.boot_id()}


def installed(package: str) -> str:
    """The version of a package, as pip knows it (`ray[train]==2.60.0`), beside muster; empty where it is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_name_of(package))
    except PackageNotFoundError:
        return ""


def _name_of(package: str) -> str:
    return package.partition("==")[0].partition("[")[0]


def check_package(package: str, launcher: str) -> None:
    """Raise `InvalidRequest` when what a launcher needs is not installed beside muster."""
    if not installed(package):
        raise InvalidRequest(
            f"--launcher {launcher}: {_name_of(package)} is not installed in {sys.executable}",
            f"{sys.executable} -m pip install '{package}', or 'torchmuster[{launcher}]'",
        )
