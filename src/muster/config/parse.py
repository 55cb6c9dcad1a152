"""Parsers for command lines, environment variables and tables of muster.toml, driven by the option tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from muster.config.options import OF_TORCHRUN, RUN
from muster.config.record import Option
from muster.core.printable import line
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.schedulers import SCHEDULERS, options_of, typed

Table = Sequence[Option[Any]]
Names = Mapping[str, Option[Any]]


class ParsedArgs(NamedTuple):
    """A parsed command line."""

    options: dict[str, Any]
    """Values of the options that were typed, by key."""
    operands: list[str]
    """The arguments from the first one that is not an option."""
    after_dashes: bool
    """True if these followed `--`."""


class Typed(NamedTuple):
    """An option on a command line."""

    name: str
    """As typed, with hyphens for underscores."""
    value: str | None
    """Value; None for an option without one."""
    full: str
    """Full name of the option if only a prefix of it was typed; otherwise `name`."""


class Line(NamedTuple):
    """A command line, split into options and the rest; values are not converted yet."""

    typed: list[Typed]
    rest: list[str]
    dashes: bool
    fault: InvalidRequest | None
    """The error after the last of these options, if there is one."""

    def read(
        self, names: Names, command: str = "run", elsewhere: Callable[[str], str | None] = lambda name: None
    ) -> ParsedArgs:
        """Convert the values; raises `InvalidRequest` for the first wrong option.

        Hints refer to the `--help` of `command`. `elsewhere` returns a hint for an unknown option, or None.
        """
        given: dict[str, Any] = {}
        for name, value, full in self.typed:
            option = names.get(full)
            if option is None:
                raise InvalidRequest(
                    f"unknown option: {name}",
                    elsewhere(full) or did_you_mean(full, names) or f"`muster {command} --help` lists all options",
                )
            if value is None:
                given[option.key] = True
            else:
                _put(given, option, value, name)
        if self.fault is not None:
            raise self.fault
        return ParsedArgs(given, self.rest, self.dashes)


def names_of(options: Table) -> Names:
    """Options by name."""
    return {name: option for option in options for name in option.names}


def names_in(scheduler: str, options: Table) -> Names:
    """Options by name, including the names that the scheduler's own program uses (sbatch: `-t` for `--time`)."""
    by_key = {option.key: option for option in options}
    own = options_of(scheduler).names
    # a command's own options keep their names: `-o` of `muster export`
    taken = names_of([option for option in options if option not in RUN])
    return {**names_of(options), **{name: by_key[key] for key, names in own.items() for name in names}, **taken}


_OTHERS = {
    **dict.fromkeys(("--dry-run", "--dryrun"), "`muster plan …` shows what `muster run …` would do"),
    **dict.fromkeys(("--nprocs", "--nproc", "--num-gpus", "--num_gpus", "--gpus-per-host"), "ranks per node: -g N"),
    **dict.fromkeys(("--num-processes", "--num_processes", "--world-size", "--world_size"), "ranks in all: -n N"),
    **dict.fromkeys(("--num-machines", "--num_machines", "--num-nodes", "--num_nodes"), "nodes: -N N, or -H HOSTS"),
}
"""Hints for options of other programs that no option here resembles."""


def hint_for_unknown(name: str, options: Table) -> str | None:
    """Hint for an option that other launchers have, or a scheduler that was not chosen; None for other names."""
    if name in _OTHERS:
        return _OTHERS[name]
    for scheduler in SCHEDULERS:
        if name in names_in(scheduler, options).keys() - names_of(options).keys():
            return f"with {typed(scheduler)} this is {names_in(scheduler, options)[name].long_name}"
    return None


def hint_in_job(name: str, scheduler: str, options: Table) -> str | None:
    """Hint for an unknown option where a scheduler was chosen: its program may have it."""
    names, other = names_in(scheduler, options), f"--{scheduler}-opt"
    if not name.startswith("--") or other not in names:
        return None
    program = options_of(scheduler).program
    return did_you_mean(name, names) or f"if {program} has it, write `{other} {name[2:]}=VALUE`"


def cut(words: Sequence[str], names: Names, interleaved: bool = False) -> Line:
    """Split a command line: options end at the first other argument, unless options and operands are `interleaved`.

    Splitting stops at an unknown option, as the next argument may or may not be its value.
    """
    typed: list[Typed] = []
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return Line(typed, rest + queue, True, None)
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if interleaved:
                continue
            return Line(typed, rest + queue, False, None)
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        elif name not in names and len(name) > 2 and name[:2] in names:
            # -g4, or -qh
            if names[name[:2]].metavar:
                equals, value = "=", word[2:]
            else:
                queue.insert(0, "-" + word[2:])
                equals = ""
            name = name[:2]
        try:
            full = name if name in names else _in_full(name, names)
        except InvalidRequest as ambiguous:
            return Line(typed, rest, False, ambiguous)
        if full not in names:
            return Line([*typed, Typed(word.partition("=")[0], None, full)], rest, False, None)
        if not names[full].metavar:
            if equals:
                fault = InvalidRequest(f"{name} takes no value (got {_quoted(value)})", f"use `{name}` without a value")
                return Line(typed, rest, False, fault)
            typed.append(Typed(name, None, full))
            continue
        if not equals:
            if not queue:
                option = names[full]
                fault = InvalidRequest(f"{name} requires a value", option.hint(name, whole=True))
                return Line(typed, rest, False, fault)
            value = queue.pop(0)
        typed.append(Typed(name, value, full))
    return Line(typed, rest, False, None)


def parse(words: Sequence[str], options: Table, interleaved: bool = False, command: str = "run") -> ParsedArgs:
    """Parse a command line; see `cut` for `interleaved`. Raises `InvalidRequest`."""
    names = names_of(options)
    return cut(words, names, interleaved).read(names, command)


def _in_full(name: str, names: Names) -> str:
    """Expand a prefix of one of torchrun's options, as torchrun's parser does: `--nproc`, `--max`.

    Returns other names unchanged; raises `InvalidRequest` for an ambiguous prefix.
    """
    if len(name) < 3:
        return name
    begun = sorted(full for full in OF_TORCHRUN if full.startswith(name) and full in names)
    if len(begun) > 1:
        raise InvalidRequest(f"ambiguous option: {name} matches {', '.join(begun)}", "use the full name")
    return begun[0] if begun else name


def _put(given: dict[str, Any], option: Option[Any], value: str, source: str) -> None:
    """Convert and store a value; `source` names where it was set: an option, a variable or a key."""
    if "\0" in value:
        raise InvalidRequest(
            f"invalid value for {source}: {_quoted(value)} (contains a NUL character)", "remove that character"
        )
    try:
        read = option.read(value)
    except ValueError as error:
        raise InvalidRequest(
            f"invalid value for {source}: {_quoted(value)} (expected {error})", option.hint(source)
        ) from None
    if option.many:
        given.setdefault(option.key, []).append(read)
    else:
        given[option.key] = read


def from_environment(options: Table, env: Mapping[str, str]) -> dict[str, Any]:
    """Options set by environment variables."""
    given: dict[str, Any] = {}
    for option in options:
        for name in option.variables:
            if name in env and option.key not in given:
                _from_text(given, option, env[name], name)
    return given


def from_table(options: Table, data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Options set by a table of muster.toml; `source` names the table in errors."""
    by_key = {option.key: option for option in options}
    if not isinstance(data, Mapping):
        raise InvalidRequest(f"{source} is not a table", "put options into a table `[run]` or `[profile.NAME]`")
    given: dict[str, Any] = {}
    for key, value in data.items():
        option = by_key.get(key.replace("-", "_"))
        if option is None:
            raise InvalidRequest(
                f"{source}: unknown option: {key}",
                did_you_mean(key, by_key)
                or f"`muster {'hold' if 'idle' in by_key else 'run'} --help` lists all options",
            )
        for item in value if isinstance(value, list) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            _from_text(given, option, text, f"{key} in {source}")
    return given


def _from_text(given: dict[str, Any], option: Option[Any], text: str, source: str) -> None:
    if option.metavar:
        _put(given, option, text, source)
    elif text.lower() in ("1", "true", "yes", "on"):
        given[option.key] = True
    elif text.lower() not in ("", "0", "false", "no", "off"):
        raise InvalidRequest(
            f"invalid value for {source}: {_quoted(text)} (expected true or false)", option.hint(source)
        )


def _quoted(value: str) -> str:
    """A value on one line, in single quotes."""
    return f"'{line(value)}'"
