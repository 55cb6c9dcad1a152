"""`muster.run` and `muster.submit` with the type of each option.

Written by tools/signatures.py from the option table (`config/options.py`): edit these, not this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypedDict, TypeVar, overload

from muster.python.splitting import described

if TYPE_CHECKING:
    from muster.python.run import Run

T = TypeVar("T")


class RunKeywords(TypedDict, total=False):
    """The options of `muster.run` and `muster.submit`, e.g. for a table of options that several calls share."""

    hosts: str | Sequence[str]
    hostfile: str | os.PathLike[str]
    on: str
    nnodes: int | str
    spare_nodes: int
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    ssh: str
    lease: float | str
    scheduler: str
    slurm: bool
    partition: str
    account: str
    qos: str
    time: str
    mem: int | str
    nodelist: str | Sequence[str]
    constraint: str | Sequence[str]
    comment: str
    reservation: str
    gpus_per_node: int | str
    gres: str | Sequence[str]
    gpus_per_task: int
    dependency: str | Sequence[str]
    mail_type: str | Sequence[str]
    mail_user: str
    cpus_per_task: int
    exclusive: bool
    signal_before: str
    requeue: int
    expedite: bool
    wait_all_nodes: int
    distribution: str
    output: str
    error: str
    slurm_opt: str | Sequence[str]
    sge: bool
    pe: str
    slots: int
    queue: str
    project: str
    resource: str | Sequence[str]
    sge_opt: str | Sequence[str]
    sync: bool
    ship_env: bool
    env_dir: str | os.PathLike[str]
    no_code_check: bool
    snapshot: bool
    code_limit: int
    launcher: str
    launcher_args: str
    python: str | os.PathLike[str] | Sequence[str]
    preload: str | Sequence[str]
    no_auto_preload: bool
    setup: str | Sequence[str]
    container: str
    container_runtime: str
    mount: str | Sequence[str]
    wrap: str
    nproc_per_node: int | str
    np: int
    module: bool
    no_python: bool
    cwd: str | os.PathLike[str]
    env: Mapping[str, str] | Sequence[str] | str
    role: str
    gpus: int | str
    numa_binding: str
    max_restarts: int
    always_restart: bool
    restart_delay: float | str
    grace: float | str
    signals_to_handle: str | Sequence[str]
    timeout: float | str
    hang_timeout: float | str
    on_hang: str
    on_end: str
    detach: bool
    name: str
    run_dir: str | os.PathLike[str]
    log_dir: str | os.PathLike[str]
    keep_runs: int
    keep_size: str
    ranks: int | str | Sequence[int]
    prefix: str


@overload
def run(
    program: Callable[..., T],
    /,
    *arguments: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    show_output: bool | None = None,
    hosts: str | Sequence[str] | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    on: str | None = None,
    nnodes: int | str | None = None,
    spare_nodes: int | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    ssh: str | None = None,
    lease: float | str | None = None,
    scheduler: str | None = None,
    slurm: bool | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    mem: int | str | None = None,
    nodelist: str | Sequence[str] | None = None,
    constraint: str | Sequence[str] | None = None,
    comment: str | None = None,
    reservation: str | None = None,
    gpus_per_node: int | str | None = None,
    gres: str | Sequence[str] | None = None,
    gpus_per_task: int | None = None,
    dependency: str | Sequence[str] | None = None,
    mail_type: str | Sequence[str] | None = None,
    mail_user: str | None = None,
    cpus_per_task: int | None = None,
    exclusive: bool | None = None,
    signal_before: str | None = None,
    requeue: int | None = None,
    expedite: bool | None = None,
    wait_all_nodes: int | None = None,
    distribution: str | None = None,
    output: str | None = None,
    error: str | None = None,
    slurm_opt: str | Sequence[str] | None = None,
    sge: bool | None = None,
    pe: str | None = None,
    slots: int | None = None,
    queue: str | None = None,
    project: str | None = None,
    resource: str | Sequence[str] | None = None,
    sge_opt: str | Sequence[str] | None = None,
    sync: bool | None = None,
    ship_env: bool | None = None,
    env_dir: str | os.PathLike[str] | None = None,
    no_code_check: bool | None = None,
    snapshot: bool | None = None,
    code_limit: int | None = None,
    launcher: str | None = None,
    launcher_args: str | None = None,
    python: str | os.PathLike[str] | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_auto_preload: bool | None = None,
    setup: str | Sequence[str] | None = None,
    container: str | None = None,
    container_runtime: str | None = None,
    mount: str | Sequence[str] | None = None,
    wrap: str | None = None,
    nproc_per_node: int | str | None = None,
    np: int | None = None,
    module: bool | None = None,
    no_python: bool | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | Sequence[str] | str | None = None,
    role: str | None = None,
    gpus: int | str | None = None,
    numa_binding: str | None = None,
    max_restarts: int | None = None,
    always_restart: bool | None = None,
    restart_delay: float | str | None = None,
    grace: float | str | None = None,
    signals_to_handle: str | Sequence[str] | None = None,
    timeout: float | str | None = None,
    hang_timeout: float | str | None = None,
    on_hang: str | None = None,
    on_end: str | None = None,
    detach: bool | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    keep_runs: int | None = None,
    keep_size: str | None = None,
    ranks: int | str | Sequence[int] | None = None,
    prefix: str | None = None,
    **keywords: Any,
) -> list[T]: ...


@overload
def run(
    program: str | os.PathLike[str],
    /,
    *arguments: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    show_output: bool | None = None,
    hosts: str | Sequence[str] | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    on: str | None = None,
    nnodes: int | str | None = None,
    spare_nodes: int | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    ssh: str | None = None,
    lease: float | str | None = None,
    scheduler: str | None = None,
    slurm: bool | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    mem: int | str | None = None,
    nodelist: str | Sequence[str] | None = None,
    constraint: str | Sequence[str] | None = None,
    comment: str | None = None,
    reservation: str | None = None,
    gpus_per_node: int | str | None = None,
    gres: str | Sequence[str] | None = None,
    gpus_per_task: int | None = None,
    dependency: str | Sequence[str] | None = None,
    mail_type: str | Sequence[str] | None = None,
    mail_user: str | None = None,
    cpus_per_task: int | None = None,
    exclusive: bool | None = None,
    signal_before: str | None = None,
    requeue: int | None = None,
    expedite: bool | None = None,
    wait_all_nodes: int | None = None,
    distribution: str | None = None,
    output: str | None = None,
    error: str | None = None,
    slurm_opt: str | Sequence[str] | None = None,
    sge: bool | None = None,
    pe: str | None = None,
    slots: int | None = None,
    queue: str | None = None,
    project: str | None = None,
    resource: str | Sequence[str] | None = None,
    sge_opt: str | Sequence[str] | None = None,
    sync: bool | None = None,
    ship_env: bool | None = None,
    env_dir: str | os.PathLike[str] | None = None,
    no_code_check: bool | None = None,
    snapshot: bool | None = None,
    code_limit: int | None = None,
    launcher: str | None = None,
    launcher_args: str | None = None,
    python: str | os.PathLike[str] | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_auto_preload: bool | None = None,
    setup: str | Sequence[str] | None = None,
    container: str | None = None,
    container_runtime: str | None = None,
    mount: str | Sequence[str] | None = None,
    wrap: str | None = None,
    nproc_per_node: int | str | None = None,
    np: int | None = None,
    module: bool | None = None,
    no_python: bool | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | Sequence[str] | str | None = None,
    role: str | None = None,
    gpus: int | str | None = None,
    numa_binding: str | None = None,
    max_restarts: int | None = None,
    always_restart: bool | None = None,
    restart_delay: float | str | None = None,
    grace: float | str | None = None,
    signals_to_handle: str | Sequence[str] | None = None,
    timeout: float | str | None = None,
    hang_timeout: float | str | None = None,
    on_hang: str | None = None,
    on_end: str | None = None,
    detach: bool | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    keep_runs: int | None = None,
    keep_size: str | None = None,
    ranks: int | str | Sequence[int] | None = None,
    prefix: str | None = None,
    **keywords: Any,
) -> list[None]: ...


@described
def run(program: Callable[..., Any] | str | os.PathLike[str], /, *arguments: Any, **keywords: Any) -> list[Any]:
    """Run a function or a script on all ranks, wait for it, and return what each rank returned, by rank.

    `program`: a function, called on each rank with `arguments` and with the keywords that are no options of muster; or
    the path of a script, with its arguments as strings. Keywords that are options of `muster run` have the same names,
    defaults and checks as on the command line (`nproc_per_node=4`, `hosts="n[1-2]"`, `slurm=True`).
    `args`, `kwargs`: arguments of the function. If one of them is given, all other keywords are options.
    `show_output`: print the output of the ranks to `sys.stdout` and `sys.stderr` (default: True).

    If a rank fails, its exception is raised, caused by a `RemoteError` with its rank, host and traceback. The ranks are
    terminated before an exception leaves this function, including KeyboardInterrupt.

    Raises `muster.errors.InvalidRequest` if an option or argument is invalid; then nothing was started.
    """
    from muster.python import starting

    return starting.run(program, arguments, keywords)


@overload
def submit(
    program: Callable[..., T],
    /,
    *arguments: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    show_output: bool | None = None,
    hosts: str | Sequence[str] | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    on: str | None = None,
    nnodes: int | str | None = None,
    spare_nodes: int | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    ssh: str | None = None,
    lease: float | str | None = None,
    scheduler: str | None = None,
    slurm: bool | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    mem: int | str | None = None,
    nodelist: str | Sequence[str] | None = None,
    constraint: str | Sequence[str] | None = None,
    comment: str | None = None,
    reservation: str | None = None,
    gpus_per_node: int | str | None = None,
    gres: str | Sequence[str] | None = None,
    gpus_per_task: int | None = None,
    dependency: str | Sequence[str] | None = None,
    mail_type: str | Sequence[str] | None = None,
    mail_user: str | None = None,
    cpus_per_task: int | None = None,
    exclusive: bool | None = None,
    signal_before: str | None = None,
    requeue: int | None = None,
    expedite: bool | None = None,
    wait_all_nodes: int | None = None,
    distribution: str | None = None,
    output: str | None = None,
    error: str | None = None,
    slurm_opt: str | Sequence[str] | None = None,
    sge: bool | None = None,
    pe: str | None = None,
    slots: int | None = None,
    queue: str | None = None,
    project: str | None = None,
    resource: str | Sequence[str] | None = None,
    sge_opt: str | Sequence[str] | None = None,
    sync: bool | None = None,
    ship_env: bool | None = None,
    env_dir: str | os.PathLike[str] | None = None,
    no_code_check: bool | None = None,
    snapshot: bool | None = None,
    code_limit: int | None = None,
    launcher: str | None = None,
    launcher_args: str | None = None,
    python: str | os.PathLike[str] | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_auto_preload: bool | None = None,
    setup: str | Sequence[str] | None = None,
    container: str | None = None,
    container_runtime: str | None = None,
    mount: str | Sequence[str] | None = None,
    wrap: str | None = None,
    nproc_per_node: int | str | None = None,
    np: int | None = None,
    module: bool | None = None,
    no_python: bool | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | Sequence[str] | str | None = None,
    role: str | None = None,
    gpus: int | str | None = None,
    numa_binding: str | None = None,
    max_restarts: int | None = None,
    always_restart: bool | None = None,
    restart_delay: float | str | None = None,
    grace: float | str | None = None,
    signals_to_handle: str | Sequence[str] | None = None,
    timeout: float | str | None = None,
    hang_timeout: float | str | None = None,
    on_hang: str | None = None,
    on_end: str | None = None,
    detach: bool | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    keep_runs: int | None = None,
    keep_size: str | None = None,
    ranks: int | str | Sequence[int] | None = None,
    prefix: str | None = None,
    **keywords: Any,
) -> Run[T]: ...


@overload
def submit(
    program: str | os.PathLike[str],
    /,
    *arguments: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    show_output: bool | None = None,
    hosts: str | Sequence[str] | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    on: str | None = None,
    nnodes: int | str | None = None,
    spare_nodes: int | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    ssh: str | None = None,
    lease: float | str | None = None,
    scheduler: str | None = None,
    slurm: bool | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    mem: int | str | None = None,
    nodelist: str | Sequence[str] | None = None,
    constraint: str | Sequence[str] | None = None,
    comment: str | None = None,
    reservation: str | None = None,
    gpus_per_node: int | str | None = None,
    gres: str | Sequence[str] | None = None,
    gpus_per_task: int | None = None,
    dependency: str | Sequence[str] | None = None,
    mail_type: str | Sequence[str] | None = None,
    mail_user: str | None = None,
    cpus_per_task: int | None = None,
    exclusive: bool | None = None,
    signal_before: str | None = None,
    requeue: int | None = None,
    expedite: bool | None = None,
    wait_all_nodes: int | None = None,
    distribution: str | None = None,
    output: str | None = None,
    error: str | None = None,
    slurm_opt: str | Sequence[str] | None = None,
    sge: bool | None = None,
    pe: str | None = None,
    slots: int | None = None,
    queue: str | None = None,
    project: str | None = None,
    resource: str | Sequence[str] | None = None,
    sge_opt: str | Sequence[str] | None = None,
    sync: bool | None = None,
    ship_env: bool | None = None,
    env_dir: str | os.PathLike[str] | None = None,
    no_code_check: bool | None = None,
    snapshot: bool | None = None,
    code_limit: int | None = None,
    launcher: str | None = None,
    launcher_args: str | None = None,
    python: str | os.PathLike[str] | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_auto_preload: bool | None = None,
    setup: str | Sequence[str] | None = None,
    container: str | None = None,
    container_runtime: str | None = None,
    mount: str | Sequence[str] | None = None,
    wrap: str | None = None,
    nproc_per_node: int | str | None = None,
    np: int | None = None,
    module: bool | None = None,
    no_python: bool | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | Sequence[str] | str | None = None,
    role: str | None = None,
    gpus: int | str | None = None,
    numa_binding: str | None = None,
    max_restarts: int | None = None,
    always_restart: bool | None = None,
    restart_delay: float | str | None = None,
    grace: float | str | None = None,
    signals_to_handle: str | Sequence[str] | None = None,
    timeout: float | str | None = None,
    hang_timeout: float | str | None = None,
    on_hang: str | None = None,
    on_end: str | None = None,
    detach: bool | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    keep_runs: int | None = None,
    keep_size: str | None = None,
    ranks: int | str | Sequence[int] | None = None,
    prefix: str | None = None,
    **keywords: Any,
) -> Run[None]: ...


@described
def submit(program: Callable[..., Any] | str | os.PathLike[str], /, *arguments: Any, **keywords: Any) -> Run[Any]:
    """Start a function or a script on all ranks, and return it as a `Run` without waiting for its end.

    Takes the same arguments as `muster.run`; the output of ranks is not printed unless `show_output` is true. A run on
    this machine or on hosts is terminated when this program exits, unless `detach` is true.
    """
    from muster.python import starting

    return starting.submit(program, arguments, keywords)
