"""Resolution of options to a job: on this machine, or on the named hosts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from muster import runtimes
from muster.config.checks import check_signals
from muster.config.files import absolute
from muster.config.hosts import split_per_host, wanted_hosts
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.program import check_command, check_function, check_script, choose_program, split_words
from muster.config.python import check_package, choose_python
from muster.config.spawning import calls_spawn
from muster.config.torchrun import reject_nested_launch
from muster.core import env_forwarding
from muster.core.hostlist import HostSpec
from muster.core.model import AUTHENTICATED, ENDING, Job, TerminalSize
from muster.core.plurals import listed
from muster.core.results import OnHang
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.launchers import LAUNCHERS, OTHER_NAMES
from muster.schedulers import SCHEDULERS, choosing, named, options_of, takers, title, typed

if TYPE_CHECKING:
    from muster.code_sync import Tree


def _check_scheduler(options: RunOptions) -> None:
    """Raise `InvalidRequest` for an unknown scheduler, and for options of a scheduler that was not chosen."""
    name = options.scheduler or ""
    if name and name not in SCHEDULERS:
        hint = did_you_mean(name, SCHEDULERS) or f"known schedulers: {', '.join(SCHEDULERS)}"
        raise InvalidRequest(f"unknown scheduler: `{name}`", hint)
    others = [option for option in choosing(options) if option.key not in ("scheduler", name) and options.value(option)]
    if name and others:
        raise InvalidRequest(
            f"{others[0].long_name} cannot be combined with --scheduler {name}", "leave out one of them"
        )
    given = [(option, takers(option)) for option in options.all_given("argv")]
    given = [(option, valid) for option, valid in given if valid and options.scheduled not in valid]
    if not given:
        return
    first, valid = given[0]
    if options.scheduled:
        raise InvalidRequest(
            f"{first.long_name} is an option of {listed(map(title, valid))}, and not available with "
            f"{typed(options.scheduled)}",
            _instead(first.key, options.scheduled) or "leave it out",
        )
    for _, also in given:
        valid = tuple(name for name in valid if name in also) or valid
    names = [option.long_name for option, also in given if set(valid) <= set(also)]
    hint = f"add {named(valid, 'or')}"
    if "--time" in names:
        hint += "; to limit the duration of a run without a scheduler, use `--timeout 1h`"
    needed = typed(valid[0]) if len(valid) == 1 else "a scheduler"
    raise InvalidRequest(f"{', '.join(names)} {'requires' if len(names) == 1 else 'require'} {needed}", hint)


def _instead(key: str, scheduler: str) -> str | None:
    """Return what to use with a scheduler in place of another one's option; None for nothing."""
    of = options_of(scheduler)
    if key.endswith("_opt") and key not in of.instead:
        own = next((option.long_name for option in of.run.table if option.key.endswith("_opt")), "")
        return f"use `{own} NAME=VALUE` with an option of {of.program}" if own else None
    return of.instead.get(key)


class JobRequest(NamedTuple):
    """The job and the hosts that the options request."""

    job: Job
    hosts: tuple[HostSpec, ...]
    """The named hosts; empty for this machine."""
    ranks_per_node: str | None
    """The value of `-g`."""
    pythons: Mapping[str, str]
    """Interpreters of hosts that have their own."""
    setups: Mapping[str, tuple[str, ...]]
    """Lines of `--setup` for single hosts."""
    threads_chosen: bool
    """True if the user has set OMP_NUM_THREADS."""
    snapshot: tuple[Tree, Path] | None = None
    """The code to copy, and the target directory."""
    roles: tuple[RoleRequest, ...] = ()
    """The roles of a run with several programs; `job` is then that of the first, and `hosts` are those of all."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The job of each role, or that of the one program."""
        return tuple(role.asked.job for role in self.roles) or (self.job,)

    def with_jobs(self, jobs: Sequence[Job]) -> JobRequest:
        """Return the request with other jobs, in the order of `jobs`."""
        roles = (role._replace(asked=role.asked._replace(job=job)) for role, job in zip(self.roles, jobs))
        return self._replace(job=jobs[0], roles=tuple(roles))


class RoleRequest(NamedTuple):
    """What the options of one role request, or those of a run with one program."""

    asked: JobRequest
    options: RunOptions


def make_job(
    parsed: ParsedArgs,
    options: RunOptions,
    env: Mapping[str, str],
    verb: str,
    brought: str,
    warn: Callable[[str], object],
    hosts: tuple[HostSpec, ...] | None = None,
) -> JobRequest:
    """Return the job that these options request. Raises `InvalidRequest`.

    `brought` is the source of one of muster's own scripts. `warn` is called with messages on how options were
    interpreted. `hosts`: its hosts, if they do not follow from the options.
    """
    reject_nested_launch(options, env)
    _check_scheduler(options)
    cwd = absolute(options.cwd or ".")
    # as it is typed: `missing/..` is no directory, though it collapses to one
    if not os.path.isdir(options.cwd or cwd):
        raise InvalidRequest(f"--cwd {options.cwd}: directory not found", "create it first")
    what = choose_program(parsed, options, verb, cwd, brought, warn)
    if what.path:
        check_script(what.argv, cwd, env, verb)
    named = wanted_hosts(options, cwd) if hosts is None else hosts
    names = tuple(host.name for host in named)
    held_elsewhere = options.on is not None and bool(options.scheduled)
    if what.kind == "command" and not options.setup and not named and not held_elsewhere:
        check_command(what.argv[0], cwd, env)
    launcher = options.launcher
    wrap = split_words(options.wrap or "", "--wrap")
    if launcher is None:
        launcher = "exec" if what.kind == "command" or wrap else "fork"
    if launcher not in LAUNCHERS:
        raise InvalidRequest(
            f"unknown launcher: `{launcher}`",
            did_you_mean(launcher, LAUNCHERS, OTHER_NAMES) or f"known launchers: {', '.join(LAUNCHERS)}",
        )
    package = LAUNCHERS[launcher].package
    in_what, value = runtimes.chosen(options)
    image = runtimes.runtime(in_what).has_image
    elsewhere = named or options.scheduled or image
    if package and not elsewhere and not options.python and not options.setup:
        check_package(package, launcher)
    if what.kind == "function" and not elsewhere and not any((options.python, options.setup, options.env)):
        check_function(what.argv[0], cwd)
    if named and options.gpus is not None:
        raise InvalidRequest("--gpus cannot be combined with hosts", "name the GPUs of a host with `--hosts n1:0,1`")
    if named and options.numa_binding is not None:
        raise InvalidRequest("--numa-binding cannot be combined with hosts", "leave out one of them")
    general, pythons = split_per_host(options.python, names, "--python")
    setup, setups = split_per_host(options.setup, names, "--setup")
    python, why = choose_python(
        *(general[-1] if general else None, what.argv[0], cwd, env, sys.executable),
        *(not named or options.ship_env, warn),
    )
    if options.on_hang == OnHang.RESTART and not options.max_restarts:
        raise InvalidRequest(
            "--on-hang restart requires --max-restarts", "add `--max-restarts 1`, or use `--on-hang kill`"
        )
    variables = env_forwarding.select(options.env, env)
    _check_environment(options, bool(named), image)
    named_runtime = options.option("container_runtime")
    if not image and named_runtime is not None and options.typed(named_runtime):
        raise InvalidRequest("--container-runtime requires a container", "add `--container IMAGE`")
    if image:
        _check_container(options, in_what, bool(named))
        why = why if general else "of the container"
    job = Job(
        program=what,
        launcher=launcher,
        python=python,
        python_source=why,
        python_named=bool(general),
        cwd=cwd,
        transport="ssh" if named else "step" if options.scheduled else "local",
        scheduler=options.scheduled,
        runtime=in_what,
        runtime_value=value,
        mounts=_mounts(options, in_what),
        name=options.name or "",
        env={**env_forwarding.forwarded(env), **variables} if named or image or held_elsewhere else variables,
        setup=tuple(setup),
        preload=_preload(options, launcher),
        wrap=wrap,
        binding=options.numa_binding or "",
        stdin=options.stdin,
        grace=options.grace,
        timeout=options.timeout,
        hang_timeout=options.hang_timeout,
        on_hang=options.on_hang,
        on_end=options.on_end or "",
        hang_from_start=options.given(RunOptions.hang_timeout, RunOptions.on_hang),
        script_spawns=launcher == "spawn" and bool(what.path) and calls_spawn(os.path.join(cwd, what.path)),
        launcher_args=split_words(options.launcher_args or "", "--launcher-args"),
        max_restarts=options.max_restarts,
        always_restart=options.always_restart,
        restart_delay=options.restart_delay,
        spare_nodes=_spare_nodes(options, launcher),
        ssh=split_words(options.ssh, "--ssh"),
        passes=_passes(options),
        signals_to_handle=",".join(options.signals_to_handle),
        role=options.role,
        log_dir=_log_dir(options, named),
        terminal=_terminal(options, env),
        lease=options.lease if named or options.scheduled else 0.0,
        rendezvous=_rendezvous(options, launcher),
    )
    return JobRequest(
        job=job,
        hosts=named,
        ranks_per_node=options.nproc_per_node,
        pythons={name: values[-1] for name, values in pythons.items()},
        setups={name: tuple(values) for name, values in setups.items()},
        threads_chosen="OMP_NUM_THREADS" in variables or "OMP_NUM_THREADS" in env,
    )


def _mounts(options: RunOptions, in_what: str) -> tuple[str, ...]:
    """Return the mounts of a container. Raises `InvalidRequest` without one."""
    option = options.option("mount")
    found: tuple[str, ...] = () if option is None else options.value(option)
    if found and not runtimes.runtime(in_what).has_image and option is not None and options.typed(option):
        raise InvalidRequest("--mount requires a container", "add `--container IMAGE`")
    return found


def _check_container(options: RunOptions, in_what: str, named: bool) -> None:
    """Raise `InvalidRequest` for what a container excludes."""
    if options.stdin is not None and not named and not options.scheduled:
        raise InvalidRequest(
            "--stdin cannot be combined with a container on this machine: its engine passes on no terminal",
            "leave out one of them",
        )
    if options.sync and named:
        raise InvalidRequest(
            "--sync cannot be combined with a container on hosts: it starts before the code is copied",
            "share the directory, or copy it before",
        )
    if options.on is not None:
        raise InvalidRequest(
            "--on cannot be combined with a container", "leave out one of them; `--container ''` overrides muster.toml"
        )
    needed = runtimes.runtime(in_what).scheduler
    if needed and options.scheduled != needed:
        raise InvalidRequest(
            f"--container-runtime {in_what} requires a job of {title(needed)}",
            f"use `{typed(needed)}`, or choose another runtime",
        )


def _check_environment(options: RunOptions, named: bool, image: bool) -> None:
    """Raise `InvalidRequest` if `--ship-env` has no hosts to send to, or something else brings the environment."""
    if options.env_dir is not None:
        if options.typed(RunOptions.env_dir) and not options.ship_env:
            raise InvalidRequest("--env-dir requires --ship-env", "add `--ship-env`")
        if not os.path.isabs(options.env_dir):
            raise InvalidRequest(
                f"--env-dir {options.env_dir}: not an absolute path",
                "write the absolute path on the hosts, e.g. `--env-dir /scratch/envs`",
            )
    if not options.ship_env or (options.on is not None and not options.typed(RunOptions.ship_env)):
        return
    if options.on is not None:
        raise InvalidRequest("--ship-env cannot be combined with --on", "a session has its interpreters already")
    if image:
        raise InvalidRequest(
            "--ship-env cannot be combined with a container, which has its own", "leave out one of them"
        )
    if not named and not options.scheduled:
        raise InvalidRequest("--ship-env requires hosts", "name hosts with --hosts, or choose a scheduler")


def _spare_nodes(options: RunOptions, launcher: str) -> int:
    """Return the number of spare hosts. Raises `InvalidRequest` where a host cannot be replaced."""
    if not options.spare_nodes:
        return 0
    if options.scheduled:
        if options.nodes is None:
            raise InvalidRequest("--spare-nodes requires the number of nodes", "add -N NODES")
        if options.np is not None or options.gpus is not None:
            total = "--gpus" if options.gpus is not None else "-n"
            raise InvalidRequest(
                f"--spare-nodes cannot be combined with {total}: the scheduler would give spares a part of the total",
                "use -g RANKS_PER_NODE" + (" and --gpus-per-node" if options.gpus is not None else ""),
            )
    elif not options.elsewhere:
        raise InvalidRequest("--spare-nodes requires hosts", "name hosts with --hosts or --hostfile, or use --slurm")
    if LAUNCHERS[launcher].foreign:
        hint = "use `--launcher fork` or `--launcher exec`"
        raise InvalidRequest(f"--spare-nodes cannot be combined with --launcher {launcher}", hint)
    return options.spare_nodes


def _rendezvous(options: RunOptions, launcher: str) -> str:
    """Return how ranks on other hosts reach the store. Raises `InvalidRequest` if the launcher has its own way."""
    if options.rendezvous == AUTHENTICATED and LAUNCHERS[launcher].foreign:
        raise InvalidRequest(
            f"--rendezvous authenticated cannot be combined with --launcher {launcher}, which opens ports of its own",
            "use `--launcher fork` or `--launcher exec`",
        )
    return options.rendezvous


def _terminal(options: RunOptions, env: Mapping[str, str]) -> TerminalSize | None:
    """Return the pseudo-terminal requested by `--tty`; None without it. Raises `InvalidRequest` with `--no-tty`."""
    if options.tty and options.no_tty:
        raise InvalidRequest("--tty cannot be combined with --no-tty", "leave out one of them")
    return _size_here(env) if options.tty else None


def _size_here(env: Mapping[str, str]) -> TerminalSize | None:
    from muster.ui.terminal import size_here  # with all that shows a run, which `muster plan` does not

    return size_here(env)


def job_on_a_terminal(job: Job, ranks: int, options: RunOptions, env: Mapping[str, str]) -> Job:
    """Return the job of an attached local run: a single rank shown on a terminal gets a pseudo-terminal."""
    shown = not (options.no_tty or options.json or options.quiet)
    if job.terminal is None and ranks == 1 and shown and os.isatty(1) and os.isatty(2):
        return job._replace(terminal=_size_here(env))
    return job


def _log_dir(options: RunOptions, named: tuple[HostSpec, ...]) -> str:
    """Return the common prefix of the directories for `--log-dir`. Raises `InvalidRequest` if it is unusable."""
    if options.log_dir is None or options.log_dir == os.devnull:  # with /dev/null torchrun writes no file either
        return ""
    folder = absolute(options.log_dir)
    if not named and os.path.lexists(folder) and not os.path.isdir(folder):
        raise InvalidRequest(f"--log-dir {options.log_dir}: not a directory", "choose a directory; muster creates it")
    id_of_torchrun = (options.rdzv_id or "").replace("/", "-")
    return os.path.join(folder, f"{id_of_torchrun}_" if id_of_torchrun else "")


def _passes(options: RunOptions) -> tuple[str, ...]:
    """Return the signals to forward: SIGUSR1, SIGUSR2 and named others, except those that end the run."""
    named = (*Job._field_defaults["passes"], *options.signals_to_handle)
    check_signals(named)
    return tuple(name for name in dict.fromkeys(named) if name not in ENDING)


def _preload(options: RunOptions, launcher: str) -> tuple[str, ...]:
    """Return the modules to preload; configured ones do not exclude other launchers."""
    if launcher not in ("fork", "exec") and not options.typed(RunOptions.preload):
        return ()
    return tuple(name for names in options.preload for name in names.split(",") if name)
