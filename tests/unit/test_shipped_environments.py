"""What an environment consists of, and its copy at another path. No host is needed."""

from __future__ import annotations

import json
import os
import py_compile
import queue
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from muster import environments
from muster.agent import env_store
from muster.agent.bootstrap import shell_script
from muster.agent.env_transfer import EnvTransfer
from muster.controller.env_shipping import Pace, _check, packed, parents
from muster.environments import Environment
from muster.errors import InvalidRequest
from muster.runner.shipped import usual_python


def reader(data: bytes) -> Callable[[int], bytes]:
    """Returns the next bytes of the data."""
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(data):
            raise ValueError("the stream ended too early")
        return data[at - count : at]

    return read


def unpacked(found: Environment, root: Path, similar: str = "", kept: frozenset[str] = frozenset()) -> str:
    """Unpack the stream of an environment into `root`; return its interpreter."""
    root.mkdir(exist_ok=True)
    part = env_store.Part(str(root), found.address, os.path.realpath(found.base), similar)
    return part.unpack(reader(b"".join(environments.pieces(found, kept))))


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    top = tmp_path / "made here"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(top)], check=True)
    packages = next(top.glob("lib/python3*/site-packages"))
    (packages / "tiny.py").write_text("WORD = 1\n")
    (packages / "tiny.pth").write_text(f"{top}/extra\n")
    (packages / "other.pth").write_text("import sys\n")
    (top / "extra").mkdir()
    (top / "extra/more.py").write_text("WORD = 2\n")
    outside = tmp_path / "cache.py"
    outside.write_text("WORD = 3\n")
    (packages / "cached.py").symlink_to(outside)
    (packages / "same.py").symlink_to(packages / "tiny.py")
    return top


def read(top: Path, records: Path, **more: bool) -> Environment:
    return environments.read(environments.find(str(top / "bin/python")), str(records), **more)


def test_a_venv_works_at_another_path(venv: Path, tmp_path: Path) -> None:
    found = read(venv, tmp_path / "records")
    python = unpacked(found, tmp_path / "there")
    venv.rename(tmp_path / "gone")
    (tmp_path / "cache.py").unlink()
    line = "import sys, tiny, more, cached, same; print(sys.prefix, tiny.WORD, more.WORD, cached.WORD, same.WORD)"
    done = subprocess.run([python, "-c", line], capture_output=True, text=True, check=False)
    assert f"{tmp_path}/there/{found.address}/env 1 2 3 1\n" == done.stdout, done.stderr
    settings = Path(python).parent.parent / "pyvenv.cfg"
    assert str(venv) not in settings.read_text()


def test_the_address_follows_from_the_contents(venv: Path, tmp_path: Path) -> None:
    records, tiny = tmp_path / "records", next(venv.glob("lib/python3*/site-packages/tiny.py"))
    first = read(venv, records).address
    py_compile.compile(str(tiny), doraise=True)
    assert list(tiny.parent.glob("__pycache__/tiny*"))
    os.utime(tiny, (1, 1))
    assert first == read(venv, records).address == read(venv, tmp_path / "no records").address
    elsewhere = tmp_path / "moved" / venv.name  # the scripts that activate it contain its name
    elsewhere.parent.mkdir()
    venv.rename(elsewhere)
    for path in (*elsewhere.glob("bin/*"), elsewhere / "pyvenv.cfg", *elsewhere.glob("lib/*/site-packages/tiny.pth")):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(bytes(venv), bytes(elsewhere)))
    same = next(elsewhere.glob("lib/python3*/site-packages")) / "same.py"
    same.unlink()
    same.symlink_to("tiny.py")
    assert first == read(elsewhere, records).address, "the path does not count"
    next(elsewhere.glob("lib/python3*/site-packages/tiny.py")).write_text("WORD = 9\n")
    assert first != read(elsewhere, records).address


def test_only_what_changed_is_sent(venv: Path, tmp_path: Path) -> None:
    records, there = tmp_path / "records", tmp_path / "there"
    first = read(venv, records)
    environments.remember(first, str(records))
    unpacked(first, there)
    (venv / "extra/more.py").write_text("WORD = 22\n")
    second = read(venv, records)
    similar, kept = environments.similar(second, str(records), env_store.complete(str(there)))
    assert first.address == similar
    sent = {entry.name for entry in second.entries if entry.source and entry.name not in kept}
    assert "env/extra/more.py" in sent and not any(name.endswith("/tiny.py") for name in sent)
    python = unpacked(second, there, similar, kept)
    done = subprocess.run([python, "-c", "import more, tiny; print(more.WORD, tiny.WORD)"], capture_output=True)
    assert b"22 1\n" == done.stdout
    # the similar one is damaged: the next run gets all
    next(there.glob(f"{first.address}/env/lib/*/site-packages/tiny.py")).unlink()
    third = second._replace(version="3.0")
    with pytest.raises(FileNotFoundError):
        unpacked(third, there, similar, kept)
    assert [second.address] == env_store.complete(str(there))


def test_a_base_that_hosts_lack_is_sent_too(venv: Path, tmp_path: Path) -> None:
    """The base is a copy of a small part of an interpreter: a stand-in for one of python-build-standalone."""
    base = tmp_path / "standalone"
    (base / "bin").mkdir(parents=True)
    (base / "lib").mkdir()
    program = base / "bin" / Path(os.path.realpath(sys.executable)).name
    program.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    program.chmod(0o755)
    (base / "lib/_sysconfigdata_x.py").write_text(f"prefix = '{base}'\n")
    (base / "lib/python3.11/site-packages").mkdir(parents=True)
    (base / "lib/python3.11/site-packages/not_seen.py").touch()
    for link in venv.glob("bin/python*"):
        if os.path.isabs(os.readlink(link)):
            link.unlink()
            link.symlink_to(program)
    found = environments.find(str(venv / "bin/python"))
    assert found.base == str(program) and found.base_can_be_sent
    found = environments.read(found, str(tmp_path / "records"), with_base=True)
    assert not any("not_seen" in entry.name for entry in found.entries)
    assert found.address != read(venv, tmp_path / "records").address
    top = Path(unpacked(found, tmp_path / "there")).parent.parent
    assert os.path.realpath(top / "bin/python") == str(top.parent / "base/bin" / program.name)
    assert f"home = {top.parent}/base/bin\n" in (top / "pyvenv.cfg").read_text()
    assert f"prefix = '{top.parent}/base'\n" == (top.parent / "base/lib/_sysconfigdata_x.py").read_text()


def test_two_runs_that_send_the_same_environment(venv: Path, tmp_path: Path) -> None:
    """Each unpacks its own copy, and the second one is discarded; one that is interrupted is never taken."""
    found, root = read(venv, tmp_path / "records"), tmp_path / "there"
    root.mkdir()
    data = b"".join(environments.pieces(found, frozenset()))
    first, second, third = (env_store.Part(str(root), found.address, found.base, "") for _ in range(3))
    with pytest.raises(ValueError, match="ended too early"):
        third.unpack(reader(data[:-100]))
    assert [] == env_store.complete(str(root))
    third.discard()
    assert first.unpack(reader(data)) == second.unpack(reader(data))
    assert [found.address] == os.listdir(root)


class Received:
    """What a transfer reports, in the thread of a test."""

    def __init__(self) -> None:
        self.messages: queue.Queue[dict[str, object]] = queue.Queue()

    def emit(self, kind: str, payload: bytes = b"", **fields: object) -> None:
        """Keep a message."""
        self.messages.put({"kind": kind, **fields})


def transfer(root: Path, found: Environment, secret: str) -> tuple[EnvTransfer, Received]:
    """A host that gets this environment."""
    root.mkdir()
    told = Received()
    part = env_store.Part(str(root), found.address, os.path.realpath(found.base), "")
    return EnvTransfer(told.emit, lambda work: work(), part, secret), told


def test_a_host_passes_it_on_to_those_that_know_the_secret(venv: Path, tmp_path: Path) -> None:
    found = read(venv, tmp_path / "records")
    first, said = transfer(tmp_path / "n1", found, "secret")
    second, also = transfer(tmp_path / "n2", found, "secret")
    stranger, _ = transfer(tmp_path / "n3", found, "guess")
    assert "" == second.fetch(["127.0.0.1"], first.port, 10.0)
    assert stranger.fetch(["127.0.0.1"], first.port, 10.0)
    assert "" != second.fetch(["127.0.0.1"], 1, 10.0), "nobody listens there"
    for piece in environments.pieces(found, frozenset()):
        first.take((zlib.compress(piece), True, False))
    first.take((b"", False, True))
    for told, name in ((said, "n1"), (also, "n2")):
        path = f"{tmp_path}/{name}/{found.address}/env/bin/python"
        assert {"kind": "env_ready", "path": path, "failed": ""} == told.messages.get(timeout=120)
        done = subprocess.run([path, "-c", "import tiny; print(tiny.WORD)"], capture_output=True, check=False)
        assert b"1\n" == done.stdout
    stranger.close()
    assert [] == os.listdir(tmp_path / "n3")


def test_a_host_tells_whether_it_unpacks_more_slowly_than_pieces_arrive(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, goes_on = read(venv, tmp_path / "records"), threading.Event()
    unpack = env_store.Part.unpack

    def slow(part: env_store.Part, read: Callable[[int], bytes]) -> str:
        goes_on.wait(60)
        return unpack(part, read)

    monkeypatch.setattr(env_store.Part, "unpack", slow)
    first, told = transfer(tmp_path / "n1", found, "secret")
    whole = b"".join(environments.pieces(found, frozenset()))
    pieces = [whole[at : at + len(whole) // 8 + 1] for at in range(0, len(whole), len(whole) // 8 + 1)]
    for piece in pieces[:7]:
        first.take((piece, False, False))
    assert {"kind": "env_behind", "behind": True} == told.messages.get(timeout=60)
    goes_on.set()
    until(lambda: first._own.qsize() == 0, "it has unpacked them")
    for piece in pieces[7:]:
        first.take((piece, False, True))
    assert {"kind": "env_behind", "behind": False} == told.messages.get(timeout=60)
    assert "env_ready" == told.messages.get(timeout=60)["kind"]


def test_a_host_whose_source_is_gone_keeps_nothing(venv: Path, tmp_path: Path) -> None:
    found = read(venv, tmp_path / "records")
    first, _ = transfer(tmp_path / "n1", found, "secret")
    second, told = transfer(tmp_path / "n2", found, "secret")
    assert "" == second.fetch(["127.0.0.1"], first.port, 10.0)
    first.take((b"not an environment at all", False, True))
    assert str(told.messages.get(timeout=120)["failed"]), "it reports why"
    until(lambda: not os.listdir(tmp_path / "n2"), "nothing is left")


def test_conda(tmp_path: Path) -> None:
    prefix, cache = tmp_path / "conda", tmp_path / "pkgs/thing"
    long = "/placehold" * 20
    for folder in ("bin", "conda-meta", "lib/python3.11"):
        (prefix / folder).mkdir(parents=True)
    (prefix / "lib/python3.11/os.py").touch()
    (prefix / "bin/python3.11").write_text("")
    (prefix / "bin/python").symlink_to("python3.11")
    (prefix / "lib/config.txt").write_text(f"root={prefix}\n")
    (cache / "lib").mkdir(parents=True)
    (cache / "lib/thing.so").write_bytes(b"\x7fELF\0" + f"{long}/share".encode() + b"\0end")
    size = (cache / "lib/thing.so").stat().st_size
    (prefix / "lib/thing.so").write_bytes((b"\x7fELF\0" + f"{prefix}/share".encode()).ljust(size - 4, b"\0") + b"\0end")
    paths = [
        {"_path": "lib/config.txt", "prefix_placeholder": long, "file_mode": "text"},
        {"_path": "lib/thing.so", "prefix_placeholder": long, "file_mode": "binary"},
    ]
    record = {"link": {"source": str(cache)}, "paths_data": {"paths": paths}}
    (prefix / "conda-meta/thing.json").write_text(json.dumps(record))
    found = read(prefix, tmp_path / "records")
    assert ("conda", "3.11") == (found.kind, found.version)
    top = Path(unpacked(found, tmp_path / "there")).parent.parent
    assert f"root={top}\n" == (top / "lib/config.txt").read_text()
    data = (top / "lib/thing.so").read_bytes()
    assert (
        len(data) == size and data.startswith(b"\x7fELF\0" + f"{top}/share".encode() + b"\0") and data.endswith(b"end")
    )


def test_a_path_in_a_program_that_is_too_short_stays() -> None:
    assert b"x/abc\0y" == env_store.in_binary(b"x/abc\0y", b"/abc", [(b"/abc", b"/longer/env")])
    assert b"x/e/env:/e/env\0\0\0\0y" == env_store.in_binary(b"x/abcdef:/abcdef\0\0y", b"/abcdef", [(b"", b"/e/env")])


def test_what_is_no_environment(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not in a virtual environment"):
        environments.find("/usr/bin/env")
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("home = /nowhere/bin\nversion = 3.11.2\n")
    (tmp_path / "bin/python").symlink_to("/nowhere/bin/python3.11")
    with pytest.raises(InvalidRequest, match=r"the interpreter of .* is missing: /nowhere/bin/python3\.11"):
        environments.find(str(tmp_path / "bin/python"))


def test_a_file_that_changes_while_it_is_sent(venv: Path, tmp_path: Path) -> None:
    found = read(venv, tmp_path / "records")
    (venv / "extra/more.py").write_text("WORD = 'a longer one'\n")
    with pytest.raises(InvalidRequest, match=r"more\.py changed while it was sent"):
        list(environments.pieces(found, frozenset()))


def test_editable_packages_are_named(venv: Path, tmp_path: Path) -> None:
    info = next(venv.glob("lib/python3*/site-packages")) / "my_project-1.0.dist-info"
    info.mkdir()
    (info / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "file:///srv/a%20b"}')
    assert (("my_project", "/srv/a b"),) == read(venv, tmp_path / "records").editable


def test_the_directory_of_environments(tmp_path: Path) -> None:
    assert f"/var/tmp/muster-envs-{os.getuid()}" == env_store.root_of("", {})
    root = env_store.open_root("", {"TMPDIR": str(tmp_path)})
    assert (f"{tmp_path}/muster-envs-{os.getuid()}", 0o40700) == (root, os.stat(root).st_mode)
    os.chmod(root, 0o777)
    with pytest.raises(PermissionError, match="world-writable"):
        env_store.open_root("", {"TMPDIR": str(tmp_path)})
    os.rmdir(root)
    os.symlink(tmp_path, root)
    with pytest.raises(PermissionError, match="symbolic link"):
        env_store.open_root("", {"TMPDIR": str(tmp_path)})


def test_which_environments_are_removed(tmp_path: Path) -> None:
    root, long_ago = str(tmp_path), time.time() - 100 * 86400
    for name in ("old", "used", "new"):
        (tmp_path / name / "env/bin").mkdir(parents=True)
        (tmp_path / name / "complete").touch()
        if name != "new":
            os.utime(tmp_path / name / "complete", (long_ago, long_ago))
    (tmp_path / "not ours").mkdir()
    being_made = env_store.Part(root, "address", "", "")
    dead = env_store.Part(root, "address", "", "")
    dead.close()
    script = tmp_path / "used/env/bin/wait"
    script.write_text("import sys\nprint(flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None and user.stdin is not None
        user.stdout.readline()
        assert sorted([f"{root}/old", dead.path]) == sorted(env_store.remove_old(root, dry=True))
        env_store.remove_old(root)
        user.stdin.close()
    assert {"used", "new", "not ours", os.path.basename(being_made.path)} == set(os.listdir(root))
    being_made.discard()


@pytest.mark.parametrize("slow", [False, True])
def test_pieces_are_compressed_in_order(slow: bool) -> None:
    pieces = [bytes([number]) * 1000 for number in range(50)] + [os.urandom(1000)]
    found = list(packed(iter(pieces), Pace(3), lambda: slow))
    assert pieces == [zlib.decompress(data) if smaller else data for data, smaller in found]
    assert (False, slow) == (found[-1][1], found[0][1])


def test_agents_start_with_the_python_that_the_environment_needs(tmp_path: Path) -> None:
    """On an old system, `python3` is too old for them."""
    for name in ("python3", "python3.12"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    found = Environment("venv", "/nowhere", "bin/python", "3.12", "/nowhere/python3.12")
    for environment, said in ((found, "python3.12"), (found._replace(version="3.13"), "python3")):
        script = shell_script(("python3",), (usual_python(environment),), False)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        assert said == subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True).stdout.strip()


FACTS = {"machine": os.uname().machine, "base": "/usr/bin/python3.12", "absent": (), "failed": ""}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"base": ""}, r"no Python 3\.12 on n2, which /p is based on \(/usr/bin/python3\.12\)"),
        ({"machine": "toaster"}, "n2 has toaster"),
        (
            {"failed": "No space left on device: /var/tmp"},
            "cannot write to the directory of environments: n2: No space left",
        ),
        ({"absent": ("/srv/mine",)}, "mine is installed in place .* is not on n2"),
    ],
)
def test_what_a_host_lacks_is_one_error(facts: dict[str, object], words: str) -> None:
    found = Environment("venv", "/p", "bin/python", "3.12", "/usr/bin/python3.12", "/usr")
    found = found._replace(editable=(("mine", "/srv/mine"),))
    _check(found, {"n1": FACTS})
    with pytest.raises(InvalidRequest, match=words):
        _check(found, {"n1": FACTS, "n2": {**FACTS, **facts}})


def test_compression_is_for_networks_that_are_slower_than_it() -> None:
    pace = Pace(4)
    assert not pace.worth(0, 0.0), "the network is faster than the disk"
    assert pace.worth(8 << 20, 1e6), "nothing is measured yet"
    assert not pace.worth(8 << 20, 50e6), "hosts hardly unpack faster"
    pace.pack(bytes(1 << 20))
    assert pace.worth(8 << 20, 1.0)
    assert not pace.worth(8 << 20, 1e15)
    assert not pace.worth(8 << 20, 1.0, behind=True), "a host that unpacks slowly does so sooner without"


def test_each_host_sends_to_two_others_at_most() -> None:
    assert [-1, 0, 0, 1, 1, 2, 2, 3] == parents(8)
