"""`muster run` on other hosts, or detached (`-d`); `muster attach`. The supervisor is on the run's node 0."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import archive, runs
from muster.agent import meet
from muster.agent.local import new_token
from muster.checkup import at_no_cost
from muster.commands.common import end_in_words, one, read
from muster.commands.run import code_limit, job_record, make_copy, make_view, new_directory, progress
from muster.environ import hidden
from muster.errors import Impossible
from muster.hosts import fold_hosts
from muster.job import Asked, hosts_to_reach, nodes_here, nodes_there
from muster.launchers import make_plan
from muster.model import Job, Plan, as_json
from muster.plurals import plural
from muster.printable import line as safe
from muster.world import code, contact
from muster.world.gather import Gathering
from muster.world.loop import clock_of, prepare_fields, temporary_base
from muster.world.serve import RECORD
from muster.world.watch import Watch, show_rest

_TAIL = 4096
"""Bytes of each log that `attach` begins with."""


def run_there(
    words: list[str],
    asked: Asked,
    given: Mapping[str, Any],
    env: Mapping[str, str],
    began: float,
    run_id: str,
    store: runs.Store,
) -> int:
    """Start a run whose supervisor is on node 0, and watch it unless it is detached."""
    import secrets

    detached = bool(given.get("detach"))
    if detached and asked.job.stdin is not None:
        raise Impossible("--stdin with --detach: there is no terminal to read from", "leave one of them out")
    if given.get("sync"):
        asked = asked._replace(job=code.real(asked.job))
    kept = new_directory(store, run_id, given)
    meet.put_flag(str(kept.path))
    here = None if asked.hosts else nodes_here(asked, given, env)
    hosts = hosts_to_reach(asked) if here is None else [node.host for node in here]
    say = progress(given)
    gathering = Gathering(asked.job, hosts, env, say)
    try:
        make_copy(asked, given)
        facts = gathering.reach(str(kept.path))
        gathering.check_room()
        if here is None and given.get("sync"):
            asked = asked._replace(job=_send_code(gathering, asked, given, env, kept.path.parent))
        elif here is None and not given.get("no_code_check"):
            gathering.sources = code.sources(asked.job, str(kept.path.parent))
        gathering.check()
        for finding in at_no_cost({link.host: link.facts for link in gathering.links}, asked.job.env):
            gathering.say(finding)
        nodes = here if here is not None else nodes_there(asked, given, facts)
        plan = make_plan(asked.job, nodes, run_id)
        view = make_view(plan, run_id, given, env, kept.operand)
        meeting = gathering.meet()
        shares = gathering.share(str(kept.path), run_id)
        links = gathering.links
        first = links[0]
        record = job_record(
            plan.job,
            plan.world_size,
            run_id,
            words,
            host=first.facts["host"],
            boot=first.facts["boot"],
            pid=0,
            pid_started="",
            served=as_json(nodes[0].host),
            there=shares[0][0],
            shared=first.facts["shared"],
        )
        serve = {
            "began": began + first.offset,
            "address": meeting.address,
            "meets": meeting.meets,
            "offsets": [link.offset - first.offset for link in links],
            "facts": [{"executable": link.facts["executable"], "python": link.facts["python"]} for link in links],
            "shared": [shared for _, shared in shares],
            "run_dirs": [run_dir for run_dir, _ in shares],
            "clock": clock_of(first.offset),
            "attached": not detached,
        }
        token = new_token()
        base = temporary_base(plan, [link.facts for link in links])
        prepares = [
            {
                **prepare_fields(
                    plan,
                    link.node,
                    link.host,
                    run_dir,
                    run_id,
                    token,
                    base,
                    reads=not detached,
                    clock=clock_of(link.offset),
                ),
                "own_run_dir": not shared,
                "path_first": asked.job.place != "local",
            }
            for link, (run_dir, shared) in zip(links, shares)
        ]
        texts = {"job.json": record, "plan.json": hidden(as_json(plan)), RECORD: serve}
        contact.remember_way(kept, asked.job)
        kept.write("job.json", record)
        kept.write("plan.json", texts["plan.json"])
        gathering.move(
            prepares,
            archive.build(),
            {name: json.dumps(data, indent=1) + "\n" for name, data in texts.items()},
            secret=secrets.token_hex(32),
            lease=asked.job.lease,
            address=meeting.address,
            port=meeting.port,
            stays=not detached,
        )
    except BaseException:
        gathering.give_up()
        contact.forget_way(kept)
        runs.remove(store, kept)
        raise
    if detached:
        gathering.close()
        gathering.give_up()
        say(f"{_detached(plan)}; muster attach, logs -f, wait or kill {kept.operand}")
        print(run_id)
        return 0
    watch = Watch(
        first.host,
        kept.operand,
        lambda: contact.way_to(kept),
        lambda made, name: view,
        owner=True,
        patience=asked.job.lease + 30,
        keep=None if first.facts["shared"] else kept,
        signals=gathering.signals,
        view=view,
        files=lambda: _up_to_date(kept),
    )
    return _told(kept, watch.go(gathering.hand_over()), watch)


def _send_code(
    gathering: Gathering, asked: Asked, given: Mapping[str, Any], env: Mapping[str, str], runs_dir: Path
) -> Job:
    """Send the code to the hosts that have another one, or none; gives the job that runs it there.

    Raises `Impossible`, `Unreachable`.
    """
    job = asked.job
    if asked.copied is not None:
        original, copy = asked.copied
        found = code.everything(str(copy))
        if not all(link.facts["cwd"] for link in gathering.links):
            job = job._replace(cwd=code.moved(job.cwd, original.root, str(copy)))
            os.makedirs(job.cwd, exist_ok=True)
    else:
        found = code.tree(job.cwd, job.program.path, str(runs_dir))
    code.guard(found, code_limit(given), "--sync")
    wanted = gathering.differing(found, sent=True)
    for link in gathering.links:
        if not link.facts["cwd"]:
            wanted.setdefault(gathering.hosts[link.node], [])
    if wanted:
        for note in found.notes:
            gathering.say(note)
        code.send(job, found, wanted, gathering.say, env)
        other = gathering.differing(found, sent=True)
        if other:
            host, names = next(iter(other.items()))
            raise Impossible(
                f"{safe(names[0])} on {host.name} is not what was sent there", "was it edited meanwhile? start again"
            )
        gathering.remember(found, wanted)
    gathering.look_again(job)
    absent = [link.host for link in gathering.links if job.program.path and not link.facts["script"]]
    if absent:  # nothing of what was sent is absent
        raise Impossible(
            f"there is no {job.program.path} on {fold_hosts(absent)}, and --sync sends {found.root}",
            "start it from its own directory",
        )
    return job


def _detached(plan: Plan) -> str:
    # they start after this command has ended, and may still fail to
    return f"starting {plural(plan.world_size, 'rank')}, supervised on {plan.nodes[0].host.name}"


def attach(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Watch a run that goes on without a terminal; several may do so at once."""
    asked = read("attach", words, env, "watch a run that goes on without a terminal; Ctrl-C leaves it running")
    if asked is None:
        return 0
    given, rest, store = asked
    run = one(store, rest, "attach")
    if not run.job.get("served"):
        raise Impossible(
            f"{run.id} is supervised by the terminal that started it, and ends with it",
            "`muster logs -f` follows its output; `muster run -d` starts one that can be attached to",
        )
    if run.outcome is not None and contact.state(run) == run.outcome.state:
        print(f"{run.id}: {end_in_words(run, run.outcome)}")
        return run.outcome.code
    if run.job.get("slurm") and not run.job.get("allocated"):
        from muster.commands.submit import follow

        return follow(run, given, env, attached=True)
    watch = Watch(
        run.job["served"]["name"],
        run.operand,
        lambda: contact.way_to(run),
        lambda plan, run_id: make_view(plan, run_id, given, env, run.operand),
        owner=False,
        patience=600.0,
        tail=None if given.get("all") else _TAIL,
        files=lambda: _up_to_date(run),
    )
    return _told(run, watch.go(), watch)


def _up_to_date(run: runs.Run) -> runs.Run | None:
    """The run with all its files here; None where they are out of reach."""
    return run if contact.refresh(run) else None


def _told(run: runs.Run, outcome: Any, watch: Watch) -> int:
    """The exit status, and a word where the outcome is not known here."""
    import sys

    if outcome is not None:
        return int(outcome.code)
    if watch.left:
        hint = f"`muster attach {run.operand}`, `muster kill {run.operand}`"
        print(f"\nmuster: left {run.id} running; {hint}", file=sys.stderr)
        return 0
    contact.refresh(run)
    if run.outcome is not None:
        if watch.view is not None:
            show_rest(run, watch.view, watch.offsets, watch.tail)
            watch.view.finish(run.outcome)
            return run.outcome.code
        print(f"muster: {end_in_words(run, run.outcome)}", file=sys.stderr)
        return run.outcome.code
    state = contact.state(run)
    contact.require_known(run, state)
    print(f"muster: {run.id} is {state}; `muster show {run.operand}`", file=sys.stderr)
    return 125
