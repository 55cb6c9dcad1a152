"""Host lists and host files, as people and other launchers write them. Touches nothing.

--hosts n[1-3],gpu5:4,gpu6:0,1      three hosts, one with 4 ranks, one of which GPUs 0 and 1 are used
n1 slots=4                          a line of a host file: Open MPI's and DeepSpeed's form; `n1:4` is MPICH's
n1@n2:0,2                           DeepSpeed's --include and --exclude
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muster.errors import Impossible
from muster.ranks import fold


class Wanted(NamedTuple):
    """One host of a list."""

    name: str
    """As ssh is to reach it, without the user."""
    user: str = ""
    """Whom to be there; empty for what ssh is configured to."""
    slots: int | None = None
    """The ranks that it takes; None for what `-g` says."""
    gpus: tuple[str, ...] = ()
    """The GPUs that it lends; empty for all."""


_NUMBERS = re.compile(r"\d+(-\d+)?")


def parse_hosts(text: str) -> tuple[Wanted, ...]:
    """Read `--hosts`; raises `Impossible`."""
    found: list[Wanted] = []
    for word in _words(text):
        found += _entry(word, f"--hosts {text}")
    if not found:
        raise Impossible(f"--hosts {text!r} names no host", "for example `--hosts n1,n2,n[3-8]`")
    return _once(found, f"--hosts {text}")


def _words(text: str) -> list[str]:
    """The entries between commas. Numbers belong to the host before them: `n1:0,1,n2`; brackets hold commas too."""
    entries: list[str] = []
    for piece in re.findall(r"(?:\[[^\]]*\]|[^,\s])+", text):
        if entries and re.fullmatch(r"\d+", piece) and re.search(r":\d+(,\d+)*$", entries[-1]):
            entries[-1] += "," + piece
        else:
            entries.append(piece)
    return entries


def _entry(word: str, source: str) -> list[Wanted]:
    """One entry, which may name several hosts."""
    names, colon, after = word.partition(":")
    user = ""
    if "@" in names[1:] and "[" not in names.partition("@")[0]:
        user, _, names = names.partition("@")
    slots: int | None = None
    gpus: tuple[str, ...] = ()
    if colon:
        numbers = after.split(",")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise Impossible(
                f"{source}: `{word}` has no number after its colon",
                "write HOST:4 for 4 ranks, HOST:0,1 for GPUs 0 and 1; a port belongs into ssh's configuration or --ssh",
            )
        if len(numbers) > 1 or numbers == ["0"]:
            gpus, slots = tuple(numbers), len(numbers)
            if len(set(gpus)) < len(gpus):
                raise Impossible(f"{source}: `{word}` names a GPU twice", "name each once")
        else:
            slots = int(numbers[0])
    return [Wanted(name, user, slots, gpus) for name in expand(names, source)]


def expand(names: str, source: str) -> list[str]:
    """`n[1-3]`, `@group` of ClusterShell: the hosts, in order; raises `Impossible`."""
    if not names:
        raise Impossible(f"{source}: a host without a name", "for example `--hosts n1,n2`")
    if not re.search(r"[\[\]@&!^]", names):
        found = [names]
    else:
        try:
            from ClusterShell.NodeSet import NodeSet, NodeSetException
        except ImportError:
            raise Impossible(
                f"{source}: `{names}` is a set of hosts, and ClusterShell, which reads it, is not installed",
                "`pip install ClusterShell`, or write the hosts out",
            ) from None
        try:
            found = list(NodeSet(names))
        except NodeSetException as error:
            raise Impossible(
                f"{source}: `{names}` is no set of hosts: {error}",
                "for example `n[1-3,7]`, or `@group` of ClusterShell",
            ) from None
        if not found:
            raise Impossible(f"{source}: `{names}` has no host in it", "look at it with `cluset -e`")
    for name in found:
        if name.startswith("-") or not re.fullmatch(r"[A-Za-z0-9_.%:-]+", name):
            raise Impossible(
                f"{source}: `{name}` is no name of a host", "a name has letters, digits, dots and hyphens inside"
            )
    return found


def unfold_hosts(text: str) -> list[str]:
    """The hosts of a list as Slurm writes it, `n[1-3,07],gpu5`, in order; nothing has to be installed for it.

    Raises `Impossible`.
    """
    found: list[str] = []
    for piece in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for part in re.split(r"(\[[^\]]*\])", piece):
            choices = _numbers(part[1:-1], text) if part.startswith("[") else [part]
            names = [name + choice for name in names for choice in choices]
        found += names
    return found


def _numbers(text: str, whole: str) -> list[str]:
    """`1-3,07`: the numbers, as wide as they were written."""
    found = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        if not re.fullmatch(r"\d+(-\d+)?", item):
            raise Impossible(f"cannot read the host list `{whole}`", "it is written as `n[1-3,7]`")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return found


def fold_hosts(names: Iterable[str]) -> str:
    """`n[1-3],gpu5`: hosts in few words, as NodeSet writes them. The supervisor needs it where nothing is installed."""
    groups: dict[tuple[str, int, str], list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        if match is None or re.fullmatch(r"[\d.]+", name):  # an address is no row of machines
            groups.setdefault((name, 0, ""), [])
            continue
        before, digits, after = match.groups()
        width = len(digits) if digits.startswith("0") else 0
        groups.setdefault((before, width, after), []).append(int(digits))
    found = []
    for (before, width, after), numbers in groups.items():
        digits = re.findall(r"\d+|\D", fold(numbers))
        text = "".join(piece.zfill(width) if piece.isdigit() else piece for piece in digits)
        found.append(before + (f"[{text}]" if len(set(numbers)) > 1 else text) + after)
    return ",".join(found)


def _once(found: Sequence[Wanted], source: str) -> tuple[Wanted, ...]:
    seen: set[str] = set()
    for item in found:
        if item.name in seen:
            raise Impossible(
                f"{source}: {item.name} stands there twice", f"name it once, with its number of ranks: `{item.name}:8`"
            )
        seen.add(item.name)
    return tuple(found)


def parse_hostfile(text: str, path: str) -> tuple[Wanted, ...]:
    """Read a host file: one host a line, `#` for comments; slots as `slots=4` or `:4`. Raises `Impossible`."""
    found: dict[str, Wanted] = {}
    for number, line in enumerate(text.splitlines(), 1):
        source = f"{path}, line {number}"
        words = line.partition("#")[0].split()
        if not words:
            continue
        entries = _entry(words[0], source)
        for word in words[1:]:
            key, equals, value = word.partition("=")
            if not equals and re.fullmatch(r"\d+", word) and len(words) == 2:
                key, value = "slots", word  # `host 4`
            if key in ("max_slots", "max-slots"):
                continue
            if key not in ("slots", "gpus") or not value:
                raise Impossible(f"{source}: `{word}` is not known", "a line is `HOST`, `HOST slots=4` or `HOST:4`")
            if key == "gpus":
                if not re.fullmatch(r"\d+(,\d+)*", value):
                    raise Impossible(f"{source}: `{word}` lists no GPUs", "for example `gpus=0,1`")
                lent = tuple(value.split(","))
                entries = [entry._replace(gpus=lent, slots=len(lent)) for entry in entries]
            else:
                if not value.isdigit():
                    raise Impossible(f"{source}: `{word}` has no number", "for example `slots=4`")
                entries = [entry._replace(slots=int(value)) for entry in entries]
        for entry in entries:
            before = found.get(entry.name)
            if before is not None:  # Open MPI adds the slots of a host that stands there twice
                both = (before.slots or 1) + (entry.slots or 1)
                entry = entry._replace(slots=both, gpus=before.gpus + entry.gpus)
            found[entry.name] = entry
    if not found:
        raise Impossible(f"the host file {path} names no host", "one host a line, for example `n1 slots=4`")
    return tuple(found.values())


def choose(hosts: Sequence[Wanted], include: str | None, exclude: str | None) -> tuple[Wanted, ...]:
    """Keep what DeepSpeed's `--include` names, or all but what its `--exclude` names; raises `Impossible`."""
    if include and exclude:
        raise Impossible("--include and --exclude were both given", "one of them says it all")
    if not include and not exclude:
        return tuple(hosts)
    option, text = ("--include", include) if include else ("--exclude", exclude)
    named = _selection(str(text), f"{option} {text}")
    by_name = {host.name: host for host in hosts}
    for name in named:
        if name not in by_name:
            raise Impossible(f"{option} {text}: there is no host {name}", f"there are {', '.join(by_name)}")
    if include:
        return tuple(
            host._replace(gpus=named[host.name], slots=len(named[host.name])) if named[host.name] else host
            for host in hosts
            if host.name in named
        )
    kept: list[Wanted] = []
    for host in hosts:
        if host.name not in named:
            kept.append(host)
        elif named[host.name]:
            all_gpus = host.gpus or tuple(str(number) for number in range(host.slots or 0))
            if not all_gpus:
                raise Impossible(
                    f"{option} {text}: how many GPUs {host.name} has is not known here",
                    f"give its slots, or name the GPUs to use: `{host.name}:0,1`",
                )
            left = tuple(gpu for gpu in all_gpus if gpu not in named[host.name])
            if left:
                kept.append(host._replace(gpus=left, slots=len(left)))
    if not kept:
        raise Impossible(f"{option} {text} leaves no host", "exclude less")
    return tuple(kept)


def _selection(text: str, source: str) -> dict[str, tuple[str, ...]]:
    """`n1@n2:0,2`: GPUs by host; none means the whole host."""
    found: dict[str, tuple[str, ...]] = {}
    for item in text.split("@"):
        names, _, numbers = item.strip().partition(":")
        gpus = tuple(number for number in numbers.split(",") if number)
        if not all(number.isdigit() for number in gpus):
            raise Impossible(f"{source}: `{item}` has no numbers after its colon", "for example `n1@n2:0,2`")
        for name in expand(names, source):
            found[name] = gpus
    return found


def shares(hosts: Sequence[Wanted], each: int | None, total: int | None) -> list[int | None]:
    """The number of ranks on each host: its slots, else `-g`, filled up in order to `-n`; None where nobody says.

    Hosts that get no rank are 0. Raises `Impossible`.
    """
    counts = [host.slots if host.slots is not None else each for host in hosts]
    if total is None:
        return counts
    if total < 1:
        raise Impossible(f"-n {total}: there must be a rank", "give a number from 1")
    left, found = total, []
    for host, count in zip(hosts, counts):
        if count is None:
            raise Impossible(
                f"-n {total}: how many of them go to {host.name} is not said",
                f"give its slots, `{host.name}:8`, or `-g` for all",
            )
        found.append(min(count, left))
        left -= found[-1]
    if left:
        room = sum(count or 0 for count in counts)
        raise Impossible(
            f"-n {total} is more than the {room} slots of {fold_hosts(host.name for host in hosts)}",
            "ask for fewer ranks, or for more on each by `-g`",
        )
    return list(found)
