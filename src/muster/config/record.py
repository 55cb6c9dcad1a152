"""The type of an option, and the immutable record of the options of one command. See `options.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Callable, ClassVar, Generic, Literal, NoReturn, TypeVar, overload

_DETAILS = re.compile(r": |; |, e\.g\. ")
"""What follows in a description tells which values there are."""

Source = Literal["argv", "environment", "muster.toml", "session", "default"]
"""The source of an option's value."""

WHERE, LAUNCHER, SHARED = "Where to run", "Launcher", "Several schedulers"
"""Headings in `--help` for options that are declared in several files."""

T = TypeVar("T")
Value = TypeVar("Value", covariant=True)
Some = TypeVar("Some", bound="Options")


class Option(Generic[Value]):
    """One option of one or more commands, as an attribute of their subclass of `Options`.

    On the class the attribute is the option itself (`RunOptions.lease.names`), on a record it is the value
    (`options.lease`, a float).
    """

    def __init__(
        self,
        names: tuple[str, ...],
        help: str,
        metavar: str,
        read: Callable[[str], Any],
        default: Value,
        default_text: str = "",
        *,
        many: bool = False,
        choices: Mapping[str, str] = MappingProxyType({}),
        also: tuple[str, ...] = (),
        group: str = "",
    ):
        self.names = names
        """All names, as typed; the first long one gives the key. Underscores are accepted for hyphens."""
        self.long_name = next((name for name in names if name.startswith("--")), names[0])
        """The name that messages use."""
        self.key = self.long_name.lstrip("-").replace("-", "_")
        """Key in muster.toml, name of the attribute, and, in capitals after MUSTER_, the environment variable."""
        self.help = help
        """What it does: a noun phrase or an imperative, without the default. Empty for options of torchrun that have
        no effect."""
        self.metavar = metavar
        """Placeholder for the value in help; empty for an option without a value."""
        self.read = read
        """Converts the typed text to a value; raises `ValueError` with what was expected."""
        self.default = default
        """Value when no source sets the option."""
        self.default_text = default_text
        """The default as help shows it; empty if help shows none."""
        self.many = many
        """True if it may be repeated; the value is then a tuple."""
        self.choices = choices
        """Values that completion suggests, each with its meaning."""
        self.also = also
        """Environment variables of other programs that set it when none of muster's variables does."""
        self.group = group
        """Heading in `--help`; empty hides the option (options of torchrun that have no effect)."""

    @property
    def is_path(self) -> bool:
        """True if the value is the path of a file or directory."""
        return self.metavar == "PATH"

    @property
    def description(self) -> str:
        """The help text followed by the default."""
        return f"{self.help} (default: {self.default_text})" if self.default_text else self.help

    def hint(self, source: str, whole: bool = False) -> str | None:
        """Name, placeholder and description, as the hint for a wrong value; None for an option without help.

        `source`: where the value comes from; an option is named as it was typed. The error tells which values are
        valid, so that only what the option is for follows; `whole`: all of the description.
        """
        form = " ".join(filter(None, (source if source in self.names else self.long_name, self.metavar)))
        text = self.description if whole else _DETAILS.split(self.help, maxsplit=1)[0]
        return f"{form}: {text}" if self.help else None

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it. PET_… are the ones torchrun reads."""
        if self.key == "help":
            return ()
        keys = [name.lstrip("-").replace("-", "_").upper() for name in self.names if name.startswith("--")]
        return (f"MUSTER_{self.key.upper()}", *(f"PET_{key}" for key in keys), *self.also)

    @overload
    def __get__(self, record: None, owner: type[Options]) -> Option[Value]: ...
    @overload
    def __get__(self, record: Options, owner: type[Options]) -> Value: ...
    def __get__(self, record: Options | None, owner: type[Options]) -> Option[Value] | Value:
        return self if record is None else record.value(self)


def flag(names: tuple[str, ...], help: str, default_text: str = "", *, group: str = "") -> Option[bool]:
    """An option without a value; `default_text` says when it is on by default."""
    return Option(names, help, "", bool, False, default_text, group=group)


def optional(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    default_text: str = "",
    *,
    choices: Mapping[str, str] = MappingProxyType({}),
    group: str = "",
) -> Option[T | None]:
    """An option that is None by default; `default_text` describes what applies then."""
    return Option(names, help, metavar, read, None, default_text, choices=choices, group=group)


def defaulted(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    default: str,
    default_text: str = "",
    *,
    also: tuple[str, ...] = (),
    choices: Mapping[str, str] = MappingProxyType({}),
    group: str = "",
) -> Option[T]:
    """An option with a default value, written as it would be typed; `default_text` replaces it in help."""
    return Option(
        names, help, metavar, read, read(default), default_text or default, also=also, choices=choices, group=group
    )


def repeated(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    default_text: str = "",
    *,
    group: str = "",
) -> Option[tuple[T, ...]]:
    """An option that may be repeated; the value is a tuple, empty by default."""
    return Option(names, help, metavar, read, (), default_text, many=True, group=group)


class Included:
    """Placeholder attribute of a subclass of `Options` for all options of some other classes."""

    def __init__(self, *classes: type[Options]):
        self.classes = classes


class Options:
    """The option values for one invocation of a command, from the command line, the configuration and the defaults.

    A subclass has an attribute for each of its options and inherits those of its base. Records are immutable.
    """

    table: ClassVar[tuple[Option[Any], ...]] = ()
    """The options in the order of help: own options, then inherited ones."""
    _given: dict[str, tuple[Source, Any]]
    """Source and value of each option that was set, by key."""

    def __init_subclass__(cls) -> None:
        own: dict[str, Option[Any]] = {}
        for value in list(vars(cls).values()):
            if isinstance(value, Option):
                own[value.key] = value
            elif isinstance(value, Included):
                for option in (option for other in value.classes for option in other.table):
                    own[option.key] = option
                    setattr(cls, option.key, option)
        cls.table = (*own.values(), *(option for option in cls.table if option.key not in own))

    def __init__(self, *layers: tuple[Source, Mapping[str, Any]]):
        """Each layer is a source and its values by key; earlier layers take precedence."""
        given: dict[str, tuple[Source, Any]] = {}
        for source, values in reversed(layers):
            for key, value in values.items():
                given[key] = source, tuple(value) if isinstance(value, list) else value
        object.__setattr__(self, "_given", given)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def value(self, option: Option[T]) -> T:
        """Value of an option."""
        found: T = self._given[option.key][1] if option.key in self._given else option.default
        return found

    def option(self, key: str) -> Option[Any] | None:
        """The option with this key, or None."""
        return next((option for option in self.table if option.key == key), None)

    def source(self, option: Option[Any]) -> Source:
        """Return the source of an option's value."""
        return self._given[option.key][0] if option.key in self._given else "default"

    def given(self, *options: Option[Any]) -> bool:
        """True if any of these options was typed or configured."""
        return any(self.source(option) != "default" for option in options)

    def typed(self, *options: Option[Any]) -> bool:
        """True if any of these options was typed."""
        return any(self.source(option) == "argv" for option in options)

    def table_of(self, name: str) -> Mapping[str, object]:
        """A table `[name]` of muster.toml that holds no muster options; empty if there is none."""
        found: Mapping[str, object] = self._given.get(f"[{name}]", ("default", {}))[1]
        return found

    def all_given(self, *sources: Source) -> tuple[Option[Any], ...]:
        """The options that were typed or configured, optionally only those from the given sources."""
        by_key = {option.key: option for option in self.table}
        found = ((by_key[key], source) for key, (source, _) in self._given.items() if key in by_key)
        return tuple(option for option, source in found if not sources or source in sources)

    def without(self: Some, *options: Option[Any]) -> Some:
        """A copy in which these options have their defaults."""
        gone = {option.key for option in options}
        left = ((source, {key: value}) for key, (source, value) in self._given.items() if key not in gone)
        return type(self)(*reversed(list(left)))
