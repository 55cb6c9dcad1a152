"""Write src/muster/python/signatures.py: `muster.run`, `muster.submit` and `muster.Role`. Their keywords are options.

The names, defaults and meanings come from the option table. `tests/unit/test_python_signatures.py` checks that the file
is up to date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from subprocess import run
from typing import Any

SEVERAL = ("sweep", "array", "chain")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "src" / "muster" / "python" / "signatures.py"

HEAD = '''"""`muster.run`, `muster.submit` and `muster.Role` with the type of each option.

Written by tools/signatures.py from the option table (`config/options.py`): edit these, not this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Generic, TypedDict, TypeVar, overload

from muster.python.splitting import described

if TYPE_CHECKING:
    from muster.python.run import Run
    from muster.python.sweep import Sweep

T = TypeVar("T")


class RunKeywords(TypedDict, total=False):
    """The options of `muster.run` and `muster.submit`, e.g. for a table of options that several calls share."""

'''

_SEVERAL = {
    "sweep": "Mapping[str, Iterable[Any]] | str | Sequence[str]",
    "array": "str | Sequence[int]",
    "chain": "int",
    "after": "Run[Any] | Sweep[Any] | str | Sequence[Run[Any] | Sweep[Any] | str]",
}
"""Annotations of the options of several runs; the first three make a sweep of a run."""

SCRIPT = "str | os.PathLike[str]"


def type_of(option: Any) -> str:
    """Return the annotation of an option's keyword."""
    if option.key in _SEVERAL:
        return _SEVERAL[option.key]
    if option.key == "env":
        return "Mapping[str, str] | Sequence[str] | str"
    if not option.metavar:
        return "bool"
    if option.is_path:
        return "str | os.PathLike[str]" + (" | Sequence[str]" if option.many else "")
    if option.many:
        return "str | Sequence[str]"
    result = str(inspect.signature(option.read).return_annotation)
    if option.key == "ranks":
        return "int | str | Sequence[int]"
    if result == "float":
        return "float | str"
    if result == "int" and option.metavar != "SIZE":
        return "int"
    if option.metavar == "N" or option.key in ("mem", "gpus"):
        return "int | str"
    if option.metavar in ("HOSTS", "LIST", "NODES", "SIGNALS"):
        return "str | Sequence[str]"
    return "str"


def keywords() -> list[tuple[str, str]]:
    """Return name and annotation of each option that Python programs can use."""
    sys.path.insert(0, str(ROOT / "src"))
    from muster.python.splitting import OPTIONS

    return [(option.key, type_of(option)) for option in OPTIONS.values()]


def of_role() -> list[tuple[str, str]]:
    """Return name and annotation of each option that a role has for itself."""
    from muster.config.roles import OF_ROLE

    return [(key, annotation) for key, annotation in keywords() if key in OF_ROLE and key != "role"]


def role_overloads() -> str:
    """Return the overloads of `Role.__init__`, for functions and for scripts."""
    options = "".join(f"        {key}: {annotation} | None = None,\n" for key, annotation in of_role())
    return "".join(
        f"""
    @overload
    def __init__(
        self: Role[{value}],
        program: {program},
        /,
        *arguments: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
{options}        **keywords: Any,
    ) -> None: ...
"""
        for program, value in (("Callable[..., T]", "T"), (SCRIPT, "None"))
    )


def overload_of_roles(name: str, result: str) -> str:
    """Return the overload of one function for a run with several programs."""
    from muster.config.roles import OF_ROLE

    pool = ("hosts", "hostfile", "include", "exclude")
    options = "".join(
        f"    {key}: {annotation} | None = None,\n"
        for key, annotation in keywords()
        if key not in SEVERAL and (key not in OF_ROLE or key in pool)
    )
    return f"""
@overload
def {name}(
    *,
    roles: Mapping[str, Role[Any]],
    show_output: bool | None = None,
{options}) -> {result}: ...
"""


def overloads(name: str, result: str, of_sweep: str) -> str:
    """Return the overloads of one function, for functions and for scripts, as a single run and as a sweep."""
    found = ""
    for kind in (result, of_sweep):
        several = kind is of_sweep
        options = "".join(
            f"    {key}: None = None,\n"
            if key in SEVERAL and not several
            else f"    {key}: {annotation} | None = None,\n"
            for key, annotation in keywords()
        )
        for program, value in (("Callable[..., T]", "T"), (SCRIPT, "None")):
            found += f"""
@overload
def {name}(
    program: {program},
    /,
    *arguments: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    show_output: bool | None = None,
{options}    **keywords: Any,
) -> {kind.format(value)}: ...
"""
    return found


ROLE_CLASS = '''class Role(Generic[T]):
    """A program of a run that has several: a function or a script, with its arguments and the options of this role.

        trainer = muster.Role(train, lr=1e-6, nproc_per_node=8, main=True)
        results = muster.run(roles={"trainer": trainer, "rollout": muster.Role("serve.py")}, hosts="n[1-2]")

    It takes the arguments of `muster.run`, and of the options those that concern one program: hosts, ranks, launcher,
    environment, Python, container. All others are for the whole run. Once all ranks of the roles with `main=True` have
    succeeded, the run ends and the others are terminated.

    Raises `muster.errors.InvalidRequest` if an option or argument is invalid.
    """
'''

ROLE = """
    def __init__(self, program: Callable[..., Any] | str | os.PathLike[str], /, *arguments: Any, **keywords: Any):
        from muster.python import role_runs

        self.call = role_runs.call_of(program, arguments, keywords)
"""

RUN = '''
@described
def run(program: Any = None, /, *arguments: Any, **keywords: Any) -> Any:
    """Run a function or a script on all ranks, wait for it, and return what each rank returned, by rank.

    `program`: a function, called on each rank with `arguments` and with the keywords that are no options of muster; or
    the path of a script, with its arguments as strings. Keywords that are options of `muster run` have the same names,
    defaults and checks as on the command line (`nproc_per_node=4`, `hosts="n[1-2]"`, `slurm=True`).
    `sweep={"lr": [0.1, 0.01]}`: a run for each combination of values. The function gets them as keywords, and in the
    arguments of a script they replace `{lr}`. `array="0-7"`: a run for each number. `chain=5`: so many runs, one after
    the other. The results are then a list for each run.
    `roles={"trainer": muster.Role(train, …), "rollout": muster.Role("serve.py", …)}` in place of a program: one run
    with several programs, see `muster.Role`. The results are then a dictionary with a list for each role.
    `args`, `kwargs`: arguments of the function. If one of them is given, all other keywords are options.
    `show_output`: print the output of the ranks to `sys.stdout` and `sys.stderr` (default: True).

    If a rank fails, its exception is raised, caused by a `RemoteError` with its rank, host and traceback. The ranks are
    terminated before an exception leaves this function, including KeyboardInterrupt.

    Raises `muster.errors.InvalidRequest` if an option or argument is invalid; then nothing was started.
    """
    if program is None and "roles" in keywords:
        from muster.python import role_runs

        return role_runs.run(keywords.pop("roles"), keywords)
    from muster.python import submission

    return submission.run(program, arguments, keywords)
'''

SUBMIT = '''
@described
def submit(program: Any = None, /, *arguments: Any, **keywords: Any) -> Any:
    """Start a function or a script on all ranks, and return it as a `Run` without waiting for its end.

    With `sweep`, `array` or `chain` it is a `Sweep`, whose points are runs. `after`: start after other runs.
    With `roles` in place of a program it is one run, whose `results_by_role` has the results of each role.
    Takes the same arguments as `muster.run`; the output of ranks is not printed unless `show_output` is true. A run on
    this machine or on hosts is terminated when this program exits, unless `detach` is true.
    """
    if program is None and "roles" in keywords:
        from muster.python import role_runs

        return role_runs.submit(keywords.pop("roles"), keywords)
    from muster.python import submission

    return submission.submit(program, arguments, keywords)
'''


def page() -> str:
    """Return the text of the module."""
    table = "".join(f"    {key}: {kind}\n" for key, kind in keywords() if key not in SEVERAL)
    text = HEAD + table + "\n\n" + ROLE_CLASS + role_overloads() + ROLE + "\n"
    text += (
        overloads("run", "list[{}]", "list[list[{}]]") + overload_of_roles("run", "dict[str, list[Any]]") + "\n" + RUN
    )
    text += "\n" + overloads("submit", "Run[{}]", "Sweep[{}]") + overload_of_roles("submit", "Run[Any]") + "\n" + SUBMIT
    ruff = [str(Path(sys.executable).with_name("ruff")), "format", "--quiet", "--stdin-filename", str(PAGE), "-"]
    return run(ruff, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
