"""The content of a run directory, or from a host, is data: it is never executed, and names no file elsewhere."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ClusterShell
import pytest
from lab_cluster import LabCluster
from waiting import until

import muster as muster_itself
from muster.agent import facts
from muster.controller.unsent_output import show_rest
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program, as_json
from muster.errors import InvalidRequest
from muster.linux import private_tmp, processes
from muster.linux.identity import identity
from muster.protocol.frames import MAGIC, VERSION, encode_frame
from muster.rundir.finding import list_runs
from muster.rundir.run import Run
from muster.rundir.store import Store, create_run, remove_run
from muster.ui.terminal import TerminalView

NOBODY = 65534
ID = "20261127-101112-0123456789abc-train"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="only root can be somebody else"
)


def plan(**job: Any) -> dict[str, Any]:
    """A plan.json of a run on the host n1."""
    made = Job(Program("script", ("train.py",)), "exec", "python3", "", "/", transport="ssh")
    data: dict[str, Any] = as_json(Plan(made._replace(**job), layout([(Host("n1"), 1)]), ()))
    return data


def record(run_id: str = ID, **more: Any) -> dict[str, Any]:
    """A job.json of a detached run on the host n1."""
    served = {"name": "n1", "user": ""}
    own: dict[str, Any] = {
        "id": run_id,
        "name": "",
        "argv": ["muster", "run"],
        "cwd": "/",
        "started": "2026-11-27 10:11:12",
    }
    own.update(time=time.time(), ranks=1, pid=0, pid_started="", host="n1", boot="x", served=served, there="/runs/x")
    return {**own, "shared": False, **more}


def plant(home: Path, files: Mapping[str, Any], run_id: str = ID) -> Path:
    """Write a run directory."""
    path = home / "runs" / run_id
    path.mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        (path / name).write_text(json.dumps(data))
    return path


def test_no_word_of_a_run_directory_is_run(muster: Any, tmp_path: Path) -> None:
    """Neither the ssh of its plan nor its Python, its lines of --setup, or the name of a host or job."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    evil = plan(ssh=(str(trap),), python=str(trap), setup=(str(trap),), python_source="--python")
    here = os.uname().nodename
    records = {
        "aaaaa": record(),
        "bbbbb": record(served={"name": f"-oProxyCommand={trap}", "user": ""}),
        "ccccc": record(served={"name": "n1", "user": f"-oProxyCommand={trap}"}),
        "ddddd": record(host=here, served={"name": "", "user": ""}),
        "eeeee": record(slurm=f"--help;{trap}", allocated=False),
        "ggggg": record(scheduler={"name": "slurm", "job": f"--help;{trap}"}),
        "fffff": record(host=here, there=f"');import os;os.system('{trap}')#"),
    }
    for middle, job in records.items():
        plan_of = {**evil, "job": {**evil["job"], "transport": "local"}} if middle in ("ddddd", "fffff") else evil
        plant(muster.home, {"plan.json": plan_of, "job.json": job}, f"20261127-101112-{middle}-train")
    # the name lookup of a nonexistent host takes no time
    env = {**muster.env, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    for words in (
        ("ps",),
        *(("show", f"20261127-101112-{middle}") for middle in records),
        ("kill", "20261127-101112-e"),
    ):
        done = muster(*words, env=env)
        assert "Traceback" not in done.stderr, (words, done.stderr)
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_run_is_listed_and_the_others_are_too(muster: Any) -> None:
    """The files of each run are read independently; an unreadable one can be deleted alone."""
    for middle in ("aaaaa", "bbbbb", "ccccc"):
        ours = {"host": os.uname().nodename}
        job = {name: value for name, value in record(**ours).items() if name != "served"}
        plant(muster.home, {"job.json": job, "plan.json": plan()}, f"20261127-101112-{middle}-train")
    broken = muster.home / "runs" / "20261127-101112-bbbbb-train"
    (broken / "outcome.json").write_bytes(b'{"state": "succeeded", "code": "\xff"}')
    (muster.home / "runs" / "20261127-101112-ccccc-train" / "events.jsonl").write_bytes(b"\xff\n{\n[]\n")
    done = muster("ps")
    assert 0 == done.returncode, done.stderr
    assert ["lost", "unreadable", "lost"] == [line.split()[2] for line in done.stdout.splitlines()[1:]]
    assert f"{broken.name}: cannot read outcome.json: not UTF-8" in done.stderr
    for command in ("show", "wait", "kill", "stacks"):
        done = muster(command, broken.name)
        assert (2, True) == (done.returncode, ": not UTF-8\nhint: " in done.stderr), (command, done)
    assert 0 == muster("show", "20261127-101112-ccccc").returncode
    done = muster("prune", "--older-than", "0s", "--dry-run")
    assert (0, "not deleted: " in done.stderr, broken.exists()) == (0, True, True), done.stderr
    assert (0, f"deleted {broken.name}\n") == ((done := muster("rm", broken.name)).returncode, done.stdout)


def test_an_empty_name_is_not_a_run(muster: Any) -> None:
    path = plant(muster.home, {"job.json": record(), "plan.json": plan()})
    for command in ("rm", "kill", "show", "logs", "wait", "stacks", "attach"):
        done = muster(command, "")
        assert (2, True) == (done.returncode, "empty run name" in done.stderr), command
    assert path.exists()


# ---- other users of this machine ------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that another user may enter, in which each has a home."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="muster-of-two-users-"))
    folder.chmod(0o755)
    # readable for every user: a checkout, or the Python of a test, may be in the home of root
    for package in (Path(muster_itself.__file__).parent, Path(ClusterShell.__file__).parent):
        shutil.copytree(package, folder / "lib" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    shutil.rmtree(folder)


class User:
    """A user of this machine, with a home there."""

    def __init__(self, uid: int, place: Path):
        self.uid, self.home = uid, place / f"home of {uid}"
        self.home.mkdir()
        os.chown(self.home, uid, uid)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.env["PYTHONPATH"] = str(place / "lib")

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start `muster` as this user."""
        own: Any = {"user": self.uid, "group": self.uid, "extra_groups": []} if self.uid else {}
        argv = ["/usr/bin/python3", "-m", "muster", *words]
        return subprocess.Popen(argv, env=self.env, cwd=self.home, text=True, **own, **more)

    def muster(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `muster` as this user to completion."""
        with self.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@needs_root
def test_a_run_directory_that_another_could_have_written_is_not_read(place: Path) -> None:
    victim = User(NOBODY, place)
    home = victim.home / ".muster"
    here = {"host": os.uname().nodename}
    own = {name: value for name, value in record(**here).items() if name != "served"}
    planted = plant(home, {"plan.json": plan(), "job.json": own}, "20261127-101112-aaaaa-root")
    opened = plant(home, {"plan.json": plan(), "job.json": own}, "20261127-101112-bbbbb-open")
    good = plant(home, {"plan.json": plan(), "job.json": own}, "20261127-101112-ccccc-good")
    (home / "runs" / "20261127-101112-ddddd-link").symlink_to(planted)
    subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", str(home)], check=True)
    subprocess.run(["chown", "-R", "root", str(planted)], check=True)
    planted.chmod(0o755)
    opened.chmod(0o777)
    done = victim.muster("ps")
    assert 0 == done.returncode, done.stderr
    assert [good.name] == [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert f"ignoring {planted}: it belongs to user root" in done.stderr
    assert f"ignoring {opened}: it is writable by others" in done.stderr
    assert "ddddd-link: not a directory" in done.stderr
    for name in (planted.name, opened.name):
        for command in ("show", "rm", "kill"):
            done = victim.muster(command, name)
            assert (2, True) == (done.returncode, "cannot read " in done.stderr), (command, done.stderr)
    assert opened.exists()


@needs_root
def test_root_sees_that_the_run_of_a_user_lives(place: Path) -> None:
    user, root = User(NOBODY, place), User(0, place)
    runs_of = ("--run-dir", str(user.home / ".muster"))
    with user.start("run", "--", "sleep", "600") as process:
        try:
            until(lambda: list_runs(Store(user.home / ".muster")), "there is a run")
            until(lambda: "running" in root.muster("ps", *runs_of).stdout, "root sees that it runs")
            done = root.muster("rm", "last", *runs_of)
            assert (2, True) == (done.returncode, "it is running" in done.stderr), done.stderr
            assert 0 == (done := root.muster("kill", "last", *runs_of)).returncode, done.stderr
            assert process.wait(timeout=120) not in (0, 125)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    until(lambda: "running" not in root.muster("ps", *runs_of).stdout, "root sees that it has ended")


@needs_root
def test_without_a_home_runs_are_kept_among_temporary_files(place: Path) -> None:
    """As in a container with an unknown user. Other commands find the runs there; -q suppresses the message."""
    user = User(54399, place)
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    user.env["TMPDIR"] = str(place / "tmp")
    own = place / "tmp" / "muster-54399"
    for home, option in (("/", ""), (None, ""), ("/root", "-q"), ("/nonexistent", "-d")):
        user.env.pop("HOME", None)
        if home is not None:
            user.env["HOME"] = home
        done = user.muster("run", *filter(None, [option]), "--", "echo", f"in {home}")
        assert 0 == done.returncode, done.stderr
        usual = f"{home or ''}/.muster".replace("//", "/")
        told = f"muster: warning: cannot write to {usual}, keeping runs in {own}\n"
        told += "hint: choose another directory with MUSTER_HOME\n"
        assert (option != "-q") == (told in done.stderr)
        assert 0 == user.muster("wait", "last").returncode
        assert f"[0] in {home}\n" == user.muster("logs").stdout
    assert (5, 0o40700) == (len(user.muster("ps").stdout.splitlines()), own.stat().st_mode)
    # a directory of that name made by another user, or open to others, is not used
    name = "muster-54322"
    other = place / "tmp" / name
    other.mkdir(mode=0o700)
    assert str(other) == private_tmp.own_folder(name, user.env)
    os.chown(other, NOBODY, NOBODY)
    assert f"/tmp/{name}" == private_tmp.own_folder(name, user.env)
    os.chown(other, 0, 0)
    other.chmod(0o750)
    assert f"/tmp/{name}" == private_tmp.own_folder(name, user.env)


@needs_root
def test_unreadable_runs_are_not_ignored(place: Path) -> None:
    user = User(NOBODY, place)
    home = user.home / "kept"
    user.env["MUSTER_HOME"] = str(home)
    assert 0 == user.muster("run", "--name", "mine", "--", "true").returncode
    for hidden, mode in ((home, 0), (home / "runs", 0), (home / "runs", 0o300)):
        before = hidden.stat().st_mode
        hidden.chmod(mode)
        for words in (
            "ps",
            "show",
            "show mine",
            "logs",
            "wait",
            "kill last",
            "kill --all --yes",
            "rm mine",
            "prune --keep 0 -y",
        ):
            done = user.muster(*words.split())
            said = f"error: cannot read the directory of runs {home}/runs: Permission denied\nhint: check its perm"
            assert (2, "", True) == (done.returncode, done.stdout, done.stderr.startswith(said)), (words, done)
        hidden.chmod(before)
    assert "mine" in user.muster("ps").stdout


@needs_root
def test_a_script_in_a_folder_that_may_not_be_entered_is_not_said_to_be_missing(place: Path) -> None:
    (place / "closed" / "deeper").mkdir(parents=True)
    (place / "closed" / "deeper" / "s.py").touch()
    (place / "closed").chmod(0o700)
    done = User(NOBODY, place).muster("run", str(place / "closed" / "deeper" / "s.py"))
    said = f": no permission to enter directory {place}/closed\nhint: check it with `ls -ld`\n"
    assert (2, True) == (done.returncode, done.stderr.endswith(said)), done.stderr


@needs_root
@pytest.mark.parametrize("option", ["", "-d"])
def test_a_process_limit_is_reported_and_nothing_is_left(place: Path, option: str) -> None:
    """Whichever process is the first that the kernel refuses to start: one error, a hint, and an end."""
    (place / "s.py").write_text("print('ran')")
    limit, room = 60, range(1, 9)
    first = 54350 if option else 54330  # users of its own: the kernel counts those of both tests together
    users = {free: User(first + free, place) for free in room}
    others, started = [], {}
    try:
        for free, user in users.items():
            own: Any = {"user": user.uid, "group": user.uid, "extra_groups": []}
            others += [subprocess.Popen(["sleep", "600"], **own) for _ in range(limit - free)]
        for free, user in users.items():
            words = ["run", *filter(None, [option]), "-g", "2", "--launcher", "exec", str(place / "s.py")]
            limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))}
            started[free] = user.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **limited)
        ends = {}
        for free, process in started.items():
            _, err = process.communicate(timeout=120)
            status = process.returncode
            if status == 0 and option:
                waited = users[free].muster("wait", "last")
                status, err = waited.returncode, err + waited.stderr + waited.stdout
            ends[free] = (status, err)
        for free, (status, err) in ends.items():
            assert "Traceback" not in err, (free, err)
            assert 0 == status or ("ulimit -u" in err and "hint: stop other processes of yours" in err), (
                free,
                status,
                err,
            )
        assert 0 != ends[1][0] and 0 == ends[8][0], ends
        until(lambda: not [user for user in users.values() if busy(user.uid)], "nothing is left")
    finally:
        for process in others:
            process.kill()
            process.wait()


def busy(uid: int) -> list[str]:
    """Return the living processes of this user; a zombie is not."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == uid and (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(path.name)
    return [pid for pid in found if command_of(pid) not in (b"", b"sleep\x00600\x00")]


def command_of(pid: str) -> bytes:
    """Return the command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# ---- a hostile host -----------------------------------------------------------------------------------------------


@pytest.fixture
def says(there: LabCluster) -> Iterator[Any]:
    """Make n1 send these frames to any ssh connection that asks about a run."""
    frames = Path(there.folder / "frames")
    head = there.folder / "head"
    where = there.lab.run("n1", ["sh", "-c", "command -v head"], cwd="/").stdout.strip()
    shutil.copy(where, there.folder / "real-head")
    # the program started by ssh is read by `head -c`; login scripts use it in other ways
    head.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exec {there.folder}/real-head "$@"\necho \'cat {frames}\'\n')
    head.chmod(0o755)
    assert 0 == there.lab.run("n1", ["mount", "--bind", str(head), where], cwd="/").returncode

    def say(*told: bytes) -> None:
        frames.write_bytes(MAGIC + b"".join(told))

    yield say
    there.lab.run("n1", ["umount", where], cwd="/")


def test_a_hostile_host_writes_no_file_and_runs_nothing_here(there: LabCluster, says: Any) -> None:
    trap = there.folder / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {there.folder}/sprung\n")
    trap.chmod(0o755)
    outside = there.folder / "outside"

    def introduced(job: Any, made: Any) -> bytes:
        files = {"job.json": json.dumps(job), "plan.json": json.dumps(made)}
        return encode_frame("run_described", there="/runs/x", files=files)

    for run_id in ("../../../outside", "../outside", str(outside), "..", "", "20261127-101112-aaaaa/../../x"):
        says(introduced(record(run_id), plan()))
        done = there.muster("show", "n1:last")
        assert (125, True) == (done.returncode, "not a run id" in done.stderr), done.stderr
    for job, made in (({}, plan()), (record(ranks="x"), plan()), (record(), {}), (record(), [])):
        says(introduced(job, made))
        done = there.muster("show", "n1:last")
        assert (125, True) == (done.returncode, "invalid description" in done.stderr), done.stderr
    assert not list(there.home.glob("runs/*")) and not outside.exists()

    evil = plan(ssh=(str(trap),), python=str(trap), setup=(str(trap),))
    names = ("../../../outside", str(outside), "..", "job.json", "plan.json", "token", "attempt_0/../../../outside")
    files = [encode_frame("file", b"x", name=name, offset=0, whole=True) for name in names]
    files.append(encode_frame("file", b"hello\n", name="attempt_0/rank_00000.out", offset=0, whole=False))
    files.append(encode_frame("file", b"x", name="attempt_0/rank_00001.out", offset=1 << 40, whole=False))
    says(introduced(record(), evil), encode_frame("no_controller", there=True), *files, encode_frame("done"))
    done = there.muster("logs", "n1:last", env={"PATH": f"{there.folder}:{os.environ['PATH']}"})
    assert "Traceback" not in done.stderr
    assert "hello" in done.stdout, done.stderr
    run = there.home / "runs" / ID
    assert ["attempt_0", "job.json", "plan.json"] == sorted(os.listdir(run))
    assert 0 == (run / "attempt_0" / "rank_00001.out").stat().st_size, "no hole"
    assert not outside.exists() and not (there.folder / "sprung").exists()
    # the ID of a run that is another one here
    other = plant(there.home, {"job.json": record(served={"name": "n2", "user": ""}), "plan.json": plan()}, ID + "2")
    says(introduced(record(ID + "2"), plan()))
    done = there.muster("kill", "n1:last")
    assert (2, True) == (done.returncode, "is not the run of that id known here" in done.stderr), done.stderr
    assert "n2" == json.loads((other / "job.json").read_text())["served"]["name"]


def test_a_host_that_says_anything_at_all_is_refused_in_words(there: LabCluster, says: Any) -> None:
    hello = {"version": VERSION, "pid": 1, "python": "3.11.2", "executable": "/x", "host": "n1", "t": 1.0}
    told = {
        "t": 1.0,
        "host": "n1",
        "boot": "x",
        "reached_at": "",
        "script": "",
        "home": "/x",
        "unwritable": "",
        "full": False,
        "cores": 1,
    }
    for frames in (
        [encode_frame("hello", **{**hello, "python": 3})],
        [encode_frame("hello")],
        [encode_frame("hello", **hello), encode_frame("facts")],
        [encode_frame("hello", **hello), encode_frame("facts", **{**told, "cores": "many"})],
        [b"\xff" * 64],
    ):
        says(*frames)
        done = there.muster("run", "-H", "n1", "-g", "1", "--", "true")
        assert "Traceback" not in done.stderr
        assert (3, True) == (done.returncode, "cannot use all hosts: n1: " in done.stderr), done.stderr


@needs_root
def test_root_writes_nothing_and_ends_nothing_in_the_name_of_a_user(place: Path) -> None:
    """A user's directory with links, a job of Slurm and a host of the user's choice: root only reads it."""
    user, root = User(NOBODY, place), User(0, place)
    home, here = user.home / ".muster", os.uname().nodename
    victim = place / "victim"
    victim.mkdir()
    there = user.home / "there"
    there.mkdir()
    (there / "node_x").mkdir()
    (there / "node_x" / "daemon.json").write_text("forged")
    served = {"name": here, "user": ""}
    records = {
        "aaaaa": record(host=here, served=served, there=str(there)),
        "bbbbb": record(host="n1", served={"name": "n1", "user": ""}),
        "ccccc": record(host=here, slurm="4711", allocated=False),
    }
    for middle, job in records.items():
        path = plant(home, {"plan.json": plan(), "job.json": job}, f"20261127-101112-{middle}-x")
        (path / "node_x").symlink_to(victim)
        (path / "answered").symlink_to(victim / "nologin")
        (path / "outcome.json.part").symlink_to(victim / "part")
    programs = place / "bin"
    programs.mkdir()
    for name in ("scancel", "squeue", "ssh", "srun"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {victim}/{name}\necho '4711|RUNNING|None|n1|N/A|1:00|4711|x'\n")
        (programs / name).chmod(0o755)
    subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", str(user.home)], check=True)
    root.env["PATH"] = f"{programs}:{root.env['PATH']}"
    runs_of = ("--run-dir", str(home))
    states = {run["id"]: run["state"] for run in json.loads(root.muster("ps", "--json", *runs_of).stdout)}
    assert ["lost", "unknown", "unknown"] == [states[f"20261127-101112-{middle}-x"] for middle in records]
    for middle in records:
        for command in ("show", "logs", "stacks", "kill", "wait"):
            more = ("--timeout", "1s") if command == "wait" else ()
            done = root.muster(command, f"20261127-101112-{middle}", *more, *runs_of)
            assert "Traceback" not in done.stderr, (command, done.stderr)
    assert [] == list(victim.iterdir())


def test_links_and_fifos_instead_of_logs_are_not_followed(muster: Any, tmp_path: Path) -> None:
    """Neither when output is shown that was not sent, nor when the run is deleted: of the recorded links only those
    into its directory are removed."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = plant(muster.home, {"job.json": record()})
    (path / "attempt_0").mkdir()
    (path / "attempt_0" / "rank_00000.out").symlink_to(secret)
    os.mkfifo(path / "attempt_0" / "rank_00000.err")
    view = TerminalView(
        Plan(Job(Program("command", ("x",)), "exec", "", "", "/"), layout([(Host("n1"), 1)]), ()), ID, {}
    )
    said: list[bytes] = []
    view.put = lambda fd, data: said.append(data)
    show_rest(Run(path), view, {})
    assert (b"secret" in b"".join(said), 2) == (False, sum(b"cannot show " in piece for piece in said))

    outside = tmp_path / "outside"
    outside.symlink_to(secret)
    inside = tmp_path / "inside"
    inside.symlink_to(path / "job.json")
    names = [str(secret), str(outside), str(inside), "relative", 7, "/nul\0", str(tmp_path)]
    (path / "links").write_text("".join(json.dumps(name) + "\n" for name in names) + "{\n")
    remove_run(Store(muster.home), Run(path))
    assert (True, True, False) == (secret.exists(), outside.is_symlink(), inside.is_symlink())


def test_a_damaged_file_causes_no_traceback(muster: Any) -> None:
    """Invalid times, a controller without an address, more ranks than possible."""
    here = {"host": os.uname().nodename}
    own = {name: value for name, value in record(**here).items() if name not in ("served", "there")}
    served = {**own, "served": {"name": "n1", "user": ""}}
    paths = [
        plant(muster.home, {"job.json": job, "plan.json": plan()}, f"20261127-101112-{middle}-x")
        for middle, job in (("aaaaa", own), ("bbbbb", served), ("ccccc", {**own, "ranks": 1 << 60}))
    ]
    events = [{"event": "hello"}, {"event": "warm", "t": "x"}, {"event": "warm", "t": 1, "times": {"begun": "x"}}]
    (paths[0] / "events.jsonl").write_text(
        "\n".join(map(json.dumps, [*events, {"event": "output began", "attempt": 0}]))
    )
    for words in (["ps"], ["prune", "--older-than", "1d", "--yes"], *(["show", path.name] for path in paths)):
        assert "Traceback" not in (done := muster(*words)).stderr, (words, done.stderr)
    for path in paths:
        assert "Traceback" not in (done := muster("logs", path.name)).stderr, done.stderr
    assert ["lost", "unreadable", "unreadable"] == [
        line.split()[2] for line in muster("ps").stdout.splitlines()[1:][::-1]
    ]


def test_all_levels_above_a_run_are_its_owners_alone(tmp_path: Path) -> None:
    """With umask 002 a group could otherwise rename `runs`, and replace the hook of a live run."""
    before = os.umask(0o002)
    try:
        run = create_run(Store(tmp_path / "a" / ".muster"), ID)
    finally:
        os.umask(before)
    for folder in (run.path, run.path.parents[0], run.path.parents[1], run.path.parents[2]):
        assert 0o700 == folder.stat().st_mode & 0o777, folder
    for shared in (run.path.parents[1], run.path.parents[0]):
        shared.chmod(0o777)
        with pytest.raises(InvalidRequest, match=f"cannot keep runs in {shared}, .* it is world-writable") as caught:
            create_run(Store(tmp_path / "a" / ".muster"), ID + "2")
        assert f"chmod go-w {shared}" in str(caught.value.hint)
        shared.chmod(0o700)
    sticky = tmp_path / "like tmp"
    sticky.mkdir()
    sticky.chmod(0o1777)
    assert create_run(Store(sticky), ID).path.exists()


@needs_root
def test_no_run_is_kept_where_another_user_keeps_hers(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(InvalidRequest, match=f"it belongs to user {NOBODY}"):
        create_run(Store(tmp_path), ID)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o777)
    assert str(tmp_path / "scratch") not in private_tmp.bases({"TMPDIR": str(tmp_path / "scratch")}), (
        "no base for the shim"
    )
    (tmp_path / "scratch").chmod(0o1777)
    assert str(tmp_path / "scratch") in private_tmp.bases({"TMPDIR": str(tmp_path / "scratch")})


def test_a_reason_cannot_forge_a_line(muster: Any) -> None:
    path = plant(muster.home, {"job.json": record(host=os.uname().nodename), "plan.json": plan()})
    outcome = {"state": "broken", "code": 125, "duration": 1.0, "reason": "it broke\nmuster: all is well\nhint: look"}
    (path / "outcome.json").write_text(json.dumps(outcome))
    for command in ("show", "wait"):
        said = muster(command, path.name)
        assert "    muster: all is well\nhint: look\n" in said.stdout, said.stdout + said.stderr


def test_a_host_keeps_no_run_where_others_could_replace_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert {"unwritable": "", "full": False} == facts.storage_error(str(home))
    for place in (home, home / "runs"):
        place.chmod(0o777)
        assert f"directory {place} is not private: it is world-writable" in facts.storage_error(str(home))["unwritable"]
        place.chmod(0o700)


def test_advice_about_a_limit_is_shown_after_the_end_too(muster: Any) -> None:
    """The agent of a lost run has recorded the error; the same holds for `-d`, which has no terminal."""
    own = {name: value for name, value in record(host=os.uname().nodename).items() if name not in ("served", "there")}
    run = plant(muster.home, {"job.json": {**own, "boot": identity()["boot"]}, "plan.json": plan()})
    (run / "node_0").mkdir()
    (run / "node_0" / "ended.json").write_text(json.dumps({"why": str(processes.no_more_processes()), "limit": True}))
    waited = muster("wait", run.name)
    assert (125, True) == (waited.returncode, "see `ulimit -u`" in waited.stderr), waited
    assert "\nhint: stop other processes of yours" in waited.stderr, waited.stderr
