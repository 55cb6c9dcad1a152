"""Shell text: quoted words, commands over several lines, and the parts that all shell forms share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from muster.core.env_forwarding import REDACTED, redact_argv, redact_line
from muster.errors import InvalidRequest
from muster.export.wanted import Wanted
from muster.linux import shell


class Sh(str):
    """A word that is shell text already, such as `"$node"`, and is not quoted."""


def quote(text: str) -> str:
    """Return a word for bash, on one line, whatever characters or bytes it has."""
    if isinstance(text, Sh):
        return str(text)
    return shell.quote(text, shell.ONE_LINE)


def command(*groups: Sequence[str], indent: str = "") -> str:
    """Return a command with a line for each group of words that is not empty."""
    lines = [" ".join(map(quote, group)) for group in groups if group]
    return f" \\\n{indent}  ".join([indent + lines[0], *lines[1:]])


def comment(text: str, indent: str = "") -> list[str]:
    """Return a comment, wrapped."""
    lines = textwrap.wrap(text, 118 - len(indent), break_on_hyphens=False, break_long_words=False)
    if " ".join(lines) != text:  # `muster adopt` reads the command line in it
        lines = [text]
    return [f"{indent}# {line}" for line in lines]


def header(wanted: Wanted, how: str) -> list[str]:
    """Return the comment at the head: what it runs, who wrote it, and what it does not do."""
    lines = comment(f"{wanted.name}: {wanted.shape}, {how}")
    lines += comment(f"Written by `{wanted.command}` (muster {wanted.version}); it runs without muster.")
    for note in wanted.notes:
        lines += comment(f"Not in this form: {note}")
    return lines


def checker(wanted: Wanted) -> list[str]:
    """Return the line that tells shellcheck that `$` in single quotes is meant, if the user's words have it."""
    job = wanted.job
    texts = (*job.program.argv, *job.launcher_args, *wanted.open_env.values(), job.cwd, job.python)
    return ["# shellcheck disable=SC2016  # it stands in single quotes on purpose"] if "$" in "".join(texts) else []


def check_secrets(wanted: Wanted) -> None:
    """Raise `InvalidRequest` for secrets in arguments or setup lines: they would be written."""
    job = wanted.job
    for words in (job.program.argv, job.launcher_args, job.wrap):
        for word, redacted in zip(words, redact_argv(words)):
            if REDACTED in redacted:
                before = word.partition("=")[0] if "=" in word else words[max(0, words.index(word) - 1)]
                raise InvalidRequest(
                    f"argument {before}: it holds a secret, which an exported file would show",
                    "pass it as an environment variable: `--env NAME` exports only the name",
                )
    for line in (*job.setup, *(line for node in wanted.nodes for line in node.host.setup)):
        if REDACTED in redact_line(line):
            raise InvalidRequest(
                f"--setup: a line holds a secret, which an exported file would show: {redact_line(line)}",
                "pass it as an environment variable: `--env NAME` exports only the name",
            )


def exports(wanted: Wanted, indent: str = "") -> list[str]:
    """Return the lines that set the variables of the job; those of `--env` come first."""
    env = wanted.open_env
    lines = [f"{indent}export {name}={quote(value)}" for name, value in env.items() if name in wanted.chosen]
    forwarded = [f"{indent}export {name}={quote(value)}" for name, value in env.items() if name not in wanted.chosen]
    if forwarded:
        lines += [f"{indent}# set where this was written; muster forwards them to other hosts", *forwarded]
    return lines


def require_secrets(wanted: Wanted) -> list[str]:
    """Return the lines that stop without the variables whose values are not written."""
    if not wanted.secrets:
        return []
    lines = ["# secrets are not written into this file: set them where you start it"]
    return [*lines, *(f': "${{{name}:?set {name} before you start this script}}"' for name in wanted.secrets)]


def threads(wanted: Wanted, ranks: str, indent: str = "") -> list[str]:
    """Return the lines that share a node's cores among its ranks, unless the user chose the number of threads."""
    if wanted.threads_chosen:
        return []
    return [
        *comment("each rank may use its share of the cores; without this torchrun gives it one thread", indent),
        f"{indent}cores=$(($(nproc) / {ranks}))",
        f"{indent}export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}}",
    ]


def setup(wanted: Wanted, indent: str = "") -> list[str]:
    """Return the lines of `--setup` and the choice of the interpreter, in `$python`."""
    job = wanted.job
    follow = bool(job.setup) and not job.python_named
    lines = [f"{indent}before=$(command -v python3 || true)"] if follow else []
    lines += [f"{indent}{line}" if "\n" not in line else line for line in job.setup]
    lines.append(f"{indent}python={quote(job.python)}")
    if follow:
        lines += comment("a Python that these lines put first on PATH is used instead", indent)
        lines += [f'{indent}[ "$(command -v python3 || true)" = "$before" ] || python=python3']
    return lines


def program(wanted: Wanted, python: str = '"$python"') -> list[str]:
    """Return the words that run one rank."""
    of = wanted.job.program
    start: dict[str, list[str]] = {"script": [Sh(python)], "module": [Sh(python), "-m"], "command": []}
    return [*start[of.kind], *of.argv]


def per_host(wanted: Wanted, indent: str = "") -> list[str]:
    """Return the lines for what single hosts have: an interpreter, setup lines, GPUs. `$node` is the node's rank."""
    cases = []
    for node in wanted.nodes:
        host = node.host
        own = [f"python={quote(host.python)}"] if host.python not in ("", wanted.job.python) else []
        own += [*host.setup, *([f"export CUDA_VISIBLE_DEVICES={','.join(host.gpus)}"] if host.gpus else [])]
        if own:
            cases.append((node.number, own))
    if not cases:
        return []
    if len(wanted.nodes) == 1:
        return [f"{indent}{line}" for line in cases[0][1]]
    lines = [f"{indent}case $node in"]
    for number, own in cases:
        lines += [f"{indent}  {number})", *(f"{indent}    {line}" for line in own), f"{indent}    ;;"]
    return [*lines, f"{indent}esac"]


PORT = "$((20000 + RANDOM % 12000))"
"""A port below those that the kernel gives to connections: 32768 and up (ip_local_port_range)."""


def port(wanted: Wanted, value: str = PORT) -> list[str]:
    """Return the lines that choose `$port`."""
    if wanted.port is not None:
        return [f"port={wanted.port}"]
    return [
        *comment("below the ports that the kernel gives to connections (32768 and up), and another for each run"),
        f"port=${{MASTER_PORT:-{value}}}",
    ]


def heredoc(variable: str, mark: str, lines: Iterable[str]) -> list[str]:
    """Return the lines that put a text into a shell variable, unchanged."""
    lines = [part for line in lines for part in line.split("\n")]
    while mark in lines:
        mark += "_"
    return [f"{variable}=$(", f"  cat <<'{mark}'", *lines, mark, ")"]


def joined(lines: Iterable[str]) -> str:
    """Return the text of a file."""
    return "\n".join(lines) + "\n"
