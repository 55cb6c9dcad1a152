"""Host lists and host files, as users and other launchers write them."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.hostlist import (
    HostSpec,
    assign_slots,
    expand_hostset,
    filter_hosts,
    fold_hostlist,
    parse_host,
    parse_hostfile,
    parse_hosts,
    parse_nodelist,
)
from muster.errors import InvalidRequest


def short(hosts: tuple[HostSpec, ...]) -> list[str]:
    """`user@name:slots/gpus`, without unset parts."""
    found = []
    for host in hosts:
        user = f"{host.user}@" if host.user else ""
        slots = "" if host.slots is None else f":{host.slots}"
        gpus = f"/{'+'.join(host.gpus)}" if host.gpus else ""
        found.append(user + host.name + slots + gpus)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ["n1"]),
        ("n1,n2", ["n1", "n2"]),
        ("n1 n2", ["n1", "n2"]),
        ("n[1-3],gpu5:4,gpu6:0,1", ["n1", "n2", "n3", "gpu5:4", "gpu6:2/0+1"]),
        ("n[1,3-4]:2", ["n1:2", "n3:2", "n4:2"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("gpu6:0,1,n2", ["gpu6:2/0+1", "n2"]),
        ("gpu6:0", ["gpu6:1/0"]),
        ("gpu6:1", ["gpu6:1"]),
        ("gpu6:3,5,gpu7:2", ["gpu6:2/3+5", "gpu7:2"]),
        ("ann@n1,bob@n2:4", ["ann@n1", "bob@n2:4"]),
        ("10.0.0.7,node-1.example.org", ["10.0.0.7", "node-1.example.org"]),
        ("b,a,c", ["b", "a", "c"]),
        ("::1,2001:db8::7", ["::1", "2001:db8::7"]),
        ("[2001:db8::7]:4,[::1]:0,1,n2", ["2001:db8::7:4", "::1:2/0+1", "n2"]),
        ("ann@[fe80::1%eth0]:2,ann@fe80::2%eth0", ["ann@fe80::1%eth0:2", "ann@fe80::2%eth0"]),
    ],
)
def test_hosts(text: str, expected: list[str]) -> None:
    assert expected == short(parse_hosts(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no hosts"),
        (",", "names no hosts"),
        ("n1,n1", "duplicate host: n1"),
        ("n[1-2],n2", "duplicate host: n2"),
        ("-oProxyCommand=x", "invalid host name"),
        ("n1;reboot", "invalid host name"),
        ("n1:four", "invalid number after the colon"),
        ("n1:0,0", "duplicate GPU"),
        (":4", "empty host name"),
        ("n[1-", "invalid"),
        ("-oProxyCommand=x@n1", "invalid user name"),
        ("a`id`@n1", "invalid user name"),
        ("-o[1-2]", "invalid host name"),
        ("%h", "invalid host name"),
        ("n1%eth0", "invalid host name"),
        ("[::1;x]", "invalid IPv6 address"),
        ("fe80::1%$(id)", "invalid number after the colon"),
        ("[fe80::1%$(id)]", "invalid IPv6 address"),
        ("@x';touch p;'", "invalid host set"),
        ("n1&@`touch p`", "invalid host set"),
        ("@-x", "invalid host set"),
        ("@*", "invalid host set"),
        ("n[1-3]*", "invalid host set"),
        ("n\u00b2", "invalid host name"),
        ("n1:\u00b2", "invalid number after the colon"),
        ("n[1-10000000]", "is 10000000"),
        ("n[1-1000]x[1-1000]", "is 1000000"),
        (f"n[1-{'9' * 5000}]", "hosts"),
    ],
)
def test_invalid_hosts(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_hosts(text)
    assert caught.value.hint


FILES: dict[str, tuple[str, Any]] = {
    "plain": ("n1\nn2\n", ["n1", "n2"]),
    "DeepSpeed": ("n1 slots=4\n# a comment\n\nn2 slots=2  # two\n", ["n1:4", "n2:2"]),
    "Open MPI": ("n1 slots=4 max_slots=8\nn2 slots=2 max-slots=2", ["n1:4", "n2:2"]),
    "Open MPI, a slot a line": ("n1\nn1\nn2\n", ["n1:2", "n2"]),
    "MPICH": ("n1:4\nn2:2\n", ["n1:4", "n2:2"]),
    "a number": ("n1 4\nn2 2\n", ["n1:4", "n2:2"]),
    "sets": ("n[1-3] slots=8\n", ["n1:8", "n2:8", "n3:8"]),
    "gpus": ("n1 gpus=0,2\n", ["n1:2/0+2"]),
    "a byte order mark": ("\ufeffn1 slots=4\n", ["n1:4"]),
    "IPv6": ("::1 slots=2\n[2001:db8::7]:4\nann@fe80::1%eth0\n", ["::1:2", "2001:db8::7:4", "ann@fe80::1%eth0"]),
    "users": ("ann@n1 slots=1\r\nn2\r\n", ["ann@n1:1", "n2"]),
}


@pytest.mark.parametrize("name", FILES)
def test_host_files(name: str) -> None:
    text, expected = FILES[name]
    assert expected == short(parse_hostfile(text, "hosts"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# nothing\n", "no hosts in host file hosts"),
        ("n1\nn2 slots=x\n", "hosts, line 2: invalid number of slots: `slots=x`"),
        ("n1 colour=red\n", "hosts, line 1: unknown word: `colour=red`"),
        ("n1 gpus=a\n", "hosts, line 1: invalid list of GPUs: `gpus=a`"),
        ("n1 4 5\n", "hosts, line 1: unknown word: `4`"),
        ("-n\n", "hosts, line 1: invalid host name: `-n`"),
        ("n1\n@x';touch${IFS}p;' slots=4\n", "hosts, line 2: invalid host set"),
        ("n1\0 slots=4\n", "hosts, line 1: invalid host name"),
        ("n1 slots=\u00b2\n", "invalid number of slots"),
    ],
)
def test_invalid_host_files(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_hostfile(text, "hosts")


HOSTS = parse_hosts("n1:4,n2:4,n3:2")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["n1:4", "n2:4", "n3:2"]),
        ("n1@n3", None, ["n1:4", "n3:2"]),
        ("n1:0,2", None, ["n1:2/0+2"]),
        (None, "n2", ["n1:4", "n3:2"]),
        (None, "n2:0,1@n3", ["n1:4", "n2:2/2+3"]),
        (None, "n3:0,1", ["n1:4", "n2:4"]),
    ],
)
def test_deepspeeds_include_and_exclude(include: str | None, exclude: str | None, expected: list[str]) -> None:
    assert expected == short(filter_hosts(HOSTS, include, exclude))


@pytest.mark.parametrize(
    ("include", "exclude", "says"),
    [
        ("n1", "n2", "cannot be combined"),
        ("n9", None, "unknown host: n9"),
        ("n1:x", None, "invalid GPUs after the colon"),
        (None, "n1@n2@n3", "excludes all hosts"),
        ("n2:7", None, "n2 has no GPU 7"),
        (None, "n2:0,9", "n2 has no GPU 9"),
        ("n1;x", None, "invalid host name"),
    ],
)
def test_impossible_choices(include: str | None, exclude: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        filter_hosts(HOSTS, include, exclude)


@pytest.mark.parametrize(
    ("hosts", "each", "total", "expected"),
    [
        ("n1,n2", 8, None, [8, 8]),
        ("n1,n2:3", 2, None, [2, 2]),
        ("n1:4,n2:4", 4, None, [4, 4]),
        ("n1:4,n2:4", 2, 3, [2, 1]),
        ("n1,n2", None, None, [None, None]),
        ("n1,n2", 8, 10, [8, 2]),
        ("n1:4,n2:4,n3:4", None, 5, [4, 1, 0]),
    ],
)
def test_how_many_each_gets(hosts: str, each: int | None, total: int | None, expected: list[int | None]) -> None:
    assert expected == assign_slots(parse_hosts(hosts), each, total)


@pytest.mark.parametrize(
    ("each", "total", "says"), [(None, 3, "unknown number of ranks"), (2, 9, "exceeds the 4 slots")]
)
def test_more_than_there_is(each: int | None, total: int, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        assign_slots(parse_hosts("n1,n2"), each, total)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["n1"], "n1"),
        (["n1", "n2", "n3"], "n[1-3]"),
        (["n1", "n3", "gpu5"], "n[1,3],gpu5"),
        (["n08", "n09", "n10"], "n[08-09],n10"),
        (["a-1-x", "a-2-x"], "a-[1-2]-x"),
        (["head", "n2", "n1"], "head,n[1-2]"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.1,10.0.0.2"),
        (["n1", "n1"], "n1"),
        (["fe80::1", "fe80::2"], "fe80::1,fe80::2"),
    ],
)
def test_folding(names: list[str], expected: str) -> None:
    assert expected == fold_hostlist(names)
    if names:
        assert sorted(set(names)) == sorted(name for piece in parse_hosts(expected) for name in [piece.name])


def test_slots_bound_what_is_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="-g 8 exceeds the 4 slots of n2"):
        assign_slots(parse_hosts("n1:8,n2:4"), 8, None)


@pytest.mark.parametrize("text", ["n1;x", "n[1-2],-oProxyCommand=x", "n[1-x]", "n[1-99999999]", "$(id)[1-2]"])
def test_a_node_list_of_slurm_is_checked(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_nodelist(text)


def test_one_host_of_a_run_elsewhere() -> None:
    assert (HostSpec("n1", "ann"), HostSpec("::1")) == (parse_host("ann@n1"), parse_host("[::1]"))
    for text in ("n[1-2]", "n1:4", "n1,n2", "", "@x';touch p;'", "-oProxyCommand=x@n1"):
        with pytest.raises(InvalidRequest):
            parse_host(text)


def test_a_set_is_expanded_in_order() -> None:
    assert ["n1", "n2", "n10"] == expand_hostset("n[1-2,10]", "here")


@pytest.mark.parametrize("name", ["5", "n1,4", "2:4"])
def test_a_number_is_no_host(name: str) -> None:
    """As in `hosts=5` from Python; ssh would try to reach 0.0.0.5 for a minute."""
    with pytest.raises(InvalidRequest, match="is a number"):
        parse_hosts(name)
