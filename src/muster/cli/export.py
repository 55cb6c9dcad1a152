"""`muster export`: write what runs without muster."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from muster import __version__
from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.cli.run_line import context_of, read_line
from muster.config.command_options import EXPORT, ExportOptions
from muster.config.files import check_target
from muster.config.nodes import local_nodes, remote_nodes
from muster.core import env_forwarding
from muster.core.model import Node
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.export import EXPORTS, OTHER_NAMES, check, dropped, text_of
from muster.export._shell import quote
from muster.export.wanted import Batch, Wanted
from muster.linux import processes
from muster.runner.context import RunContext
from muster.runtimes import python_inside
from muster.schedulers.slurm_options import RUN as SLURM


def export(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print a form of a run, or write it to a file; start nothing and contact no host."""
    if not words or words[0] in ("-h", "--help"):
        if words:
            print_command("export", COMMANDS["export"], EXPORT, env)
            return 0
        raise InvalidRequest("`muster export` requires a kind", f"the kinds are {', '.join(EXPORTS)}")
    at = 0 if words[0] in EXPORTS else _operand(words, env)
    kind, rest = words[at], words[:at] + words[at + 1 :]
    if kind not in EXPORTS:
        raise InvalidRequest(
            f"unknown kind: `{kind}`", did_you_mean(kind, EXPORTS, OTHER_NAMES) or f"the kinds are {', '.join(EXPORTS)}"
        )
    row = EXPORTS[kind]
    # the nodes of a cluster are requested as those of Slurm are
    implied = "hosts" not in row.nodes and "--slurm" not in rest
    parsed, options = read_line(["--slurm", *rest] if implied else rest, env, ExportOptions, "export")
    if options.help:
        print_command("export", COMMANDS["export"], EXPORT, env)
        return 0
    check(kind, options)
    if options.image is not None and not row.image:
        raise InvalidRequest(f"--image: `muster export {kind}` starts no container", "leave it out")
    check_target(options.write, "-o")
    notes = dropped(row, options)
    context = context_of(["export", *words], parsed, options, env, began, "export")
    command = " ".join(map(quote, ["muster", "export", kind, *_without_secrets(_without_target(rest, options.write))]))
    text = text_of(kind, _wanted(context, options, command, notes, env))
    for note in notes:
        print(f"warning: not in this form: {note}", file=sys.stderr)
    if options.write is None:
        sys.stdout.write(text)
        return 0
    try:
        Path(options.write).write_text(text, encoding="utf-8", errors="surrogateescape")
        if text.startswith("#!"):
            os.chmod(options.write, os.stat(options.write).st_mode | 0o111)
    except OSError as error:
        raise InvalidRequest(f"-o {options.write}: {processes.reason(error)}", "name another file") from None
    return 0


def _operand(words: list[str], env: Mapping[str, str]) -> int:
    """Return the position of the kind behind options. Raises `InvalidRequest` if there is none."""
    parsed, _ = read_line(words, env, ExportOptions, "export")
    if not parsed.operands or parsed.after_dashes:
        raise InvalidRequest("`muster export` requires a kind", f"the kinds are {', '.join(EXPORTS)}")
    return len(words) - len(parsed.operands)


def _without_target(words: list[str], target: str | None) -> list[str]:
    """Return the command line without `-o`, so that it is the one of the run."""
    for at, word in enumerate(words):
        if target is not None and word in ("-o", "--write") and words[at + 1 : at + 2] == [target]:
            return words[:at] + words[at + 2 :]
        if target is not None and word in (f"-o{target}", f"-o={target}", f"--write={target}"):
            return words[:at] + words[at + 1 :]
    return words


def _without_secrets(words: list[str]) -> list[str]:
    """Return the command line for the head of the file; of a variable that is a secret only the name stays."""
    found = []
    for word in words:
        option, _, variable = word.partition("=") if word.startswith("--env=") else ("", "", word)
        name, equals, value = variable.partition("=")
        secret = equals and name.isidentifier() and env_forwarding.is_secret(name, value)
        found.append(f"{option}={name}".lstrip("=") if secret else word)
    return found


def _wanted(
    context: RunContext, options: ExportOptions, command: str, notes: tuple[str, ...], env: Mapping[str, str]
) -> Wanted:
    """Return what the form is made from. Raises `InvalidRequest`."""
    asked = context.asked
    each = options.gpus_each
    if options.scheduled and asked.ranks_per_node is None and options.np is None and each:
        asked = asked._replace(ranks_per_node=each)  # one rank per GPU, as in `muster run`
    context = context._replace(asked=asked)
    chosen = env_forwarding.select(options.env, env)
    return Wanted(
        job=asked.job._replace(python=python_inside(asked.job)),
        nodes=_nodes(context, options, env),
        name=asked.job.name or asked.job.program.title,
        command=command,
        version=__version__,
        chosen=tuple(chosen),
        threads_chosen=asked.threads_chosen,
        batch=_batch(context, options) if options.scheduled else Batch(),
        hosts=bool(asked.hosts),
        port=int(options.master_port) if options.master_port else None,
        address=options.master_addr or "",
        image=options.image or asked.job.runtime_value,
        notes=notes,
    )


def _nodes(context: RunContext, options: ExportOptions, env: Mapping[str, str]) -> tuple[Node, ...]:
    asked = context.asked
    if options.scheduled:
        from muster.runner.scheduled import nodes_to_come

        return nodes_to_come(asked, options, context.store.path(context.run_id))
    return remote_nodes(asked, None) if asked.hosts else local_nodes(asked, options, env)


def _batch(context: RunContext, options: ExportOptions) -> Batch:
    """Return the request to Slurm."""
    from muster.runner.scheduled import request

    wanted = request(context.asked, options, context.store.path(context.run_id))
    warning = options.value(SLURM.signal_before)
    before = f"{warning.signal}@{math.ceil(warning.seconds)}" if options.given(SLURM.signal_before) else ""
    return Batch(
        options=wanted.options,
        output=options.value(SLURM.output) or "",
        error=options.value(SLURM.error) or "",
        requeue=bool(options.value(SLURM.requeue)),
        signal=before if warning.seconds else "",
    )
