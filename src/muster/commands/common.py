"""What the commands about existing runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster import runs
from muster.errors import Impossible, NowhereToBe
from muster.options import OTHERS, Option, from_environment, help_text, parse

if TYPE_CHECKING:  # `muster ps` needs none of it
    from muster.hosts import Wanted
    from muster.model import Outcome


def read(
    name: str, words: list[str], env: Mapping[str, str], says: str, operand: str = "RUN"
) -> tuple[dict[str, Any], list[str], Path] | None:
    """(options, operands, folder of muster), or None when help was shown instead.

    Raises `Impossible` for operands of a command that takes none, which has an empty `operand`.
    """
    options = OTHERS[name]
    parsed = parse(words, options, interleaved=True, command=name)
    if parsed.given.get("help"):
        print(f"{says}\n\n    muster {name} [OPTIONS]{' ' + operand if operand else ''}\n{help_text(options)}")
        return None
    if parsed.rest and not operand:
        raise Impossible(
            f"`muster {name}` takes no operand; it was given {' '.join(parsed.rest)}",
            _INSTEAD.get(name) or _instead_of_hosts(options, parsed.rest) or "leave it out",
        )
    shared = [option for option in options if option.key == "run_dir"]
    given = {**from_environment(shared, env), **parsed.given}
    return given, parsed.rest, root_of(given, env)


_INSTEAD: Mapping[str, str] = {
    "ps": "`muster show RUN` tells of one run",
    "prune": "`muster rm RUN` deletes one run",
}
"""What does for one run what these commands do for many."""


def _instead_of_hosts(options: Sequence[Option], operands: Sequence[str]) -> str | None:
    """The hint for a command that takes hosts, but as an option."""
    takes_hosts = any(option.key == "hosts" for option in options)
    return f"hosts are named by `--hosts {','.join(operands)}`" if takes_hosts else None


def root_of(given: Mapping[str, Any], env: Mapping[str, str]) -> Path:
    """The folder of muster, in which runs are kept."""
    try:
        if "run_dir" not in given:
            return runs.home(env)
        return Path(runs.expanded(given["run_dir"], env)).absolute()
    except OSError as error:
        raise NowhereToBe(error.strerror) from None


def machines(given: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """What `--hosts` or `--hostfile` name; none without them. Raises `Impossible`."""
    from muster.hosts import parse_hostfile, parse_hosts
    from muster.world.here import read_text

    if "hosts" in given:
        return parse_hosts(given["hosts"])
    if "hostfile" in given:
        return parse_hostfile(read_text(given["hostfile"], "--hostfile"), given["hostfile"])
    return ()


def end_in_words(run: runs.Run, outcome: Outcome) -> str:
    """How a run ended, for a person."""
    from muster.report import outcome_in_words

    return outcome_in_words(outcome, run.id, len(outcome.ends), run.hosts)


def one(root: Path, rest: list[str], name: str) -> runs.Run:
    """The one run that the operands name; the newest when there are none."""
    if len(rest) > 1:
        raise Impossible(f"`muster {name}` takes one run, and was given {len(rest)}: {' '.join(rest)}", "name one")
    host, colon, which = (rest[0] if rest else "").rpartition(":")
    if colon:
        from muster.world.contact import introduce

        return introduce(root, host, which or "last")
    return named(root, rest[0] if rest else "last")


def named(root: Path, which: str) -> runs.Run:
    """The run that a word names; of several of one name the one that lives."""
    from muster.world import contact

    return runs.find(root, which, contact.lives)
