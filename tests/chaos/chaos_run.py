"""Plays random scenarios: `run.py [--seed N] [--count N] [--seconds S] [--places local,ssh]`.

A violation is printed with its seed, and with the command that replays it. What happened is kept then, in a directory
that is printed too.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # as pytest has it

# ruff: noqa: E402
from playing import Played, play, scenario_of
from scenarios import Place, Scenario
from striking import FAULTS

from muster.errors import MusterError
from muster.lab import Lab

ROOT = Path(__file__).parents[2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs that faults strike at random moments.")
    parser.add_argument("--seed", type=int, help="the first seed (default: random)")
    parser.add_argument("--count", type=int, default=1, help="number of scenarios, with seeds one after the other")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no scenario after this time")
    names = ",".join(place.value for place in Place)
    parser.add_argument("--places", default=names, help="where runs are (default: %(default)s)")
    parser.add_argument("--fault", choices=list(FAULTS), help="only scenarios with this fault")
    parser.add_argument("--list", action="store_true", help="print the scenarios only")
    parser.add_argument("--keep", action="store_true", help="keep the directories of all scenarios")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    return parser.parse_args()


def _replay(played: Played, places: str) -> str:
    return (
        f'    replay: .venv/bin/python tests/chaos/chaos_run.py --places "{places}" '
        f"--seed {played.seen.scenario.seed} --keep"
    )


def main() -> int:
    """Play; return 1 if there was a violation."""
    asked = _arguments()
    places = tuple(Place(name) for name in asked.places.split(","))
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    chosen: list[Scenario] = []
    while len(chosen) < asked.count:
        scenario = scenario_of(seed, places)
        seed += 1
        if asked.fault in (None, scenario.fault):
            chosen.append(scenario)
    if asked.list:
        print(*chosen, sep="\n")
        return 0
    end = time.monotonic() + asked.seconds
    base = Path(tempfile.mkdtemp(prefix="chaos-", dir="/var/lib"))
    struck: Counter[str] = Counter()
    failed: list[Played] = []
    unable = 0
    lab = Lab(nodes=3, shared=[base, ROOT])
    lab.up(owned=True)
    try:
        for number, scenario in enumerate(chosen, 1):
            if time.monotonic() > end:
                break
            try:
                played = play(lab, base / str(scenario.seed), scenario)
            except MusterError as error:  # the lab itself, which is not what is tried here
                print(f"{number}/{len(chosen)} {scenario}\n    the lab failed, another is started: {error}", flush=True)
                unable += 1
                lab.down()
                lab = Lab(nodes=3, shared=[base, ROOT])
                lab.up(owned=True)
                continue
            print(f"{number}/{len(chosen)} {played}", flush=True)
            struck[scenario.fault] += bool(played.seen.struck)
            if played.violations:
                failed.append(played)
                print(_replay(played, asked.places), f"    kept: {base / str(scenario.seed)}", sep="\n", flush=True)
                if asked.stop:
                    break
            elif not asked.keep:
                shutil.rmtree(base / str(scenario.seed))
    finally:
        lab.down()
    if not any(base.iterdir()):
        base.rmdir()
    print(f"{struck.total()} faults injected, {len(failed)} runs with a violation, {unable} without a result")
    print("  " + ", ".join(f"{name} {number}" for name, number in sorted(struck.items())))
    for played in failed:
        print(played, _replay(played, asked.places), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
