"""The table of commands: where each is implemented, and what its help says apart from the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """A command, or an action of `muster lab`."""

    summary: str
    """What it does, in one line: an imperative or a noun phrase."""
    operands: tuple[str, ...]
    """What may follow the options, one entry per form; an empty one if there is nothing."""
    examples: tuple[str, ...]
    """Command lines that work as they are, up to names of hosts, runs and scripts."""
    page: str
    """Its page, as a path in the repository."""
    module: str = ""
    """Module that implements it; empty for an action of `muster lab`."""
    notes: str = ""
    """Paragraphs that help shows before the options."""


_SCRIPT = ("SCRIPT [ARGS…]", "-m MODULE [ARGS…]", "-- COMMAND [ARGS…]")
_RUN_NOTES = """\
A command line for torchrun on one node also works with `muster run` in place of `torchrun`.

Every option is also a key of `[run]` in muster.toml and an environment variable: --max-restarts is max_restarts and \
MUSTER_MAX_RESTARTS."""

_PLAN_NOTES = """\
It takes the options of `muster run` and prints each command with the environment of each rank."""

_EXPORT_NOTES = """\
KIND is bash, tmux or torchrun (over ssh, or on this machine), sbatch, srun or submitit (Slurm), accelerate, \
deepspeed, mpirun or mpich (over ssh, or with --slurm), ray, kubernetes or jobset.

It takes the options of `muster run`, lists those that a form does not express as comments and warnings, and writes \
no secrets. In addition:"""

COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "launch the ranks of a script and wait until they finish",
        _SCRIPT,
        (
            "muster run -g 4 train.py --lr 0.1",
            "muster run --hosts n[1-4] -g 8 --max-restarts 3 train.py",
            "muster run --slurm -N 2 -g 8 --time 4:00:00 train.py",
        ),
        "docs/first-run.md",
        "muster.cli.run",
        _RUN_NOTES,
    ),
    "plan": Command(
        "show what `muster run` would start, without starting it",
        _SCRIPT,
        (
            "muster plan -g 4 train.py",
            "muster plan -H n1,n2 -g 8 --launcher torchrun train.py",
            "muster plan --slurm -N 2 -g 8 train.py",
        ),
        "docs/first-run.md",
        "muster.cli.run",
        _PLAN_NOTES,
    ),
    "export": Command(
        "write what runs without muster: a batch script, a shell script, a manifest",
        ("KIND SCRIPT [ARGS…]", "KIND -m MODULE [ARGS…]", "KIND -- COMMAND [ARGS…]"),
        (
            "muster export bash -H n1,n2 -g 8 train.py",
            "muster export sbatch -N 2 -g 8 -o job.sh train.py",
            "muster export jobset -N 2 -g 8 --image IMAGE train.py",
        ),
        "docs/export.md",
        "muster.cli.export",
        _EXPORT_NOTES,
    ),
    "hold": Command(
        "keep hosts, agents and preloaded interpreters, to run scripts on them again at once",
        ("",),
        (
            "muster hold -g 4 --name dev",
            "muster run --on dev train.py --lr 0.1",
            "muster release dev",
        ),
        "docs/hold.md",
        "muster.cli.hold",
        "It starts no ranks. `muster run --on NAME` runs a script, a module or a command on the session, as often as "
        "you like; one run at a time, and a second one is refused. With --slurm it holds the nodes of a job: it waits "
        "for the job, or returns at once with -d.",
    ),
    "shell": Command(
        "open a shell on a host of a session, in its working directory and after its --setup",
        ("SESSION",),
        ("muster shell dev", "muster shell dev -w n2"),
        "docs/hold.md",
        "muster.cli.hold",
    ),
    "release": Command(
        "release a session, with the hosts that it holds",
        ("SESSION…",),
        ("muster release dev", "muster release dev --force"),
        "docs/hold.md",
        "muster.cli.hold",
    ),
    "adopt": Command(
        "print the `muster run` line that does what a launch script does",
        ("FILE",),
        ("muster adopt job.sbatch", "muster adopt launch.sh --json", "muster adopt --sbatch '-N 2' job.sbatch"),
        "docs/adopt.md",
        "muster.cli.adopt",
        "FILE is an sbatch script, a shell script with ssh, tmux, torchrun, accelerate, deepspeed, mpirun or srun, or "
        "a Python program that uses submitit or Ray.",
    ),
    "ps": Command(
        "list runs, newest first",
        ("",),
        ("muster ps", "muster ps --running", "muster ps --all --failed --json"),
        "docs/guides/logs.md",
        "muster.cli.runs",
    ),
    "show": Command(
        "show details of a run",
        ("[RUN]",),
        ("muster show", "muster show night-train --json", "muster show last --slow"),
        "docs/guides/failures.md",
        "muster.cli.runs",
    ),
    "diff": Command(
        "show what differs between two runs: code, packages, hosts, options, result",
        ("RUN1 RUN2", "[RUN]"),
        ("muster diff night-train last", "muster diff last", "muster diff night-train last --json"),
        "docs/reports.md",
        "muster.cli.diff",
        "With one run, it is compared with the last successful run of the same script before it.",
    ),
    "report": Command(
        "write a run as one HTML file, to read and to send to others",
        ("[RUN]",),
        ("muster report", "muster report last -o report.html", "muster report night-train --open"),
        "docs/reports.md",
        "muster.cli.report",
        "It contains the result, a timeline, what failed ranks wrote, stacks, the last lines of output, what changed "
        "since the last successful run, and the hosts. Values of environment variables, passwords and tokens are "
        "left out. A run that fails writes it by itself.",
    ),
    "top": Command(
        "watch a run live: its ranks, their memory and CPU, and what they wrote last",
        ("[RUN]",),
        ("muster top", "muster top night-train", "muster top n1:last --once"),
        "docs/top.md",
        "muster.cli.top",
    ),
    "logs": Command(
        "print the output of ranks, in the order in which it was written",
        ("[RUN]",),
        (
            "muster logs -f",
            "muster logs last --fold --stderr",
            "muster logs --rank 0,4-7 --since 10m --timestamps",
        ),
        "docs/guides/logs.md",
        "muster.cli.logs",
    ),
    "attach": Command(
        "follow a detached run in this terminal; Ctrl-C leaves it running",
        ("[RUN]",),
        ("muster attach", "muster attach night-train --all", "muster attach n1:last --ranks 0"),
        "docs/hosts.md",
        "muster.cli.attach",
    ),
    "wait": Command(
        "wait until a run finishes and exit with its exit code",
        ("[RUN]",),
        ("muster wait", "muster wait night-train --timeout 2h"),
        "docs/exit-status.md",
        "muster.cli.control",
    ),
    "kill": Command(
        "terminate runs and wait until they are gone",
        ("RUN…",),
        ("muster kill last", "muster kill night-train n1:last", "muster kill --all --yes"),
        "docs/exit-status.md",
        "muster.cli.control",
        "Ranks get SIGTERM and, after the --grace of their run, SIGKILL. muster then checks that no process is left.",
    ),
    "clean": Command(
        "terminate orphaned processes of your runs",
        ("",),
        ("muster clean --dry-run", "muster clean --hosts n[1-4]", "muster clean --environments --hosts n[1-4]"),
        "docs/recover.md",
        "muster.cli.clean",
        "Processes are found by the run id in their environment, never by name. Exit code 1: a process is still alive; "
        "3: a host did not answer.",
    ),
    "why": Command(
        "tell which rank keeps the others waiting",
        ("[RUN]",),
        ("muster why", "muster why night-train", "muster why last --json"),
        "docs/hangs.md",
        "muster.cli.hangs",
        "The ranks are asked for their collectives and stacks without stopping them. For a run that has ended, the "
        "answer is about the moment before its ranks were terminated.",
    ),
    "stacks": Command(
        "show the Python stacks of the ranks without stopping them",
        ("[RUN]",),
        ("muster stacks", "muster stacks last --rank 0"),
        "docs/hangs.md",
        "muster.cli.hangs",
        "Equal stacks are shown once. For a run that has ended, they are those of the moment before its ranks were "
        "terminated.",
    ),
    "rm": Command(
        "delete finished runs",
        ("RUN…",),
        ("muster rm last", "muster rm night-train 20261121-120000"),
        "docs/guides/logs.md",
        "muster.cli.runs",
    ),
    "prune": Command(
        "delete old finished runs",
        ("",),
        ("muster prune --older-than 30d --dry-run", "muster prune --keep 20", "muster prune --older-than 30d --keep 5"),
        "docs/guides/logs.md",
        "muster.cli.runs",
    ),
    "nodes": Command(
        "show the nodes of the cluster, free resources and the queue",
        ("",),
        ("muster nodes", "muster nodes --json"),
        "docs/slurm.md",
        "muster.cli.nodes",
    ),
    "check": Command(
        "verify that distributed training works correctly here",
        ("",),
        (
            "muster check -g 8",
            "muster check --hosts n[1-4] -g 8",
            "muster check --slurm -N 4 -g 8 --launcher srun",
        ),
        "docs/check.md",
        "muster.cli.check",
        "It tests the rank layout, sums over all ranks, data sharding and convergence.\n\n"
        "Hosts, ranks and launcher are chosen with the options of `muster run`; `muster run --help` lists them. "
        "In addition:",
    ),
    "doctor": Command(
        "check all hosts before a run",
        ("",),
        ("muster doctor", "muster doctor --hosts n[1-4]", "muster doctor --slurm -N 4 --partition gpu"),
        "docs/doctor.md",
        "muster.cli.doctor",
    ),
    "lint": Command(
        "find mistakes in launch scripts and configurations: sbatch, torchrun, accelerate, deepspeed, mpirun",
        ("FILE…",),
        ("muster lint train.sbatch", "muster lint --fix *.sbatch", "muster lint scripts/ --format sarif >lint.sarif"),
        "docs/lint.md",
        "muster.cli.lint",
        "FILE is a shell or batch script, a Python script, a host file, a configuration of accelerate or DeepSpeed, a "
        "directory with such files, or `-` for stdin.\n\n"
        "`# muster: ignore=RULE` in a comment on the line, or on the line above it, ignores a finding; "
        "`# muster: ignore-file=RULE` ignores it in the whole file. Exit codes: 0 without errors and warnings, 1 with "
        "some, 2 if a file cannot be read.",
    ),
    "launchers": Command(
        "list launchers and the versions that are installed",
        ("",),
        ("muster launchers", "muster run --launcher torchrun -g 4 train.py"),
        "docs/launchers.md",
        "muster.cli.launchers",
    ),
    "lab": Command(
        "manage a practice cluster on this machine: real ssh, Slurm and MPI",
        ("",),
        ("sudo muster lab up --nodes 3", "sudo muster lab shell", "sudo muster lab down"),
        "docs/lab.md",
        "muster.cli.lab",
        "The hosts are `head`, where jobs are submitted, and n1, n2, …; the users are root and ada.\n\n"
        "If sudo does not find muster, as in a virtual environment: `sudo $(command -v muster) lab up`.",
    ),
    "docs": Command(
        "print a page of the documentation, or the list of pages",
        ("[PAGE]",),
        ("muster docs", "muster docs hangs", "muster docs first-run | less"),
        "docs/install.md",
        "muster.cli.docs",
    ),
    "completion": Command(
        "print the completion script for bash, zsh or fish",
        ("bash|zsh|fish",),
        ('eval "$(muster completion bash)"', "muster completion fish | source"),
        "docs/install.md",
        "muster.cli.completion",
        "The first line of the script says where it goes.",
    ),
}

LAB: Mapping[str, Command] = {
    "up": Command(
        "start the lab",
        ("",),
        ("muster lab up", "muster lab up --nodes 8 --gpus 8 --cpus 16"),
        "docs/lab.md",
    ),
    "down": Command(
        "stop the lab and remove everything it created, even if it is only partly up",
        ("",),
        ("muster lab down", "muster lab down --lab-dir /tmp/lab"),
        "docs/lab.md",
    ),
    "status": Command(
        "show the hosts and the active faults",
        ("",),
        ("muster lab status", "muster lab status --json"),
        "docs/lab.md",
    ),
    "exec": Command(
        "run a command on a host",
        ("HOST -- COMMAND",),
        ("muster lab exec head -- sinfo", "muster lab exec --user ada n1 -- hostname"),
        "docs/lab.md",
    ),
    "shell": Command(
        "start a shell on a host, by default on head",
        ("[HOST]",),
        ("muster lab shell", "muster lab shell --user ada n1"),
        "docs/lab.md",
    ),
    "fault": Command(
        "inject a fault or clear it; without arguments, list the faults",
        ("NAME [HOST]", "clear [NAME] [HOST]"),
        ("muster lab fault", "muster lab fault partition n2", "muster lab fault clear"),
        "docs/lab.md",
    ),
    "ssh-config": Command(
        "print an ssh configuration for reaching the hosts from this machine",
        ("",),
        ("muster lab ssh-config >lab.conf", "ssh -F lab.conf n1 hostname"),
        "docs/lab.md",
    ),
    "install": Command(
        "install the packages that the lab requires (Debian, Ubuntu)",
        ("",),
        ("muster lab install",),
        "docs/lab.md",
    ),
}
"""Actions of `muster lab`."""

ALIASES: Mapping[str, str] = {"ls": "ps", "stop": "kill"}
"""Alternative command names, familiar from other tools."""
