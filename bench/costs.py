"""The section of docs/benchmarks.md that says where the time goes. All its figures come from the results."""

from __future__ import annotations

import row_imports
import row_steps
from contenders import IMPORT
from figures import MISSING, Figures, with_unit

THREE = "three imports of torch at once"

TEXT = """## Where the time goes

What each step of a launch takes by itself, below what it cannot go, and who would have to change for that.

| step | takes | floor | who would have to change |
|---|---|---|---|
{steps}

**On one machine** a launch with 8 ranks has its first all-reduce after {ours}; one plain `import torch` in a new Python
takes {plain}. So a cold launch becomes faster only as the import does. A [session](hold.md), which has imported before,
goes below that: {held}.

**On three hosts that share the cores** the floor is three imports at once, {three}; a launch of 3 × 2 ranks takes
{hosts}. Hosts with cores of their own import at the same time. The CPU time of all processes of such a launch is about
that of the three imports alone: with the garbage collector off these take less, by as much as logins, agents and the
controller take. So what is above the floor is waiting, one after the other: the command imports its modules until the
first ssh starts, ssh logs in, an agent starts from bytecode, three short exchanges, and the agents detach and find out
that their Python takes the hook; only then torch is imported, and on cores that were idle before.

**Within the import.** What a change before `import torch` gives, in one process:

| change | gives |
|---|---|
{changes}

muster turns the garbage collector off while it imports. The bytecode of torch is there after the first import. The path
finder of Python already remembers the contents of directories: what is left to gain there would change what the script
sees.

**Not taken**, with the reason:

- *A proof that forked ranks behave as plain ones, remembered for each interpreter.* It takes one start of Python,
  {python}, before torch is imported. Path, size and time of the interpreter are not enough as a key: what it does with
  PYTHONPATH also depends on files beside it and, if it is a wrapper, on variables and files that only it knows. A
  remembered proof that has become wrong would run the script once too often.
- *Importing torch over ssh as soon as an agent runs.* The fork server starts with the environment of the ranks, which
  follows from the answers of all hosts (cores, addresses). And an agent detaches by forking when it has its part of
  the plan: an interpreter that it has started before would not be its child, and would end with the connection. An
  agent that detaches first, and then answers, could start one as a session does; what it saves is the time of the
  exchanges and of detaching, not that of the login.
- *Fewer records.* `typing.NamedTuple` compiles each annotation when a class is made, which is a small part of each
  import of muster's modules. Only a private interface of `typing` avoids that.
- *Skipping the destructors of C++ objects in every rank.* muster skips them if all native code in the rank is known to
  do nothing there. CUDA, MPI and other libraries end as usual.
"""


def less(over: float | None, under: float | None, count: int = 1) -> str:
    """Return a difference of two medians in seconds, for each of `count`."""
    return MISSING if over is None or under is None else with_unit((over - under) / count, "s", 3)


def costs(figures: Figures) -> str:
    """Return the section."""
    median = figures.results.median

    def step(name: str, case: str = "step") -> str:
        return figures("steps", case, "time", name)

    def launch(case: str, quantity: str) -> float | None:
        return median("launch", case, quantity)

    def saved(name: str) -> str:
        plain = median("import", "before the import", "time", row_imports.PLAIN)
        return less(plain, median("import", "before the import", "time", name))

    a_rank = less(launch("32 ranks", "first"), launch("8 ranks", "first"), 24)
    an_exit = less(launch("32 ranks", "ended"), launch("32 ranks", "first"), 32)
    rows = [
        (
            "the command, the agent, the end of the run",
            step(row_steps.NOTHING),
            f"two starts of Python, {step(row_steps.BARE)} each without `site`",
            "CPython",
        ),
        (
            "one import of torch for each host, in the fork server",
            step(row_steps.IMPORT),
            "the same: a launcher can only do it fewer times, or before (`muster hold`)",
            "torch: it imports more than a thousand modules, and the loader relocates its libraries",
        ),
        ("each further rank until its first all-reduce", a_rank, "a fork, which copies page tables", "the kernel"),
        (
            "`init_process_group` with gloo, in each rank",
            step(row_steps.GROUP),
            "the same; with n ranks n² connections are made",
            "torch, gloo",
        ),
        ("the first all-reduce, in each rank", step(row_steps.REDUCE), "the same", "torch, gloo"),
        (
            "the exit of a rank",
            an_exit,
            f"a plain process takes {step(row_steps.EXIT)}: destructors of C++ objects",
            "torch; muster skips them where nothing could notice",
        ),
        (
            "over ssh: login on each host, at the same time",
            step(row_steps.LOGIN, "step on hosts"),
            "the same, unless ssh keeps a connection (`ControlMaster`)",
            "OpenSSH: key exchange",
        ),
        (
            "over ssh: agents, rendezvous and controller on three hosts",
            step(row_steps.NOTHING_OVER_SSH, "step on hosts"),
            "a login and three starts of Python on these cores",
            "muster",
        ),
        (
            "in Slurm: job, step, agents and controller on three hosts",
            step(row_steps.NOTHING_BY_SRUN, "step on hosts"),
            f"`srun` of `true`: {step(row_steps.SRUN, 'step on hosts')}",
            "muster, Slurm",
        ),
    ]
    ours, plain = figures("launch", "8 ranks", "first"), figures("launch", "8 ranks", "first", IMPORT)
    held, here = figures("held", "8 ranks", "first"), figures("hosts", "3 × 2", "first")
    return TEXT.format(
        steps="\n".join(f"| {' | '.join(row)} |" for row in rows),
        ours=ours,
        plain=plain,
        held=held,
        three=figures("hosts", "3 × 2", "first", THREE),
        hosts=here,
        changes="\n".join(f"| {name} | {saved(name)} |" for name in row_imports.PREAMBLES if name != row_imports.PLAIN),
        python=step(row_steps.PYTHON),
    )
