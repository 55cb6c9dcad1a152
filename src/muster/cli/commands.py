"""What each command of `muster` does: words and environment in, exit status out."""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "run": ("muster.cli.run", "run", "start the ranks of a script, and see them to their end"),
    "plan": ("muster.cli.run", "plan", "show what `run` would start"),
    "ps": ("muster.cli.runs", "ps", "list runs"),
    "show": ("muster.cli.runs", "show", "all that is known of a run"),
    "logs": ("muster.cli.logs", "logs", "what the ranks of a run wrote"),
    "attach": ("muster.cli.attach", "attach", "watch a run that goes on without a terminal"),
    "wait": ("muster.cli.control", "wait", "wait for the end of a run, and give its exit status"),
    "kill": ("muster.cli.control", "kill", "end runs"),
    "clean": ("muster.cli.clean", "clean", "end what runs have left behind, here or on hosts"),
    "stacks": ("muster.cli.control", "stacks", "where in the code each rank is now"),
    "rm": ("muster.cli.runs", "rm", "delete a run that has ended"),
    "prune": ("muster.cli.runs", "prune", "delete old runs"),
    "nodes": ("muster.cli.nodes", "nodes", "the machines of a Slurm cluster, what is free, who waits"),
    "check": ("muster.cli.check", "check", "prove that distributed training is right here"),
    "doctor": ("muster.cli.doctor", "doctor", "look at all machines at once, before anything runs"),
    "launchers": ("muster.cli.launchers", "launchers", "the ways to start ranks, and which are installed"),
    "lab": ("muster.cli.lab", "lab", "a practice cluster on this machine: real ssh, Slurm, MPI"),
    "completion": ("muster.cli.completion", "completion", "completions of what you type, for bash, zsh and fish"),
}
"""name: (module, function, what it does)"""

ALIASES: Mapping[str, str] = {"ls": "ps", "stop": "kill"}
"""Other words for some commands, as other tools have them."""
