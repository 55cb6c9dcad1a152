"""`muster run` and `muster plan`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster import homes, runs
from muster.agent import system
from muster.commands import configuration
from muster.commands.common import store_of
from muster.environ import hidden, hidden_words, shown
from muster.errors import Impossible
from muster.job import Asked, make_job, nodes_here, nodes_there, notes, on_a_terminal, warnings
from muster.launchers import make_plan
from muster.model import Job, Plan, as_json
from muster.options import (
    RUN,
    UNLIKE_SBATCH,
    Option,
    Parsed,
    from_environment,
    help_text,
    parse,
    sbatch_hint,
    with_sbatch_names,
)

if TYPE_CHECKING:
    from muster.world.view import View

_USAGE = """{verb}

    muster {name} [OPTIONS] SCRIPT [ARGS…]
    muster {name} [OPTIONS] -m MODULE [ARGS…]
    muster {name} [OPTIONS] -- COMMAND [ARGS…]

A line that works with torchrun on one node works with `torchrun` replaced by `muster run`.
Each option is also a key of `[run]` in muster.toml, and a variable: --max-restarts is max_restarts there, and
MUSTER_MAX_RESTARTS."""


def parse_run(
    words: Sequence[str], env: Mapping[str, str], options: Sequence[Option] = RUN, command: str = "run"
) -> Parsed:
    """Read the command line of `run`, `plan` or `check`, which `command` says; raises `Impossible`.

    Together with --slurm (typed, or from a variable or muster.toml) sbatch's short options hold: -t is --time, not
    torchrun's --tee.
    """
    try:
        parsed = parse(words, with_sbatch_names(options), command=command)
    except Impossible:
        if "--slurm" in words:
            raise
        return parse(words, options, command=command, elsewhere=sbatch_hint)
    if parsed.given.get("help") or not options_for(parsed, env).get("slurm"):
        return parse(words, options, command=command, elsewhere=sbatch_hint)
    _refuse_what_sbatch_reads_otherwise(words, parsed)
    return parsed


def _refuse_what_sbatch_reads_otherwise(words: Sequence[str], parsed: Parsed) -> None:
    """`-d afterok:12 train.py`: sbatch's -d takes a value, muster's does not, so that value looks like a script."""
    before = words[len(words) - len(parsed.rest) - 1] if len(words) > len(parsed.rest) > 0 else ""
    long = UNLIKE_SBATCH.get(before)
    if before == "-m" and not re.match(r"(block|cyclic|fcyclic|arbitrary|plane|\*)([:=,]|$)", parsed.rest[0]):
        long = None  # a module, and not how tasks are distributed
    if long is not None and not parsed.dashes and not os.path.exists(parsed.rest[0]):
        own = next(name for option in RUN if before in option.names for name in option.names if name.startswith("--"))
        raise Impossible(
            f"script not found: {parsed.rest[0]} (after {before}, which is muster's {own})",
            f"for sbatch's {before} write `{long}={parsed.rest[0]}`",
        )
    if parsed.given.get("time", "").isdigit() and "-t" in words:
        minutes = parsed.given["time"]
        note = f"-t {minutes} is a time limit of {minutes} min with --slurm; torchrun's -t is --tee"
        print(f"muster: {note}", file=sys.stderr)


def options_for(parsed: Parsed, env: Mapping[str, str]) -> dict[str, Any]:
    """What follows from what was typed, the variables and muster.toml together."""
    variables = from_environment(RUN, env)
    profile = parsed.given.get("profile", variables.get("profile"))
    files = configuration.tables(profile, env)
    return _with_homes(_settled(parsed.given, dict(ChainMap(parsed.given, variables, *files))), env)


def _settled(typed: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was configured and contradicts what was typed: `--slurm` where muster.toml names hosts, `-n 2`
    where it says `nproc_per_node = 4`. Of two that were typed neither is left out; that is an error."""
    hosts, slurm, tty, no_tty = {"hosts", "hostfile"}, {"slurm"}, {"tty"}, {"no_tty"}
    for wins, loses in ((slurm, hosts), (hosts, slurm), (tty, no_tty), (no_tty, tty)):
        if wins & typed.keys() and not loses & typed.keys():
            given = {key: value for key, value in given.items() if key not in loses}
    if "np" in typed and "nproc_per_node" not in typed and not (hosts | slurm) & given.keys():
        given.pop("nproc_per_node", None)
    return given


def _with_homes(given: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """The same with `~` expanded in all that is a path: no shell has read variables and muster.toml."""
    found = dict(given)
    for option in RUN:
        value = found.get(option.key)
        if option.metavar not in ("DIR", "FILE", "PATH") or value is None:
            continue
        many = isinstance(value, (list, tuple))
        found[option.key] = [homes.expanded(item, env) for item in value] if many else homes.expanded(value, env)
    return found


def _asked(
    parsed: Parsed, given: Mapping[str, Any], env: Mapping[str, str], verb: str
) -> tuple[Asked, str, runs.Store]:
    """What the options ask for, the id of the run, and where it is kept."""
    asked = make_job(parsed, given, env, verb)
    store = store_of(given, env)
    now = time.time()
    run_id = runs.free_id(store, asked.job.program.title, now, time.strftime("%Y%m%d-%H%M%S", time.localtime(now)))
    if given.get("snapshot"):
        from muster.world import code

        copy, job = store.path(run_id) / "code", asked.job
        found = code.tree(job.cwd, job.program.path, str(store.root / "runs"))
        code.guard(found, code_limit(given), "--snapshot")
        asked = asked._replace(job=code.redirect(job, found.root, str(copy)), copied=(found, copy))
    return asked, run_id, store


def make_copy(asked: Asked, given: Mapping[str, Any]) -> None:
    """Copy the code into the run directory, if that was asked for."""
    if asked.copied is not None:
        from muster.world import code

        if not given.get("quiet"):
            for note in asked.copied[0].notes:
                print(f"muster: {note}", file=sys.stderr)
        code.snapshot(*asked.copied)


def code_limit(given: Mapping[str, Any]) -> int:
    """The bytes that code may have."""
    return int(given.get("code_limit", 256)) << 20


def plan(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show what `run` would start. Starts nothing, writes nothing, asks nobody."""
    if _help(words, "plan", "show what `muster run` would start, and start nothing"):
        return 0
    from muster.report import plan_in_words

    parsed = parse_run(words, env, command="plan")
    given = options_for(parsed, env)
    asked, run_id, store = _asked(parsed, given, env, "plan")
    if given.get("slurm"):
        from muster.commands.submit import request, script_of

        run_dir = store.path(run_id)
        print(script_of(request(asked, given, run_dir), asked, given, run_dir), end="")
        return 0
    nodes = nodes_there(asked, given, None) if asked.hosts else nodes_here(asked, given, env)
    planned = make_plan(asked.job, nodes, run_id)
    if given.get("json"):
        import json

        print(json.dumps({"run": run_id, **hidden(as_json(planned), shown)}, indent=1))
    else:
        print(plan_in_words(planned, run_id, str(store.root / "runs"), given.get("show_env", False)))
    return 0


def run(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Start the ranks, show what happens, and give the exit status of the run."""
    if _help(words, "run", "start the ranks of a script, here or on other machines, and see them to their end"):
        return 0
    parsed = parse_run(words, env)
    return start(["run", *words], parsed, options_for(parsed, env), env, began)


def start(
    words: list[str],
    parsed: Parsed,
    given: Mapping[str, Any],
    env: Mapping[str, str],
    began: float,
    verb: str = "run",
) -> int:
    """Start what these options ask for, and see it to its end; gives the exit status of the run.

    `given` may hold, beside options, `brought`, the text of the script, and `view`: (plan, run id, env) to a `View`.
    """
    from muster.world.link import end_links, start_agents

    asked, run_id, store = _asked(parsed, given, env, verb)
    temporary = homes.why_temporary(env)
    if temporary and store.root == store.homes[0]:
        progress(given)(temporary)
    _warn_of_namesakes(store, asked.job.name)
    if given.get("slurm"):
        from muster.commands.submit import submit

        return submit(words, asked, given, env, run_id, store, parsed.given)
    if asked.hosts or given.get("detach"):
        from muster.commands.there import run_there

        return run_there(words, asked, given, env, began, run_id, store)
    nodes = nodes_here(asked, given, env)
    job = on_a_terminal(asked.job, sum(len(node.ranks) for node in nodes), given, env)
    planned = make_plan(job, nodes, run_id)
    view = make_view(planned, run_id, given, env)
    if env.get("SLURM_JOB_ID"):
        _tell_of_more_nodes(view, env, store)
    kept = keep(planned, run_id, store, given, words)
    view.operand = kept.operand
    try:
        make_copy(asked, given)
        agents = start_agents(asked.job, planned.nodes, env, planned.reader is not None)
    except Impossible:
        runs.remove(store, kept)
        raise
    # meanwhile the agents come to life
    from muster.agent import machine
    from muster.checkup import at_no_cost
    from muster.world.attached import Attached

    for finding in at_no_cost({planned.hosts[0]: machine.at_no_cost(env)}, asked.job.env):
        if not given.get("quiet"):
            view.say(finding)

    try:
        attached = Attached(planned, kept, agents, view, began)
    except OSError as error:
        end_links(agents.links, _TO_LEAVE)
        runs.remove(store, kept)
        hint = system.hint_for(system.reason(error), f"look at {kept.path}")
        raise Impossible(f"the run could not be started: {system.reason(error)}", hint) from None
    outcome = attached.go()
    _honour_error_file(kept, outcome.attempt, outcome.first.rank if outcome.first else None, env)
    return outcome.code


def _tell_of_more_nodes(view: View, env: Mapping[str, str], store: runs.Store) -> None:
    """Say that the ranks run on one of the nodes that Slurm has given, if it still has."""
    from muster.schedulers import slurm
    from muster.world import queue

    found = slurm.allocation(env)
    if found is None or len(found.hosts) < 2:
        return
    try:
        queue.allocation(env, store.root, _SLURM_SAYS)
    except Impossible as error:
        view.say(error.sentence)
    else:
        view.say(
            f"job {found.job} of Slurm has {len(found.hosts)} nodes, and these ranks run on this one: "
            "`--slurm` runs them on all"
        )


_SLURM_SAYS = 2.0
"""Seconds in which Slurm has to answer before ranks start that do not need it."""
_TO_LEAVE = 0.5
"""Seconds in which an agent has to end that was not told anything yet."""


def progress(given: Mapping[str, Any]) -> Callable[[str], None]:
    """What tells on stderr how far a start is; under `--quiet` it tells nothing."""
    return lambda text: None if given.get("quiet") else print(f"muster: {text}", file=sys.stderr, flush=True)


def _warn_of_namesakes(store: runs.Store, name: str) -> None:
    """Say that a run of the same name lives: `muster kill NAME` would fit both."""
    if not name:
        return
    from muster.world import contact

    for other in runs.namesakes(store, name):
        if contact.has_not_ended(other):
            print(f"muster: warning: {other.id} has the same name, {name}, and has not ended", file=sys.stderr)


def make_view(plan: Plan, run_id: str, given: Mapping[str, Any], env: Mapping[str, str], operand: str = "") -> Any:
    """What shows the run; raises `Impossible` for a `--prefix` that cannot be.

    `operand` names the run in commands that are shown, where the id does not (`Run.operand`).
    """
    from muster.world.terminal import JsonLines, Terminal

    if "view" in given:
        return given["view"](plan, run_id, env)
    if given.get("json"):
        return JsonLines(run_id, given.get("ranks"), given.get("quiet", False))
    view = Terminal(plan, run_id, env, given.get("prefix"), given.get("ranks"), given.get("quiet", False))
    view.operand = operand or run_id
    for note in [*(() if given.get("quiet") else notes(given)), *warnings(plan.job)]:
        view.say(note)
    return view


def new_directory(store: runs.Store, run_id: str, given: Mapping[str, Any]) -> runs.Run:
    """Make the run directory, in the place of old ones by --keep-runs and --keep-size; raises `Impossible`."""
    kept = runs.create(store, run_id)
    if "keep_runs" in given or "keep_size" in given:
        from muster.world.pruning import limit

        deleted = limit(store, given.get("keep_runs"), given.get("keep_size"))
        if deleted:
            progress(given)(deleted)
    return kept


def keep(
    plan: Plan, run_id: str, store: runs.Store, given: Mapping[str, Any], words: list[str], **more: Any
) -> runs.Run:
    """Make the run directory, with what was asked for and the plan in it."""
    kept = new_directory(store, run_id, given)
    kept.write("job.json", job_record(plan.job, plan.world_size, run_id, words, **more))
    kept.write("plan.json", hidden(as_json(plan)))
    return kept


def job_record(job: Job, ranks: int, run_id: str, words: list[str], **more: Any) -> dict[str, Any]:
    """What job.json says of a run; `more` takes the place of what holds for one that this process looks after."""
    from muster.world.contact import process_started
    from muster.world.here import identity

    return {
        "id": run_id,
        "name": job.name,
        "argv": ["muster", *hidden_words(words)],
        "cwd": job.cwd,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "time": time.time(),
        "ranks": ranks,
        "pid": os.getpid(),
        "pid_started": process_started(os.getpid()),
        **identity(),
        "job": hidden(as_json(job)),
        **more,
    }


def _honour_error_file(kept: runs.Run, attempt: int, rank: Any, env: Mapping[str, str]) -> None:
    """Where TORCHELASTIC_ERROR_FILE is set, leave there what torchrun would: the error of the first failing rank."""
    target = env.get("TORCHELASTIC_ERROR_FILE")
    if not target or rank is None:
        return
    import json

    source = kept.path / f"attempt_{attempt}" / f"rank_{rank:05d}.error.json"
    outcome = kept.outcome
    try:
        if source.exists():  # the script has torch's @record
            text = source.read_text()
        else:
            assert outcome is not None and outcome.first is not None
            failure = outcome.first.failure
            words = failure.summary if failure else f"exit status {outcome.code}"
            stack = "\n".join(failure.frames) if failure else ""
            info = {"py_callstack": stack, "timestamp": str(int(time.time()))}
            text = json.dumps({"message": {"message": words, "extraInfo": info}})
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        Path(target).write_text(text)
    except OSError as error:
        print(f"muster: cannot write TORCHELASTIC_ERROR_FILE {target}: {system.reason(error)}", file=sys.stderr)


def _help(words: list[str], name: str, verb: str) -> bool:
    """Show the help if it is asked for before the script."""
    try:
        wanted = parse(words, with_sbatch_names(RUN) if "--slurm" in words else RUN).given.get("help")
    except Impossible:
        return False
    if wanted:
        print(_USAGE.format(verb=verb, name=name))
        print(help_text(RUN))
    return bool(wanted)
