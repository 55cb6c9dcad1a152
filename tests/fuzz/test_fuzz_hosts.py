"""Host lists and host files: any text gives hosts or one sentence, and what is folded unfolds again."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from fuzzing import any_text, near, result_or_sentence
from hypothesis import example, given
from hypothesis import strategies as st

from muster.core import hostlist
from muster.core.hostlist import HostSpec, fold_hostlist, parse_nodelist
from muster.errors import InvalidRequest

LISTS = (
    "n[1-3],gpu5:4,gpu6:0,1",
    "fe80::1%eth0,[2001:db8::7]:4",
    "ann@n1:2,n[01-03/2,7]x[1-2]",
    "@gpu:all&n[1-9]!n3^n4",
)
FILES = (
    "n1 slots=4\nn2:2 # two\nn3 4\n\n# none\nn4 max_slots=8 gpus=0,1\n",
    "\ufeffn1\r\nann@n2 slots=1\nn1 slots=2\n",
)
SELECTIONS = ("n1@n2:0,2", "n[1-3]:1", "n1:0,1@n1")
HOSTS = (HostSpec("n1", slots=4), HostSpec("n2", gpus=("0", "2"), slots=2), HostSpec("n3"))

READERS: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "--hosts": (hostlist.parse_hosts, LISTS),
    "HOST": (hostlist.parse_host, LISTS),
    "node list": (hostlist.parse_nodelist, LISTS),
    "host file": (lambda text: hostlist.parse_hostfile(text, "hosts"), FILES),
    "--include": (lambda text: hostlist.filter_hosts(HOSTS, text, None), SELECTIONS),
    "--exclude": (lambda text: hostlist.filter_hosts(HOSTS, None, text), SELECTIONS),
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_text_gives_hosts_or_one_sentence(name: str, data: st.DataObject) -> None:
    read, samples = READERS[name]
    text = data.draw(near(*samples))
    result_or_sentence(lambda: read(text))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", ["n" + "9" * 5000 + "[1-2]", "9" * 5000 + "n", "n[1-2/" + "9" * 5000 + "]", "n" * 256])
def test_names_and_numbers_of_thousands_of_digits(name: str, text: str) -> None:
    """Python refuses to parse them, with a ValueError; ClusterShell passes it on."""
    read, _ = READERS[name]
    with pytest.raises(InvalidRequest):
        read(text)


@pytest.mark.parametrize("text", ["n[1-3]9999999999999999999", "[1-20000]00000"])
def test_ranges_that_clustershell_refuses(text: str) -> None:
    """It takes digits after the brackets as a part of the range, and refuses that by an AssertionError."""
    with pytest.raises(InvalidRequest, match="range too large"):
        hostlist.parse_hosts(text)


_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,4}[0-9]{0,3}(\.[a-z]{1,3}[0-9]{0,2})?", fullmatch=True)


@given(st.lists(_NAMES, min_size=1, max_size=12, unique=True))
@example(["n1", "n01", "n001", "n2"])
@example(["n09", "n10", "n11"])
@example(["n099", "n100"])
@example(["n", "n1"])
def test_a_folded_list_unfolds_to_the_same_hosts(names: list[str]) -> None:
    assert sorted(parse_nodelist(fold_hostlist(names))) == sorted(names)


@given(any_text)
@example("n" + "9" * 5000)
@example("n²")
def test_any_names_can_be_folded(text: str) -> None:
    assert isinstance(fold_hostlist(text.split()), str)
    fold_hostlist([text])


@given(st.lists(st.tuples(_NAMES, st.integers(1, 64)), min_size=1, max_size=6, unique_by=lambda item: item[0]))
def test_a_list_of_hosts_with_ranks_is_read_as_it_was_meant(hosts: list[tuple[str, int]]) -> None:
    text = ",".join(f"{name}:{slots}" for name, slots in hosts)
    assert [(host.name, host.slots) for host in hostlist.parse_hosts(text)] == hosts
    lines = "".join(f"{name} slots={slots}\n" for name, slots in hosts)
    assert [(host.name, host.slots) for host in hostlist.parse_hostfile(lines, "hosts")] == hosts
