"""What an option is, and the record of the options of a command. The options themselves are in `options.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Callable, ClassVar, Generic, Literal, NoReturn, TypeVar, overload

Source = Literal["argv", "environment", "muster.toml", "default"]
"""Where the value of an option comes from."""

WHERE, HOW = "where the ranks run, this machine without these", "what starts the ranks"
"""Headings in `--help` of options that are declared in several files."""

T = TypeVar("T")
Value = TypeVar("Value", covariant=True)
Some = TypeVar("Some", bound="Options")


class Option(Generic[Value]):
    """One option of one or more commands, as an attribute of the class of their `Options`.

    The class has the option itself (`RunOptions.lease.names`), a record its value (`options.lease`, a float).
    """

    def __init__(
        self,
        names: tuple[str, ...],
        help: str,
        metavar: str,
        read: Callable[[str], Any],
        default: Value,
        otherwise: str = "",
        *,
        many: bool = False,
        choices: Mapping[str, str] = MappingProxyType({}),
        also: tuple[str, ...] = (),
        group: str = "",
    ):
        self.names = names
        """As typed; the first long one gives the key. Hyphens may be underscores."""
        self.help = help
        self.metavar = metavar
        """What its value is called; empty for an option without a value."""
        self.read = read
        """Turns the typed text into a value; raises `ValueError` with what was expected."""
        self.default = default
        """Its value where nothing else gives one."""
        self.otherwise = otherwise
        """The default in words; empty where there is none worth a word."""
        self.many = many
        """It may be given several times, and its value is a tuple."""
        self.choices = choices
        """Values that completion suggests, each with what it means."""
        self.also = also
        """Variables of other programs that set it where none of ours does."""
        self.group = group
        """The heading under which `--help` shows it; empty for an option of torchrun that says nothing here."""

    @property
    def key(self) -> str:
        """Its key in muster.toml, the name of the attribute, and, in capitals after MUSTER_, its variable."""
        return self.long_name.lstrip("-").replace("-", "_")

    @property
    def long_name(self) -> str:
        """The name by which messages call it."""
        return next((name for name in self.names if name.startswith("--")), self.names[0])

    @property
    def is_path(self) -> bool:
        """Its value is the path of a file or directory."""
        return self.metavar in ("DIR", "FILE", "PATH")

    @property
    def says(self) -> str:
        """What it does and what holds without it, for a person."""
        return f"{self.help} (default: {self.otherwise})" if self.otherwise else self.help

    @property
    def hint(self) -> str | None:
        """The same with the name before it, for who gave a wrong value; None where there is nothing to say."""
        form = " ".join(filter(None, (self.long_name, self.metavar)))
        return f"`{form}`: {self.says}" if self.says else None

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that set it. PET_… is what torchrun reads."""
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


def flag(names: tuple[str, ...], help: str, *, group: str = "") -> Option[bool]:
    """An option without a value."""
    return Option(names, help, "", bool, False, group=group)


def optional(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    otherwise: str = "",
    *,
    choices: Mapping[str, str] = MappingProxyType({}),
    group: str = "",
) -> Option[T | None]:
    """An option with a value, or none; `otherwise` says in words what holds then."""
    return Option(names, help, metavar, read, None, otherwise, choices=choices, group=group)


def defaulted(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    default: str,
    otherwise: str = "",
    *,
    also: tuple[str, ...] = (),
    group: str = "",
) -> Option[T]:
    """An option with a value of its own, written as it would be typed; `otherwise` says more about it."""
    return Option(names, help, metavar, read, read(default), otherwise or default, also=also, group=group)


def repeated(
    names: tuple[str, ...],
    help: str,
    metavar: str,
    read: Callable[[str], T],
    *,
    group: str = "",
) -> Option[tuple[T, ...]]:
    """An option that may be given several times."""
    return Option(names, help, metavar, read, (), many=True, group=group)


class Included:
    """An attribute of a class of `Options` that stands for all options of some others."""

    def __init__(self, *classes: type[Options]):
        self.classes = classes


class Options:
    """What holds for one start of a command: what was typed, what is configured, and else the defaults.

    A subclass has an attribute for each of its options, and inherits those of its base. A record does not change.
    """

    table: ClassVar[tuple[Option[Any], ...]] = ()
    """The options, in the order in which help shows them: its own, then those that it inherits."""
    _given: dict[str, tuple[Source, Any]]
    """Source and value of what was given, by key."""

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
        """The sources and their values by key; what an earlier one has wins over the later ones."""
        given: dict[str, tuple[Source, Any]] = {}
        for source, values in reversed(layers):
            for key, value in values.items():
                given[key] = source, tuple(value) if isinstance(value, list) else value
        object.__setattr__(self, "_given", given)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def value(self, option: Option[T]) -> T:
        """The value of one of the options."""
        found: T = self._given[option.key][1] if option.key in self._given else option.default
        return found

    def option(self, key: str) -> Option[Any] | None:
        """The option with this key; None where there is none."""
        return next((option for option in self.table if option.key == key), None)

    def source(self, option: Option[Any]) -> Source:
        """Where its value comes from."""
        return self._given[option.key][0] if option.key in self._given else "default"

    def given(self, *options: Option[Any]) -> bool:
        """Whether one of them was typed or is configured."""
        return any(self.source(option) != "default" for option in options)

    def typed(self, *options: Option[Any]) -> bool:
        """Whether one of them was typed."""
        return any(self.source(option) == "argv" for option in options)

    def table_of(self, name: str) -> Mapping[str, object]:
        """The table `[name]` of muster.toml, where that has no options of ours; empty where there is none."""
        found: Mapping[str, object] = self._given.get(f"[{name}]", ("default", {}))[1]
        return found

    def all_given(self, *sources: Source) -> tuple[Option[Any], ...]:
        """The options that were typed or are configured; only those from certain sources, where some are named."""
        by_key = {option.key: option for option in self.table}
        found = ((by_key[key], source) for key, (source, _) in self._given.items() if key in by_key)
        return tuple(option for option, source in found if not sources or source in sources)

    def without(self: Some, *options: Option[Any]) -> Some:
        """The same, but with the defaults of some."""
        gone = {option.key for option in options}
        left = ((source, {key: value}) for key, (source, value) in self._given.items() if key not in gone)
        return type(self)(*reversed(list(left)))
