"""What differs between two runs: program, code, packages, machines, options, result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.core.env_forwarding import is_forwarded
from muster.core.hostlist import fold_hostlist
from muster.core.model import Program
from muster.core.plurals import plural
from muster.core.provenance import ChangedFile, GitState, Provenance
from muster.core.results import TextEnum


class RunFacts(NamedTuple):
    """What two runs are compared by. A run that ended early, or was made by an older version, lacks some."""

    run_id: str
    program: Program | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    """The job as in job.json: without the values of secret variables."""
    cwd: str = ""
    ranks: int = 0
    hosts: tuple[str, ...] = ()
    """The names of its nodes, by number."""
    provenance: tuple[Provenance, ...] = ()
    """What ran on each node, as far as it is known."""
    muster: str = ""
    """The version of muster."""
    state: str = ""
    reason: str = ""
    """Why it did not succeed, in one line."""
    started: float = 0.0
    """Unix time."""
    duration: float | None = None
    """In seconds; None while it runs."""


class Topic(TextEnum):
    """What a difference is about, in the order of presentation."""

    RESULT = "result"
    PROGRAM = "program"
    ARGUMENTS = "arguments"
    CODE = "code"
    VERSIONS = "versions"
    PACKAGES = "packages"
    OPTIONS = "options"
    HOSTS = "hosts"
    HARDWARE = "hardware"
    VARIABLES = "environment variables"


class Difference(NamedTuple):
    """One thing that differs."""

    topic: Topic
    name: str
    before: str
    """Its value in the first run; empty if it is not there."""
    after: str
    """Its value in the second run."""


def differences(before: RunFacts, after: RunFacts) -> tuple[Difference, ...]:
    """Return all differences between two runs, by topic. What only one of them has recorded is no difference."""
    found = [*_result(before, after), *_program(before, after)]
    first, second = (facts.provenance[0] if facts.provenance else None for facts in (before, after))
    if first is not None and second is not None:
        found += _code(first, second)
        found += _changed(Topic.VERSIONS, _versions(first, before), _versions(second, after))
        found += _changed(Topic.PACKAGES, first.packages, second.packages)
    found += _changed(Topic.OPTIONS, *_without_forwarded(options_in_words(before), options_in_words(after)))
    found += _hosts(before, after)
    if first is not None and second is not None:
        names = [dict.fromkeys(told.variables, "set") for told in (first, second)]
        found += _changed(Topic.VARIABLES, *names)
    order = list(Topic)
    return tuple(sorted(found, key=lambda item: order.index(item.topic)))


def since(before: RunFacts, after: RunFacts) -> tuple[Difference, ...]:
    """Return the differences that may explain why the second run failed: not its result, nor what a login changes."""
    return tuple(
        item
        for item in differences(before, after)
        if item.topic is not Topic.RESULT and not (item.topic is Topic.VARIABLES and not is_forwarded(item.name))
    )


def _changed(topic: Topic, before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    """Return the names whose values differ, sorted."""
    names = sorted({*before, *after})
    pairs = ((name, before.get(name, ""), after.get(name, "")) for name in names)
    return [Difference(topic, name, old, new) for name, old, new in pairs if old != new]


# ---- result and program ---------------------------------------------------------------------------------------------


def _result(before: RunFacts, after: RunFacts) -> list[Difference]:
    told = [{"state": facts.state, "reason": facts.reason} for facts in (before, after)]
    return _changed(Topic.RESULT, *told)[::-1]  # the state first


def _program(before: RunFacts, after: RunFacts) -> list[Difference]:
    one, other = before.program, after.program
    if one is None or other is None:
        return []
    names = [{program.kind: program.argv[0]} for program in (one, other)]
    words = [_arguments(program.argv[1:]) for program in (one, other)]
    places = [{"directory": facts.cwd} for facts in (before, after)]
    return [
        *_changed(Topic.PROGRAM, *names),
        *_changed(Topic.PROGRAM, *places),
        *_changed(Topic.ARGUMENTS, *words),
    ]


def _arguments(words: Sequence[str]) -> dict[str, str]:
    """Return the arguments of a script by option; those before the first option together."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            name, equals, value = word.partition("=")
            found[name] = value if equals else found.get(name, "")
            name = "" if equals else name
        else:
            found[name or "arguments"] = f"{found.get(name or 'arguments', '')} {word}".strip()
    return {name: value or "set" for name, value in found.items()}


# ---- code -----------------------------------------------------------------------------------------------------------


def _code(before: Provenance, after: Provenance) -> list[Difference]:
    if before.git is None or after.git is None:
        told = [{"script": f"sha256 {found.script_digest}"} for found in (before, after) if found.script_digest]
        return _changed(Topic.CODE, *told) if len(told) == 2 else []
    heads = [_head(found.git) for found in (before, after) if found.git is not None]
    return [*_changed(Topic.CODE, *heads), *_dirty(before.git, after.git)]


def _head(git: GitState) -> dict[str, str]:
    return {"commit": git.commit[:12], "branch": git.branch}


def _dirty(before: GitState, after: GitState) -> list[Difference]:
    """Return the files whose uncommitted changes differ, with the numbers of changed lines."""
    files = [{file.path: file for file in git.dirty} for git in (before, after)]
    found = []
    for path in sorted({*files[0], *files[1]}):
        old, new = (several.get(path) for several in files)
        if old == new:
            continue
        texts = [_change_in_words(file) if file is not None else "as committed" for file in (old, new)]
        if texts[0] == texts[1]:
            texts[1] += ", other content"
        found.append(Difference(Topic.CODE, path, *texts))
    return found


def _change_in_words(file: ChangedFile) -> str:
    """Return how a file differs from the commit."""
    if file.change == "?":
        return "not tracked"
    if file.change == "D":
        return "deleted"
    parts = [f"+{file.added}"] * bool(file.added) + [f"−{file.removed}"] * bool(file.removed)
    return f"{' '.join(parts)} lines" if parts else "changed"


# ---- versions, options, machines -------------------------------------------------------------------------------------


def _versions(told: Provenance, facts: RunFacts) -> dict[str, str]:
    found = {
        "Python": told.python,
        "interpreter": told.executable,
        "torch": told.torch,
        "CUDA": told.cuda,
        "ROCm": told.hip,
        "NCCL": told.nccl,
        "GPU driver": told.driver,
        "kernel": told.kernel,
        "muster": facts.muster,
    }
    return {name: value for name, value in found.items() if value}


_NO_OPTIONS = frozenset(
    (
        *("program", "cwd", "python", "python_source", "python_named", "allocation", "signals_to_handle", "passes"),
        *("ssh", "lease", "script_spawns", "terminal", "stdin", "role", "transport", "name", "runs"),
        *("hang_from_start", "on_end", "last_imports", "session"),
    )
)
"""Fields of a job that are shown elsewhere, or that say nothing about how ranks run."""


def options_in_words(facts: RunFacts) -> dict[str, str]:
    """Return the options of a run that matter to its ranks, by name."""
    found = {}
    for name, value in facts.options.items():
        if name == "env" and isinstance(value, Mapping):
            # muster's own repeat the arguments of the point of a sweep
            own = (item for item in value.items() if not item[0].startswith("MUSTER_"))
            found.update({f"--env {variable}": str(text) for variable, text in own})
        elif name not in _NO_OPTIONS and value not in (None, "", [], (), False):
            found[f"--{name.replace('_', '-')}"] = _value_in_words(value)
    if facts.ranks:
        found["ranks"] = str(facts.ranks)
    return found


def _without_forwarded(*sides: dict[str, str]) -> list[dict[str, str]]:
    """Remove variables that only one run has, because muster forwards them to other hosts by itself."""
    common = set.intersection(*map(set, sides))
    return [
        {
            name: value
            for name, value in side.items()
            if name in common or not (name.startswith("--env ") and is_forwarded(name.removeprefix("--env ")))
        }
        for side in sides
    ]


def _value_in_words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if value is True:
        return "yes"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hosts(before: RunFacts, after: RunFacts) -> list[Difference]:
    found = _changed(Topic.HOSTS, *({"hosts": fold_hostlist(facts.hosts)} for facts in (before, after)))
    if not before.provenance or not after.provenance:
        return found
    return [*found, *_changed(Topic.HARDWARE, _machines(before.provenance), _machines(after.provenance))]


def _machines(told: Iterable[Provenance]) -> dict[str, str]:
    """Return what kinds of machines there are, with their numbers; a node that differs from node 0 in its packages."""
    found: dict[str, str] = {}
    nodes = tuple(told)
    for name, values in (
        ("GPUs", [_gpus(node.gpus) for node in nodes]),
        ("processors", [node.cpu for node in nodes]),
        ("cores", [str(node.cores) for node in nodes]),
        ("memory", [f"{node.memory / (1 << 30):.0f} GiB" for node in nodes]),
    ):
        kinds = dict.fromkeys(filter(None, values))
        found[name] = ", ".join(
            f"{values.count(kind)} × {kind}" if len(kinds) > 1 else kind for kind in kinds
        )  # fmt: skip
    other = [node for node in nodes if node.packages_digest != nodes[0].packages_digest]
    if other:
        found["packages"] = f"differ between nodes ({plural(len(other), 'node')} from node 0)"
    return found


def _gpus(models: Sequence[str]) -> str:
    return ", ".join(f"{models.count(model)} {model}" for model in dict.fromkeys(models))
