"""Prints the plan of a run, for `muster plan`."""

from __future__ import annotations

from muster.config.nodes import spares_of
from muster.core.env_forwarding import redact, shown
from muster.core.model import as_json
from muster.core.rank_env import of_each_rank
from muster.errors import InvalidRequest
from muster.runner.context import RunContext
from muster.runner.roles import Parts, members_of, nodes_here, nodes_there, plan_of


def _roles_to_come(context: RunContext) -> str:
    """Return the plan of the roles in a job that is not submitted yet, as far as the options tell it."""
    from muster.runner.scheduled import parts_to_come
    from muster.schedulers import title
    from muster.ui.plan_text import plan_in_words

    job = context.asked.job
    try:
        parts = parts_to_come(context)
    except InvalidRequest as error:
        return f"\n# the roles: {error.message}" + (f"; {error.hint}" if error.hint else "")
    planned = plan_of(members_of(context), parts, context.run_id)
    until = f"{title(job.scheduler)} chooses the nodes: names such as node-0 stand for them"
    text = plan_in_words(planned, context.run_id, str(context.store.root / "runs"), context.options.show_env)
    return f"\n# {until}\n{text}"


def print_plan(context: RunContext) -> int:
    """Print the plan of a run."""
    from muster.runtimes import python_inside
    from muster.transports.target import target_of
    from muster.ui.plan_text import plan_in_words

    asked, run_id, store, options, env = context.asked, context.run_id, context.store, context.options, context.env
    if options.scheduled and not options.json:
        from muster.runner.scheduled import request, script_of

        run_dir = store.path(run_id)
        print(script_of(request(asked, options, run_dir), asked, options, run_dir), end="")
        if asked.roles:
            print(_roles_to_come(context))
        return 0
    shipped: list[str] = []
    if options.ship_env:
        from muster.runner.shipped import planned as planned_environment

        asked, shipped = planned_environment(asked, options, str(store.root))
    members = members_of(context._replace(asked=asked))
    if options.scheduled:
        from muster.runner.scheduled import parts_to_come

        parts: Parts = parts_to_come(context._replace(asked=asked))
    elif asked.hosts:
        parts = nodes_there(members, None)
    else:
        parts = nodes_here(members, env)
    planned = plan_of(members, parts, run_id)._replace(spares=spares_of(asked))
    if options.json:
        import json

        # ranks inherit the environment of their node, which is known for this machine
        inherited = (
            {"env": dict(sorted(env.items()))} if asked.job.transport == "local" and not asked.job.setup else None
        )
        whole = {**planned._asdict(), "ranks": of_each_rank(planned), "inherited": inherited}
        del whole["environments"]
        print(json.dumps({"run": run_id, **redact(as_json(whole), shown)}, indent=1))
    else:
        entered = target_of(planned.job, planned.nodes[0].host).enter
        entered += f'\nexec "$@" {python_inside(planned.job)} -I -S …' if entered else ""
        print(plan_in_words(planned, run_id, str(store.root / "runs"), options.show_env, entered, shipped))
    return 0
