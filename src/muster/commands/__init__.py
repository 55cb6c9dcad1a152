"""What each command of `muster` does: words and environment in, exit status out."""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "run": ("muster.commands.run", "run", "start the ranks of a script, and see them to their end"),
    "plan": ("muster.commands.run", "plan", "show what `run` would start"),
    "ps": ("muster.commands.look", "ps", "list runs"),
    "show": ("muster.commands.look", "show", "all that is known of a run"),
    "logs": ("muster.commands.logs", "logs", "what the ranks of a run wrote"),
    "attach": ("muster.commands.there", "attach", "watch a run that goes on without a terminal"),
    "wait": ("muster.commands.reach", "wait", "wait for the end of a run, and give its exit status"),
    "kill": ("muster.commands.reach", "kill", "end runs"),
    "clean": ("muster.commands.clean", "clean", "end what runs have left behind, here or on hosts"),
    "stacks": ("muster.commands.reach", "stacks", "where in the code each rank is now"),
    "rm": ("muster.commands.look", "rm", "delete a run that has ended"),
    "prune": ("muster.commands.look", "prune", "delete old runs"),
    "nodes": ("muster.commands.nodes", "nodes", "the machines of a Slurm cluster, what is free, who waits"),
    "check": ("muster.commands.check", "check", "prove that distributed training is right here"),
    "doctor": ("muster.commands.doctor", "doctor", "look at all machines at once, before anything runs"),
    "launchers": ("muster.commands.launchers", "launchers", "the ways to start ranks, and which are installed"),
    "lab": ("muster.commands.lab", "lab", "a practice cluster on this machine: real ssh, Slurm, MPI"),
    "completion": ("muster.commands.completion", "completion", "completions of what you type, for bash, zsh and fish"),
}
"""name: (module, function, what it does)"""

ALIASES: Mapping[str, str] = {"ls": "ps", "stop": "kill"}
"""Other words for some commands, as other tools have them."""
