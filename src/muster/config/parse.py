"""Command lines, environment variables and tables of muster.toml, read by the table of the options; and the help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from muster.config.options import OF_TORCHRUN
from muster.config.record import Option
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.schedulers import SCHEDULERS, options_of, typed

EMPTY = "''"
"""How a value without a character is shown: as it is typed."""

Table = Sequence[Option[Any]]
Names = Mapping[str, Option[Any]]


class ParsedArgs(NamedTuple):
    """What a command line says."""

    options: dict[str, Any]
    """Options that were typed, by key."""
    operands: list[str]
    """The words from the first one that is no option."""
    after_dashes: bool
    """Those words came after `--`."""


class Typed(NamedTuple):
    """One option of a command line."""

    name: str
    """As typed, with hyphens for underscores; in full where a beginning stands for it."""
    value: str | None
    """Its value; None for an option without one."""
    full: str
    """The name of the option, where only its beginning was typed; else the same as `name`."""


class Line(NamedTuple):
    """A command line, cut into options and the rest; what the options mean is not looked at yet."""

    typed: list[Typed]
    rest: list[str]
    dashes: bool
    fault: InvalidRequest | None
    """What is wrong behind the last of these options."""

    def read(
        self, names: Names, command: str = "run", elsewhere: Callable[[str], str | None] = lambda name: None
    ) -> ParsedArgs:
        """The values of the options; raises `InvalidRequest` for the first that is wrong.

        `command` is what a hint names, whose `--help` lists the options. `elsewhere` has a hint for an option that is
        not one of these.
        """
        given: dict[str, Any] = {}
        for name, value, full in self.typed:
            option = names.get(full)
            if option is None:
                raise InvalidRequest(
                    f"there is no option `{name}`",
                    elsewhere(full) or did_you_mean(full, names) or f"`muster {command} --help` lists them",
                )
            if value is None:
                given[option.key] = True
            else:
                _put(given, option, value, f"{name} {value or EMPTY}")
        if self.fault is not None:
            raise self.fault
        return ParsedArgs(given, self.rest, self.dashes)


def names_of(options: Table) -> Names:
    """The options by their names."""
    return {name: option for option in options for name in option.names}


def names_in(scheduler: str, options: Table) -> Names:
    """The same, where the names of that scheduler's own program hold (`-t` is `--time` to sbatch)."""
    by_key = {option.key: option for option in options}
    own = options_of(scheduler).names
    return {**names_of(options), **{name: by_key[key] for key, names in own.items() for name in names}}


def hint_of_scheduler(name: str, options: Table) -> str | None:
    """The hint for an option that only a scheduler's own program has, where no scheduler was chosen; or None."""
    for scheduler in SCHEDULERS:
        if name in names_in(scheduler, options).keys() - names_of(options).keys():
            return f"with `{typed(scheduler)}` that is {names_in(scheduler, options)[name].long_name}"
    return None


def cut(words: Sequence[str], names: Names, interleaved: bool = False) -> Line:
    """The options up to the first word that is none, or, `interleaved`, all of them.

    An option that is not one of `names` is the last, since nobody knows whether the next word is its value.
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
                fault = InvalidRequest(f"`{name}` takes no value, and was given `{value}`", f"write `{name}` alone")
                return Line(typed, rest, False, fault)
            typed.append(Typed(name, None, full))
            continue
        if not equals:
            if not queue:
                option = names[full]
                fault = InvalidRequest(f"`{name}` wants {option.metavar} after it", option.hint)
                return Line(typed, rest, False, fault)
            value = queue.pop(0)
        typed.append(Typed(name, value, full))
    return Line(typed, rest, False, None)


def parse(words: Sequence[str], options: Table, interleaved: bool = False, command: str = "run") -> ParsedArgs:
    """Read options up to the first word that is none, or, `interleaved`, all of them; raises `InvalidRequest`."""
    names = names_of(options)
    return cut(words, names, interleaved).read(names, command)


def _in_full(name: str, names: Names) -> str:
    """The option of torchrun of which this is the beginning, as torchrun's parser takes it: `--nproc`, `--max`.

    The same name where it is the beginning of none; raises `InvalidRequest` where it is that of several.
    """
    if len(name) < 3:
        return name
    begun = sorted(full for full in OF_TORCHRUN if full.startswith(name) and full in names)
    if len(begun) > 1:
        raise InvalidRequest(f"`{name}` is the beginning of {' and '.join(begun)}", "write the one that is meant")
    return begun[0] if begun else name


def _put(given: dict[str, Any], option: Option[Any], value: str, source: str) -> None:
    if "\0" in value:
        raise InvalidRequest(f"`{source}`: there is a NUL character in it", "leave that character out")
    try:
        read = option.read(value)
    except ValueError as error:
        raise InvalidRequest(f"`{source}`: that is not {error}", option.hint) from None
    if option.many:
        given.setdefault(option.key, []).append(read)
    else:
        given[option.key] = read


def from_environment(options: Table, env: Mapping[str, str]) -> dict[str, Any]:
    """Options that variables set."""
    given: dict[str, Any] = {}
    for option in options:
        for name in option.variables:
            if name in env and option.key not in given:
                _from_text(given, option, env[name], f"{name}={env[name] or EMPTY}")
    return given


def from_table(options: Table, data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Options that a table of muster.toml sets; `source` names it."""
    by_key = {option.key: option for option in options}
    if not isinstance(data, Mapping):
        raise InvalidRequest(f"{source} is no table", "write it as `[run]` or `[profile.NAME]`, and options below it")
    given: dict[str, Any] = {}
    for key, value in data.items():
        option = by_key.get(key.replace("-", "_"))
        if option is None:
            raise InvalidRequest(
                f"{source}: there is no option `{key}`", did_you_mean(key, by_key) or "`muster run --help` lists them"
            )
        for item in value if isinstance(value, list) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            _from_text(given, option, text, f"{source}: {key} = {item}")
    return given


def _from_text(given: dict[str, Any], option: Option[Any], text: str, source: str) -> None:
    source = source.replace("\0", "\\0")
    if option.metavar:
        _put(given, option, text, source)
    elif text.lower() in ("1", "true", "yes", "on"):
        given[option.key] = True
    elif text.lower() not in ("", "0", "false", "no", "off"):
        raise InvalidRequest(f"`{source}`: that is not `true` or `false`", option.hint)


def help_text(options: Table, width: int = 100) -> str:
    """The options, by group."""
    from textwrap import wrap

    lines: list[str] = []
    for group in dict.fromkeys(option.group for option in options if option.group):
        lines += ["", f"{group}:"]
        for option in options:
            if option.group == group:
                names = [
                    name + (f" {option.metavar}" if name.startswith("--") and option.metavar else "")
                    for name in option.names
                ]
                left = "  " + ", ".join(names)
                text = wrap(option.says, width - 30)
                if len(left) > 28:
                    lines.append(left)
                    left = ""
                lines += [f"{left:<30}{text[0]}"] + [" " * 30 + line for line in text[1:]]
    if any(option.metavar == "TIME" and option.group for option in options):
        lines += ["", "TIME is in seconds without a unit: `90`, `10m`, `1h30m`, `2d`."]
    return "\n".join(lines)
