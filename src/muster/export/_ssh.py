"""Scripts that start something on each node over ssh: attached, all at the same time, or each in a tmux session."""

from __future__ import annotations

from muster.core.hostlist import fold_hostlist
from muster.core.layout import named
from muster.export._node import NodeLauncher, Place, launcher_env
from muster.export._shell import (
    Sh,
    checker,
    command,
    comment,
    exports,
    header,
    heredoc,
    joined,
    per_host,
    port,
    quote,
    require_secrets,
    setup,
    threads,
)
from muster.export.wanted import Wanted
from muster.linux.shell import join

_OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


def script(wanted: Wanted, launcher: NodeLauncher) -> str:
    """Return the script that starts a launcher on each node; on this machine, without hosts."""
    if not wanted.hosts:
        return _here(wanted, launcher)
    folded = fold_hostlist(node.host.name for node in wanted.nodes)
    lines = ["#!/usr/bin/env bash"]
    lines += header(wanted, f"{launcher.title} on each of {folded}, started over ssh at the same time")
    lines += comment("The end of this script, or of one node, ends the ranks on all nodes.")
    lines += [*checker(wanted), "set -eo pipefail", "", *require_secrets(wanted), *_where(wanted), ""]
    lines += heredoc("node_script", "NODE", _on_node(wanted, launcher))
    lines += ["", *_connect(wanted)]
    lines += [
        "",
        "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT",
        'for node in "${!hosts[@]}"; do',
        '  connect "$node" &',
        "done",
        "# the first node that fails decides the exit status",
        'for _ in "${hosts[@]}"; do',
        "  wait -n",
        "done",
    ]
    return joined(lines)


def _here(wanted: Wanted, launcher: NodeLauncher) -> str:
    """Return the script for this machine."""
    node = wanted.nodes[0]
    lines = ["#!/usr/bin/env bash"]
    lines += header(wanted, f"{launcher.title} on this machine")
    lines += [*checker(wanted), "set -eo pipefail", "", *require_secrets(wanted)]
    lines += [f"cd -- {quote(wanted.job.cwd)}", *setup(wanted), *per_host(wanted), *exports(wanted)]
    lines += [*launcher_env(wanted), *threads(wanted, str(len(node.ranks)))]
    words = launcher.words(wanted, Place("0", wanted.address or "127.0.0.1", '"$port"'))
    if any("$port" in word for group in words for word in group):
        lines += port(wanted)
    lines += [*launcher.before(wanted, ""), _exec(words)]
    return joined(lines)


def _exec(words: list[list[str]]) -> str:
    return command([Sh("exec"), *words[0]], *words[1:])


def _where(wanted: Wanted) -> list[str]:
    """Return the lines with the hosts, the rendezvous address and the port."""
    names = [f"{node.host.user}@{node.host.name}" if node.host.user else node.host.name for node in wanted.nodes]
    ranks = f"{named(rank.rank for rank in wanted.nodes[0].ranks)} on {wanted.nodes[0].host.name}"
    return [
        *comment(f"in the order of the ranks: {ranks}, and so on"),
        f"hosts=({' '.join(map(quote, names))})",
        "# node 0, under a name or an address that all nodes can reach",
        f"master={quote(wanted.address or wanted.nodes[0].host.name)}",
        *port(wanted),
    ]


def _on_node(wanted: Wanted, launcher: NodeLauncher) -> list[str]:
    """Return the lines that each node runs, with `$node`, `$master` and `$port`."""
    words = launcher.words(wanted, Place())
    return [
        # bash reads a script from stdin line by line: as a function it is read before `cat` below reads on
        "main() {",
        "  set -eo pipefail",
        "  node=$1 master=$2 port=$3",
        *_before(wanted, launcher),
        f"{command(*words, indent='  ')} </dev/null &",
        "  launcher=$!",
        "  # stdin ends when the connection does, however that happens: then no rank stays behind",
        '  { cat; kill -TERM "$launcher"; } <&3 >/dev/null 2>&1 &',
        "  watcher=$!",
        "  trap 'kill \"$watcher\" 2>/dev/null || true' EXIT",
        '  wait "$launcher"',
        "}",
        "exec 3<&0",
        'main "$@"; exit',
    ]


def _before(wanted: Wanted, launcher: NodeLauncher) -> list[str]:
    lines = [f"  cd -- {quote(wanted.job.cwd)}", *setup(wanted, "  "), *per_host(wanted, "  ")]
    python = wanted.job.python
    if "/" in python and not wanted.job.setup:
        # as if its environment were activated: no login shell has done that
        lines.append('  PATH="$(dirname "$python"):$PATH"')
    lines += [*exports(wanted, "  "), *launcher_env(wanted, "  ")]
    ranks = {len(node.ranks) for node in wanted.nodes}
    if len(ranks) > 1 and not wanted.threads_chosen:
        shares = " ".join(str(len(node.ranks)) for node in wanted.nodes)
        lines += [f"  shares=({shares})"]
        lines += threads(wanted, "shares[node]", "  ")
    else:
        lines += threads(wanted, str(ranks.pop()), "  ")
    return [*lines, *(f"  {line}" for line in launcher.before(wanted, ""))]


def _connect(wanted: Wanted) -> list[str]:
    """Return the function that sends the node's script to a host and runs it there."""
    shell = "bash -l -s" if wanted.job.setup or any(node.host.setup for node in wanted.nodes) else "bash -s"
    ssh = [*wanted.job.ssh, *_OPTIONS]
    send = [f"printf 'export {name}=%q\\n' \"${name}\"" for name in wanted.secrets]
    send += ["printf '%s\\n' \"$node_script\""]
    lines = ["connect() {  # NODE"]
    if wanted.secrets:
        lines += ["  # secrets travel over stdin: command lines are visible to other users"]
    target = f'"${{hosts[$1]}}" {shell} -- "$1" "$master" "$port"'
    lines += ["  # tail keeps stdin of the connection open for as long as this script lives"]
    feed = "; ".join([*send, "exec tail -f --pid=$$ /dev/null"])
    return [*lines, f"  exec {join(ssh)} -- {target} \\", f"    < <({feed})", "}"]


def in_tmux(wanted: Wanted, launcher: NodeLauncher) -> str:
    """Return the script that starts, shows and stops a tmux session on each node."""
    session = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in wanted.name)
    folded = fold_hostlist(node.host.name for node in wanted.nodes)
    lines = ["#!/usr/bin/env bash"]
    lines += header(wanted, f"{launcher.title} in a tmux session on each of {folded}")
    lines += [
        "# usage: start (default), attach NODE, status, stop; the output is also in ~/SESSION.NODE.log of each host",
        "set -eo pipefail",
        "",
        f"session={quote(session)}",
        *_where(wanted),
        f"ssh=({join([*wanted.job.ssh, *_OPTIONS])})",
        "",
    ]
    body = [
        "set -eo pipefail",
        "node=$1 master=$2 port=$3",
        *(line[2:] if line.startswith("  ") else line for line in _before(wanted, launcher)),
        _exec(launcher.words(wanted, Place())),
    ]
    shell = "bash -l" if wanted.job.setup or any(node.host.setup for node in wanted.nodes) else "bash"
    # the script of the session is a file that only the user can read; it deletes itself
    starter = [
        "umask 077",
        'file=$(mktemp "$HOME/.$1.XXXXXX")',
        "{",
        "  printf 'rm -f -- \"$0\"\\n'",
        *(f"  printf 'export {name}=%q\\n' \"${name}\"" for name in wanted.secrets),
        "  cat <<'SESSION'",
        *body,
        "SESSION",
        '} >"$file"',
        f'tmux new-session -d -s "$1" "{shell} $file $2 $3 $4 2>&1 | tee $HOME/$1.$2.log"',
    ]
    lines += heredoc("start_script", "START", starter)
    send = [f"printf 'export {name}=%q\\n' \"${name}\"" for name in wanted.secrets]
    send += ["printf '%s\\n' \"$start_script\""]
    lines += ["", "case ${1:-start} in", "  start)"]
    lines += [f"    {line}" for line in require_secrets(wanted)]
    lines += [
        '    for node in "${!hosts[@]}"; do',
        f"      {{ {'; '.join(send)}; }} |",
        '        "${ssh[@]}" -- "${hosts[$node]}" bash -s -- "$session" "$node" "$master" "$port"',
        "    done",
        "    ;;",
        "  attach)",
        '    exec "${ssh[@]}" -t -- "${hosts[${2:-0}]}" tmux attach-session -t "$session"',
        "    ;;",
        "  status)",
        '    for host in "${hosts[@]}"; do',
        "      printf '%s: ' \"$host\"",
        '      "${ssh[@]}" -n -- "$host" tmux has-session -t "$session" 2>/dev/null && echo running || echo ended',
        "    done",
        "    ;;",
        "  stop)",
        '    for host in "${hosts[@]}"; do',
        '      "${ssh[@]}" -n -- "$host" tmux kill-session -t "$session" || true',
        "    done",
        "    ;;",
        "  *)",
        '    echo "usage: $0 [start|attach NODE|status|stop]" >&2',
        "    exit 2",
        "    ;;",
        "esac",
    ]
    return joined(lines)
