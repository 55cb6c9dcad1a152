"""Host lists and host files, in the formats of users and of other launchers. Pure.

--hosts n[1-3],gpu5:4,gpu6:0,1      five hosts, one with 4 ranks, one of which uses GPUs 0 and 1
--hosts fe80::1%eth0,[2001:db8::7]:4   IPv6 addresses; brackets separate the address from the number of ranks
n1 slots=4                          a line of a host file, as for Open MPI and DeepSpeed; `n1:4` as for MPICH
n1@n2:0,2                           DeepSpeed's --include and --exclude

Every name is checked against a strict pattern before anything else uses it. ClusterShell puts group names into a shell
command, ssh takes a host that starts with `-` for an option, and a user's ssh configuration may put host and user into
a shell command (`ProxyCommand`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muster.core.fold import by_value
from muster.core.layout import fold
from muster.errors import InvalidRequest


class HostSpec(NamedTuple):
    """A host in a list."""

    name: str
    """Its name for ssh, without the user."""
    user: str = ""
    """Login user; empty for the one in the ssh configuration."""
    slots: int | None = None
    """Number of ranks; None for the value of `-g`."""
    gpus: tuple[str, ...] = ()
    """The GPUs to use; empty for all."""


_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_SCOPE = re.compile(r"[A-Za-z0-9_.-]+")
"""The interface in `fe80::1%eth0`."""

_NAMES = r"(?:[A-Za-z0-9_.-]|\[[0-9][0-9,/-]*\])+"
_GROUP = r"@(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*:)?[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_SET = re.compile(rf"(?:{_NAMES}|{_GROUP})(?:[,!&^](?:{_NAMES}|{_GROUP}))*")
"""The accepted subset of ClusterShell's node sets: names, number ranges in brackets, groups, and operators."""

_COUNT = re.compile(r"[0-9]{1,6}")
"""A number of ranks, or of a GPU. No longer number is meant, and Python refuses to parse thousands of digits."""
_DIGITS = re.compile("[0-9]+")
_NUMBERS = re.compile(r"[0-9]{1,12}(-[0-9]{1,12})?(/[0-9]{1,12})?")

_LONGEST_NAME = 255
"""Maximum characters of a host name (RFC 1123)."""

MOST_HOSTS = 100_000
"""Maximum number of hosts: more are a typo in a list such as `n[1-10000000]`, which would exhaust the memory."""


def parse_hosts(text: str) -> tuple[HostSpec, ...]:
    """Parse `--hosts`. Raises `InvalidRequest`."""
    found: list[HostSpec] = []
    for word in _words(text):
        found += _entry(word, f"--hosts {text}")
    if not found:
        raise InvalidRequest(f"--hosts {text!r} names no hosts", "for example, `--hosts n1,n2,n[3-8]`")
    return _once(found, f"--hosts {text}")


def parse_host(text: str) -> HostSpec:
    """Parse `HOST` or `USER@HOST`, as before the colon in HOST:RUN. Raises `InvalidRequest`."""
    found = _entry(text, f"host {text}")
    if len(found) != 1 or found[0].slots is not None:
        raise InvalidRequest(f"not a single host: `{text}`", "for example, `n1:last` or `ann@n1:last`")
    return found[0]


def _words(text: str) -> list[str]:
    """Split a list at commas, except inside brackets, and in numbers of a host: `n1:0,1,n2`."""
    entries: list[str] = []
    for piece in re.findall(r"(?:\[[^\]]*\]|[^,\s])+", text):
        counted = entries and re.search(r":[0-9]+(,[0-9]+)*$", entries[-1]) and not is_ipv6(entries[-1])
        if counted and re.fullmatch(r"[0-9]+", piece):
            entries[-1] += "," + piece
        else:
            entries.append(piece)
    return entries


def is_ipv6(name: str) -> bool:
    """Return whether the name is an IPv6 address without brackets, possibly with a scope (`fe80::1%eth0`)."""
    from ipaddress import AddressValueError, IPv6Address

    address, percent, scope = name.partition("%")
    try:
        IPv6Address(address)
    except AddressValueError:
        return False
    return not percent or _SCOPE.fullmatch(scope) is not None


def _entry(word: str, source: str) -> list[HostSpec]:
    """Parse one entry, which may name several hosts."""
    user, names = "", word
    if re.match(r"[^@\[&!^]+@", names):  # otherwise it is a group, possibly in a set: `@racks`, `n1&@racks`
        user, _, names = names.partition("@")
        if not _USER.fullmatch(user):
            raise InvalidRequest(
                f"{source}: invalid user name: `{user}`", "user names consist of letters, digits, dots and hyphens"
            )
    bracketed = re.fullmatch(r"\[([^\]]*:[^\]]*)\](?:(:)(.*))?", names)
    if bracketed:
        names, colon, after = bracketed[1], bracketed[2] or "", bracketed[3] or ""
        if not is_ipv6(names):
            raise InvalidRequest(f"{source}: invalid IPv6 address: `{names}`", "for example, `[2001:db8::7]:4`")
    elif is_ipv6(names):
        colon = after = ""
    else:
        names, colon, after = names.partition(":")
    slots: int | None = None
    gpus: tuple[str, ...] = ()
    if colon:
        numbers = after.split(",")
        if not all(map(_COUNT.fullmatch, numbers)):
            raise InvalidRequest(
                f"{source}: invalid number after the colon: `{word}`",
                "write HOST:4 for 4 ranks, HOST:0,1 for GPUs 0 and 1; set a port in ~/.ssh/config or --ssh",
            )
        if len(numbers) > 1 or numbers == ["0"]:
            gpus, slots = tuple(numbers), len(numbers)
            if len(set(gpus)) < len(gpus):
                raise InvalidRequest(f"{source}: duplicate GPU: `{word}`", "name each GPU once")
        else:
            slots = int(numbers[0])
    if names.isdigit():
        raise InvalidRequest(
            f"{source}: `{names}` is a number, which ssh takes for an address",
            "name the hosts; `--nnodes` is their number",
        )
    return [HostSpec(name, user, slots, gpus) for name in expand_hostset(names, source)]


def expand_hostset(names: str, source: str) -> list[str]:
    """Return the hosts of `n[1-3]` or of ClusterShell's `@group`, in order. Raises `InvalidRequest`."""
    if not names:
        raise InvalidRequest(f"{source}: empty host name", "for example, `--hosts n1,n2`")
    if is_ipv6(names) or not re.search(r"[\[\]@&!^]", names):
        return [_checked(names, source)]
    if not _SET.fullmatch(names):
        raise InvalidRequest(
            f"{source}: invalid host set: `{names}`",
            "for example, `n[1-3,7]` or a ClusterShell group `@gpu`",
        )
    _refuse_too_many(names, source)
    try:
        from ClusterShell.NodeSet import NodeSet, NodeSetException
    except ImportError:
        raise InvalidRequest(
            f"{source}: host set `{names}` requires ClusterShell, which is not installed",
            "run `pip install ClusterShell`, or list the hosts",
        ) from None
    try:
        found = list(NodeSet(names))
    # ValueError: Python refuses to parse thousands of digits; AssertionError: ClusterShell refuses ranges from 1e9 on
    except (NodeSetException, ValueError, AssertionError) as error:
        raise InvalidRequest(
            f"{source}: invalid host set: `{names}`: {error}", "for example, `n[1-3,7]` or a ClusterShell group `@gpu`"
        ) from None
    if not found:
        raise InvalidRequest(f"{source}: empty host set: `{names}`", "check it with `cluset -e`")
    return [_checked(name, source) for name in found]


def _checked(name: str, source: str) -> str:
    """Return the name if it is a valid hostname. Raises `InvalidRequest` otherwise."""
    if len(name) > _LONGEST_NAME or (not _HOST.fullmatch(name) and not is_ipv6(name)):
        raise InvalidRequest(
            f"{source}: invalid host name: `{name}`", "host names consist of letters, digits, dots and inner hyphens"
        )
    return name


def _refuse_too_many(names: str, source: str) -> None:
    """Raise `InvalidRequest` for a list with too many hosts, before it is expanded."""
    total = 0
    for piece in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", names):
        count = 1
        for inside in re.findall(r"\[([^\]]*)\]", piece):
            count *= sum(_length(item) for item in inside.split(","))
        total += count
    if total > MOST_HOSTS:
        raise InvalidRequest(f"{source}: too many hosts: `{names}` is {total}", f"the maximum is {MOST_HOSTS}")


def _length(item: str) -> int:
    """Return the number of values in a range such as `1-3`."""
    first, _, last = item.partition("/")[0].partition("-")
    # a number with more digits is a typo, and Python refuses to parse thousands of digits
    if max(len(first), len(last)) > 12:
        return MOST_HOSTS + 1
    return max(1, int(last) - int(first) + 1) if _DIGITS.fullmatch(first) and _DIGITS.fullmatch(last) else 1


def parse_nodelist(text: str, source: str = "the list of nodes") -> list[str]:
    """Return the hosts of a scheduler's node list, `n[1-3,07],gpu5`, in order, without external packages.

    `source` names the list in errors. Raises `InvalidRequest`.
    """
    _refuse_too_many(text, source)
    found: list[str] = []
    for piece in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for part in re.split(r"(\[[^\]]*\])", piece):
            choices = _numbers(part[1:-1], text) if part.startswith("[") else [part]
            names = [name + choice for name in names for choice in choices]
        found += [_checked(name, source) for name in names]
    return found


def _numbers(text: str, whole: str) -> list[str]:
    """Return the numbers of `1-3,07`, keeping leading zeros."""
    found = []
    for item in text.split(","):
        if not _NUMBERS.fullmatch(item):
            raise InvalidRequest(f"invalid host list: `{whole}`", "write it as `n[1-3,7]`")
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        numbers = range(int(first), int(last or first) + 1, int(step or 1) or 1)
        found += [str(number).zfill(len(first)) for number in numbers]
    return found


def fold_hostlist(names: Iterable[str]) -> str:
    """Return a compact host list such as `n[1-3],gpu5`, like NodeSet, which may not be installed for the controller."""
    groups: dict[tuple[str, int, str], list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)([0-9]{1,18})([^0-9]*)", name)
        if match is None or re.fullmatch(r"[\d.]+", name) or ":" in name:  # an IP address is no series
            groups.setdefault((name, -1, ""), [])  # no number has this width: `n` and `n1` are no series
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


def fold_reasons(pairs: Iterable[tuple[str, str]]) -> str:
    """Return (host, reason) pairs as text, grouped by reason: `n[1-2]: no answer; n3: refused`."""
    return "; ".join(f"{fold_hostlist(names)}: {reason}" for reason, names in by_value(pairs).items())


def fold_values(pairs: Iterable[tuple[str, str]]) -> str:
    """Return (host, value) pairs as text, grouped by value: `n[1-2] 3.11, n3 3.12`."""
    return ", ".join(f"{fold_hostlist(names)} {value}" for value, names in by_value(pairs).items())


def _once(found: Sequence[HostSpec], source: str) -> tuple[HostSpec, ...]:
    seen: set[str] = set()
    for item in found:
        if item.name in seen:
            raise InvalidRequest(
                f"{source}: duplicate host: {item.name}", f"name it once, with its number of ranks: `{item.name}:8`"
            )
        seen.add(item.name)
    return tuple(found)


def parse_hostfile(text: str, path: str) -> tuple[HostSpec, ...]:
    """Parse a host file: one host per line, `#` for comments, slots as `slots=4` or `:4`. Raises `InvalidRequest`."""
    found: dict[str, HostSpec] = {}
    text = text[1:] if text.startswith("\ufeff") else text  # some editors write a UTF-8 byte order mark
    for number, line in enumerate(text.splitlines(), 1):
        source = f"{path}, line {number}"
        words = line.partition("#")[0].split()
        if not words:
            continue
        entries = _entry(words[0], source)
        for word in words[1:]:
            key, equals, value = word.partition("=")
            if not equals and _COUNT.fullmatch(word) and len(words) == 2:
                key, value = "slots", word  # `host 4`
            if key in ("max_slots", "max-slots"):
                continue
            if key not in ("slots", "gpus") or not value:
                raise InvalidRequest(
                    f"{source}: unknown word: `{word}`", "write a line as `HOST`, `HOST slots=4` or `HOST:4`"
                )
            if key == "gpus":
                if not re.fullmatch(r"[0-9]+(,[0-9]+)*", value):
                    raise InvalidRequest(f"{source}: invalid list of GPUs: `{word}`", "for example, `gpus=0,1`")
                lent = tuple(value.split(","))
                entries = [entry._replace(gpus=lent, slots=len(lent)) for entry in entries]
            else:
                if not _COUNT.fullmatch(value):
                    raise InvalidRequest(f"{source}: invalid number of slots: `{word}`", "for example, `slots=4`")
                entries = [entry._replace(slots=int(value)) for entry in entries]
        for entry in entries:
            before = found.get(entry.name)
            if before is not None:  # Open MPI adds up the slots of a host that is listed twice
                both = (before.slots or 1) + (entry.slots or 1)
                entry = entry._replace(slots=both, gpus=before.gpus + entry.gpus)
            found[entry.name] = entry
    if not found:
        raise InvalidRequest(f"no hosts in host file {path}", "write one host per line, for example `n1 slots=4`")
    return tuple(found.values())


def filter_hosts(hosts: Sequence[HostSpec], include: str | None, exclude: str | None) -> tuple[HostSpec, ...]:
    """Filter hosts by DeepSpeed's `--include` or `--exclude`. Raises `InvalidRequest`."""
    if include and exclude:
        raise InvalidRequest("--include cannot be combined with --exclude", "leave out one of them")
    if not include and not exclude:
        return tuple(hosts)
    option, text = ("--include", include) if include else ("--exclude", exclude)
    named = _selection(str(text), f"{option} {text}")
    by_name = {host.name: host for host in hosts}
    for name in named:
        if name not in by_name:
            raise InvalidRequest(f"{option} {text}: unknown host: {name}", f"known hosts: {', '.join(by_name)}")
        lent = _lent(by_name[name])
        missing = [gpu for gpu in named[name] if lent and gpu not in lent]
        if missing:
            raise InvalidRequest(f"{option} {text}: {name} has no GPU {missing[0]}", f"its GPUs are {', '.join(lent)}")
    if include:
        return tuple(
            host._replace(gpus=named[host.name], slots=len(named[host.name])) if named[host.name] else host
            for host in hosts
            if host.name in named
        )
    kept: list[HostSpec] = []
    for host in hosts:
        if host.name not in named:
            kept.append(host)
        elif named[host.name]:
            all_gpus = _lent(host)
            if not all_gpus:
                raise InvalidRequest(
                    f"{option} {text}: unknown number of GPUs on {host.name}",
                    f"set its slots, or name the GPUs to use: `{host.name}:0,1`",
                )
            left = tuple(gpu for gpu in all_gpus if gpu not in named[host.name])
            if left:
                kept.append(host._replace(gpus=left, slots=len(left)))
    if not kept:
        raise InvalidRequest(f"{option} {text} excludes all hosts", "exclude fewer")
    return tuple(kept)


def _lent(host: HostSpec) -> tuple[str, ...]:
    """Return the GPUs of a host, as DeepSpeed counts them: one per slot; empty if unknown."""
    return host.gpus or tuple(str(number) for number in range(host.slots or 0))


def _selection(text: str, source: str) -> dict[str, tuple[str, ...]]:
    """Parse `n1@n2:0,2` to GPUs by host; an empty tuple means the whole host."""
    found: dict[str, tuple[str, ...]] = {}
    for item in text.split("@"):
        names, _, numbers = item.strip().partition(":")
        gpus = tuple(number for number in numbers.split(",") if number)
        if not all(re.fullmatch("[0-9]+", number) for number in gpus):
            raise InvalidRequest(f"{source}: invalid GPUs after the colon: `{item}`", "for example, `n1@n2:0,2`")
        for name in expand_hostset(names, source):
            found[name] = gpus
    return found


def assign_slots(hosts: Sequence[HostSpec], each: int | None, total: int | None) -> list[int | None]:
    """Return the number of ranks on each host: `each` (`-g`) or its slots, filled in order up to `total` (`-n`).

    None means unknown, 0 that the host gets no rank. Raises `InvalidRequest`.
    """
    for host in hosts:
        if each is not None and host.slots is not None and each > host.slots:
            raise InvalidRequest(
                f"-g {each} exceeds the {host.slots} {'slot' if host.slots == 1 else 'slots'} of {host.name}",
                f"raise its slots with `{host.name}:{each}`, or leave out `-g`: each host gets one rank per slot",
            )
    counts = [host.slots if each is None else each for host in hosts]
    if total is None:
        return counts
    if total < 1:
        raise InvalidRequest(f"-n {total}: not a positive number of ranks", "start at least one rank")
    left, found = total, []
    for host, count in zip(hosts, counts):
        if count is None:
            raise InvalidRequest(
                f"-n {total}: unknown number of ranks for {host.name}",
                f"set its slots with `{host.name}:8`, or use `-g` for all hosts",
            )
        found.append(min(count, left))
        left -= found[-1]
    if left:
        room = sum(count or 0 for count in counts)
        raise InvalidRequest(
            f"-n {total} exceeds the {room} slots of {fold_hostlist(host.name for host in hosts)}",
            "use fewer ranks, or more per host with `-g`",
        )
    return list(found)
