"""Profiles of hypothesis: CI runs few examples, always the same; `make fuzz` sets MUSTER_FUZZ=long and a seed."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_ALWAYS = {
    "deadline": None,  # nothing depends on the speed of the machine
    "suppress_health_check": list(HealthCheck),
    "database": None,  # a seed replays everything; nothing is written into the source tree
    "print_blob": True,
}

# `explain` traces every line of the tests: it costs more than it tells
_PHASES = [Phase.explicit, Phase.generate, Phase.shrink]

settings.register_profile("ci", max_examples=30, stateful_step_count=30, derandomize=True, phases=_PHASES, **_ALWAYS)
settings.register_profile("long", max_examples=2000, stateful_step_count=80, phases=_PHASES, **_ALWAYS)
settings.load_profile(os.environ.get("MUSTER_FUZZ", "ci"))
