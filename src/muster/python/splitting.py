"""Keywords of `muster.run`: options of muster, or arguments of the function. Starts nothing."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

from muster.config.options import RUN
from muster.config.record import Option
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.python.entry import entry

_OF_TERMINALS = frozenset(
    ("help", "json", "show_env", "profile", "tty", "no_tty", "quiet", "stdin", "resubmit", "all_roles")
)
"""Options that make sense only on a command line."""

OPTIONS: Mapping[str, Option[Any]] = {
    option.key: option for option in RUN if option.group and option.key not in _OF_TERMINALS
}
"""The options that are keywords of `muster.run`, by key."""

OWN = ("args", "kwargs", "show_output")
"""Keywords of `muster.run` that are no options of the command line."""

SEVERAL = ("sweep", "array", "chain")
"""Options that make several runs of one call."""

_Call = TypeVar("_Call", bound=Callable[..., Any])


class Split(NamedTuple):
    """The keywords of a call, told apart."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """Arguments of the function."""
    options: dict[str, Any]
    """Options of muster by key, in the types of muster.toml."""
    show_output: bool | None


def described(call: _Call) -> _Call:
    """Give an entry point the signature with all options, for `help()` and for completion in a notebook."""
    fixed = list(inspect.signature(call).parameters.values())
    only = inspect.Parameter.KEYWORD_ONLY
    named = [inspect.Parameter(name, only, default=None) for name in (*OWN, *OPTIONS)]
    entered = entry(call)
    entered.__signature__ = inspect.Signature([*fixed[:-1], *named, fixed[-1]])  # type: ignore[attr-defined]
    return entered


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function for users: `train`, `<lambda>`."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def split(program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Split:
    """Tell options of muster from arguments of the function. A keyword that is both is an error.

    Raises `InvalidRequest`.
    """
    explicit = keywords.get("args") is not None or keywords.get("kwargs") is not None
    show = keywords.get("show_output")
    given = {name: value for name, value in keywords.items() if name not in OWN}
    options = {name: value for name, value in given.items() if name in OPTIONS and value is not None}
    others = {name: value for name, value in given.items() if name not in OPTIONS}
    if not callable(program):
        _check_script(program, others, explicit)
        return Split(tuple(map(str, arguments)), {}, as_text(options), show)
    if explicit and others:
        name = next(iter(others))
        raise InvalidRequest(
            f"unknown option: {name} (with args= or kwargs=, all other keywords are options)",
            did_you_mean(name, OPTIONS) or f"for an argument of the function: kwargs={{{name!r}: …}}",
        )
    if not explicit:
        _check_clash(program, given)
    args = (*arguments, *(keywords.get("args") or ()))
    kwargs = {**others, **(keywords.get("kwargs") or {})}
    _check_call(program, args, kwargs)
    return Split(args, kwargs, as_text(options), show)


def _check_script(program: Any, others: Mapping[str, Any], explicit: bool) -> None:
    if not isinstance(program, (str, os.PathLike)):
        raise InvalidRequest(
            f"not a function or the path of a script: {type(program).__name__}",
            "for example, muster.run(train, lr=0.1)",
        )
    if explicit:
        raise InvalidRequest(
            "args= and kwargs= are for functions, not for scripts",
            f'pass arguments of a script as strings: muster.run("{program}", "--lr", "0.1")',
        )
    if others:
        name, value = next(iter(others.items()))
        raise InvalidRequest(
            f"unknown option: {name}",
            did_you_mean(name, OPTIONS)
            or f'pass arguments of a script as strings: muster.run("{program}", "--{name}", "{value}")',
        )


def _check_clash(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` if a keyword is both an option of muster and a parameter of the function."""
    free = _parameters(function)
    for name in given:
        if name in OPTIONS and name in free:
            what = name_of(function)
            raise InvalidRequest(
                f"{name}= is ambiguous: an option of muster, and a parameter of {what}",
                f"for {what}: functools.partial({what}, {name}=…) or kwargs={{{name!r}: …}}; "
                f"for muster: pass the arguments of {what} as args=[…], kwargs={{…}}",
            )


def _parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of parameters that a keyword can set, without those that a partial has set."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return set()
    bound = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in found if parameter.kind in named} - bound


def _check_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` if the function cannot be called like this, or returns what cannot be sent back."""
    what = name_of(function)
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidRequest(
            f"{what} is a generator: its result cannot be sent", "return a list instead of using yield"
        )
    if inspect.iscoroutinefunction(inner):
        raise InvalidRequest(f"{what} is a coroutine function", f"run it in each rank: lambda: asyncio.run({what}(…))")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = [name for name in kwargs if name not in _parameters(function)]
        near = next(filter(None, (did_you_mean(name, OPTIONS) for name in unknown)), None)
        raise InvalidRequest(f"cannot call {what}{signature}: {error}", near) from None


def values_in_words(name: Any, values: Any) -> str:
    """Return the values of a parameter of a sweep as the command line has them. Raises `InvalidRequest`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or not list(values):
        raise InvalidRequest(f"sweep={{{name!r}: …}}: not a list of values: {values!r}", "sweep={'lr': [0.1, 0.01]}")
    return json.dumps([point_text(value) for value in values])


def point_text(value: Any) -> str:
    """Return a value of a parameter as arguments of scripts, and tables, have it."""
    return name_of(value) if callable(value) else str(value)


def as_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in the types that muster.toml has."""
    return {key: _value(OPTIONS[key], value) for key, value in options.items()}


def _value(option: Option[Any], value: Any) -> Any:
    if isinstance(value, Mapping) and option.key == "sweep":
        return [f"{name}={values_in_words(name, several)}" for name, several in value.items()]
    if option.key == "after":
        several = value if isinstance(value, (list, tuple)) else [value]
        return [str(getattr(one, "id", one)) for one in several]
    if isinstance(value, Mapping):
        value = [f"{name}={text}" for name, text in value.items()]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple, range, set, frozenset)):
        items = [os.fspath(item) if isinstance(item, os.PathLike) else str(item) for item in value]
        return items if option.many else ",".join(items)
    return value
