"""`muster run` on other hosts, or detached (`-d`); `muster attach`. The supervisor is on the run's node 0."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import archive, runs
from muster.agent import meet
from muster.agent.eventloop import EventLoop
from muster.agent.local import new_token
from muster.client import remote
from muster.client.attach import AttachedClient, show_rest
from muster.client.client import sync_files
from muster.client.reconcile import reconcile, require_known
from muster.commands.common import end_in_words, one, read
from muster.commands.context import RunContext, job_record, viewer_of
from muster.core.controller_config import RECORD, config_as_json
from muster.environ import hidden
from muster.errors import Impossible
from muster.hosts import fold_hosts
from muster.job import hosts_to_reach, nodes_here, nodes_there
from muster.launchers import make_plan
from muster.model import Job, Plan, as_json
from muster.options import AttachOptions
from muster.places.target import target_of
from muster.plurals import plural
from muster.printable import line as safe
from muster.world import code
from muster.world.bootstrap import Bootstrap, RunPlace, need_of
from muster.world.gather import Gathering
from muster.world.link import captured_signals, signals_of

_TAIL = 4096
"""Bytes of each log that `attach` begins with."""


def run_there(context: RunContext) -> int:
    """Start a run whose supervisor is on node 0, and watch it unless it is detached."""
    import secrets

    options, asked, env, run_id = context.options, context.asked, context.env, context.run_id
    detached = options.detach
    if detached and asked.job.stdin is not None:
        raise Impossible("--stdin with --detach: there is no terminal to read from", "leave one of them out")
    if options.sync:
        asked = asked._replace(job=code.real(asked.job))
    kept = context.new_directory()
    meet.put_flag(str(kept.path))
    here = None if asked.hosts else nodes_here(asked, options, env)
    hosts = hosts_to_reach(asked) if here is None else [node.host for node in here]
    targets = [target_of(asked.job, host) for host in hosts]
    with EventLoop() as loop, signals_of(loop, asked.job) as signals:
        gathering = Gathering(loop, signals, need_of(asked.job), targets, env, context.progress)
        bootstrap = Bootstrap(gathering, need_of(asked.job))
        try:
            context.make_copy()
            facts = bootstrap.facts(str(kept.path))
            bootstrap.check_storage(str(kept.path))
            if here is None and options.sync:
                asked = asked._replace(job=_send_code(gathering, context._replace(asked=asked), kept.path.parent))
                bootstrap.need = need_of(asked.job)
            elif here is None and not options.no_code_check:
                gathering.code = code.sources(asked.job, str(kept.path.parent))
            bootstrap.check()
            for finding in bootstrap.findings():
                gathering.say(finding)
            nodes = here if here is not None else nodes_there(asked, facts, options.ranks or ())
            plan = make_plan(asked.job, nodes, run_id)
            view = context.viewer(plan, run_id, kept.operand)
            meeting = bootstrap.rendezvous()
            where = RunPlace(run_id, str(kept.path), new_token())
            attached = not detached
            config, parts = bootstrap.configure(plan, where, meeting, context.began, owned=attached, reads=attached)
            first = gathering.links[0]
            record = job_record(
                plan.job,
                plan.world_size,
                run_id,
                context.argv,
                host=first.facts["host"],
                boot=first.facts["boot"],
                pid=0,
                pid_started="",
                served=as_json(nodes[0].host),
                there=config.nodes[0].run_dir,
                shared=first.facts["shared"],
            )
            texts = {"job.json": record, "plan.json": hidden(as_json(plan)), RECORD: config_as_json(config)}
            remote.remember_way(kept, remote.way_of(asked.job))
            kept.write("job.json", record)
            kept.write("plan.json", texts["plan.json"])
            gathering.move(
                parts,
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
            remote.forget_way(kept)
            runs.remove(context.store, kept)
            raise
        if detached:
            gathering.give_up()
            context.progress(f"{_detached(plan)}; muster attach, logs -f, wait or kill {kept.operand}")
            print(run_id)
            return 0
        watch = AttachedClient(
            loop,
            signals,
            first.host,
            kept.operand,
            lambda: remote.connect(kept),
            lambda made, name: view,
            owner=True,
            patience=asked.job.lease + 30,
            keep=None if first.facts["shared"] else kept,
            view=view,
            files=lambda: _up_to_date(kept),
        )
        outcome = watch.go(gathering.hand_over())
    return _told(kept, outcome, watch)


def _send_code(gathering: Gathering, context: RunContext, runs_dir: Path) -> Job:
    """Send the code to the hosts that have another one, or none; gives the job that runs it there.

    Raises `Impossible`, `Unreachable`.
    """
    job = context.asked.job
    if context.asked.copied is not None:
        original, copy = context.asked.copied
        found = code.everything(str(copy))
        if not all(link.facts["cwd"] for link in gathering.links):
            job = job._replace(cwd=code.moved(job.cwd, original.root, str(copy)))
            os.makedirs(job.cwd, exist_ok=True)
    else:
        found = code.tree(job.cwd, job.program.path, str(runs_dir))
    code.guard(found, context.code_limit, "--sync")
    wanted = gathering.compare(found, sent=True)
    for link in gathering.links:
        if not link.facts["cwd"]:
            wanted.setdefault(gathering.targets[link.node], [])
    if wanted:
        for note in found.notes:
            gathering.say(note)
        code.send(job.cwd, found, wanted, gathering.say, context.env)
        other = gathering.compare(found, sent=True)
        if other:
            target, names = next(iter(other.items()))
            raise Impossible(
                f"{safe(names[0])} on {target.host} is not what was sent there", "was it edited meanwhile? start again"
            )
        gathering.remember(found, wanted)
    gathering.look_again(need_of(job))
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
    """AttachedClient a run that goes on without a terminal; several may do so at once."""
    asked = read(
        AttachOptions, "attach", words, env, "watch a run that goes on without a terminal; Ctrl-C leaves it running"
    )
    if asked is None:
        return 0
    options, rest, store = asked
    run = one(store, rest, "attach")
    viewer = viewer_of(options, env)
    if not run.job.get("served"):
        raise Impossible(
            f"{run.id} is supervised by the terminal that started it, and ends with it",
            "`muster logs -f` follows its output; `muster run -d` starts one that can be attached to",
        )
    if run.outcome is not None and (ended := reconcile(run).outcome) is not None:
        print(f"{run.id}: {end_in_words(run, ended)}")
        return ended.code
    if (scheduled := run.scheduled) is not None and not scheduled.allocated:
        from muster.commands.submit import follow

        return follow(run, viewer, attached=True)
    with EventLoop() as loop, captured_signals(loop) as signals:
        watch = AttachedClient(
            loop,
            signals,
            run.job["served"]["name"],
            run.operand,
            lambda: remote.connect(run),
            lambda plan, run_id: viewer(plan, run_id, run.operand),
            owner=False,
            patience=600.0,
            tail=None if options.all else _TAIL,
            files=lambda: _up_to_date(run),
        )
        outcome = watch.go()
    return _told(run, outcome, watch)


def _up_to_date(run: runs.Run) -> runs.Run | None:
    """The run with all its files here; None where they are out of reach."""
    return run if sync_files(run) else None


def _told(run: runs.Run, outcome: Any, watch: AttachedClient) -> int:
    """The exit status, and a word where the outcome is not known here."""
    import sys

    if outcome is not None:
        return int(outcome.code)
    if watch.left:
        hint = f"`muster attach {run.operand}`, `muster kill {run.operand}`"
        print(f"\nmuster: left {run.id} running; {hint}", file=sys.stderr)
        return 0
    sync_files(run)
    if run.outcome is not None:
        if watch.view is not None:
            show_rest(run, watch.view, watch.offsets, watch.tail)
            watch.view.finish(run.outcome)
            return run.outcome.code
        print(f"muster: {end_in_words(run, run.outcome)}", file=sys.stderr)
        return run.outcome.code
    found = reconcile(run)
    require_known(run, found)
    print(f"muster: {run.id} is {found.state}; `muster show {run.operand}`", file=sys.stderr)
    return 125
