"""What the commands about existing runs share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster import runs
from muster.errors import Impossible
from muster.options import OTHERS, from_environment, help_text, parse

if TYPE_CHECKING:  # `muster ps` needs none of it
    from muster.hosts import Wanted
    from muster.model import Outcome


def read(
    name: str, words: list[str], env: Mapping[str, str], says: str, operand: str = "RUN"
) -> tuple[dict[str, Any], list[str], Path] | None:
    """(options, operands, folder of muster), or None when help was shown instead."""
    options = OTHERS[name]
    parsed = parse(words, options, interleaved=True)
    if parsed.given.get("help"):
        print(f"{says}\n\n    muster {name} [OPTIONS]{' ' + operand if operand else ''}\n{help_text(options)}")
        return None
    shared = [option for option in options if option.key == "run_dir"]
    given = {**from_environment(shared, env), **parsed.given}
    return given, parsed.rest, root_of(given, env)


def root_of(given: Mapping[str, Any], env: Mapping[str, str]) -> Path:
    """The folder of muster, in which runs are kept."""
    return Path(given["run_dir"]).absolute() if "run_dir" in given else runs.home(env)


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
    return runs.find(root, rest[0] if rest else "last")
