"""Evaluation of the ranks' self-test reports (`payloads/selftest.py`): each check is one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from muster.core.fold import by_value
from muster.core.layout import fold
from muster.core.plurals import plural

Reported = Mapping[str, Mapping[str, Any]]
"""The output of rank 0, by section."""

BOUND = 1e-10
"""Allowed deviation of float64 parameters after some dozen steps, caused by the summation order of the ranks."""

SECTIONS = {
    "who": "who is where",
    "sum": "collectives with known answers",
    "data": "which rank sees which sample",
    "convergence": "the same training on one rank and on all",
}


class Verdict(NamedTuple):
    """A check and whether it passed."""

    section: str
    name: str
    passed: bool
    found: str = ""
    remedy: str = ""

    def as_json(self) -> dict[str, str | bool]:
        """Return the verdict for `muster check --json`. The keys are stable, since scripts read them."""
        return {
            "section": self.section,
            "name": self.name,
            "holds": self.passed,
            "found": self.found,
            "do": self.remedy,
        }


def evaluate(told: Reported, asked: int) -> list[Verdict]:
    """Evaluate all checks. `asked` is the requested number of ranks; a missing section is a failed check."""
    found = []
    for section, statements in _STATEMENTS.items():
        if section not in told:
            found.append(Verdict(section, "it was looked at", False, "the ranks ended before that", "see their logs"))
            continue
        found += [verdict._replace(section=section) for verdict in statements(told[section], asked)]
    return found


# ---- placement ------------------------------------------------------------------------------------------------------


def _who(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    ranks = told["ranks"]
    yield Verdict(
        "",
        "all ranks are there",
        len(ranks) == asked,
        f"{len(ranks)} of {asked}",
        "the others never joined: look at their logs",
    )
    if any(rank["gpu"] for rank in ranks):
        yield _gpus(ranks)
    elif any(rank["gpus_there"] for rank in ranks) and told["asked"] != "gloo":
        blind = fold(rank["rank"] for rank in ranks if rank["gpus_there"])
        do = "a torch without CUDA, a driver that is too old, or CUDA_VISIBLE_DEVICES; else ask for `--backend gloo`"
        yield Verdict("", "torch sees the GPUs", False, f"there are GPUs where ranks {blind} are, and it sees none", do)
    yield _cores(ranks)
    for what in ("python", "torch", "cuda", "nccl"):
        seen: dict[Any, list[int]] = by_value((rank["rank"], rank[what]) for rank in ranks)
        if len(seen) > 1:
            words = "; ".join(f"{value} on ranks {fold(numbers)}" for value, numbers in seen.items())
            yield Verdict("", f"one version of {what}", False, words, "the same environment on all machines")
    yield Verdict("", "one backend", True, f"{told['backend']}")


def _gpus(ranks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Check that each rank has a GPU of its own, however it is numbered."""
    without = [rank["rank"] for rank in ranks if not rank["gpu"]]
    on = by_value((rank["rank"], (rank["host"], _named(rank["gpu"]))) for rank in ranks if rank["gpu"])
    shared = [f"ranks {fold(held)} are on one GPU of {host} ({name})" for (host, name), held in on.items() if held[1:]]
    shared += [f"ranks {fold(without)} have none, and others have"] if without else []
    do = "as many ranks as GPUs on each node; `torch.cuda.set_device(LOCAL_RANK)`; see CUDA_VISIBLE_DEVICES"
    return Verdict("", "each rank has a GPU of its own", not shared, "; ".join(shared) or plural(len(on), "GPU"), do)


def _named(gpu: Mapping[str, Any]) -> str:
    return str(gpu["uuid"] or gpu["bus"] or f"number {gpu['index']}")


def _cores(ranks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Check that no core is the only one for several ranks."""
    only = by_value(
        (rank["rank"], (rank["host"], rank["cpus"][0]))
        for rank in ranks
        if len(rank["cpus"]) == 1 and rank["all_cpus"] > 1
    )
    crowded = [
        f"ranks {fold(held)} of {host} may run on core {core} alone" for (host, core), held in only.items() if held[1:]
    ]
    do = "what started them binds them: `--bind-to none` of mpirun, `--cpus-per-task` of Slurm, `taskset`"
    found = "; ".join(crowded) or f"{plural(min(len(rank['cpus']) for rank in ranks), 'core')} or more for each"
    return Verdict("", "ranks do not share a single core", not crowded, found, do)


# ---- collectives ----------------------------------------------------------------------------------------------------


def _sums(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    for operation in told["operations"]:
        wrong = [f"rank {rank}: {words}" for rank, words in operation["wrong"].items()]
        few = "; ".join(wrong[:3]) + (f"; and {plural(len(wrong) - 3, 'more rank')}" if wrong[3:] else "")
        found = few or (f"not offered: {operation['without']}" if operation["without"] else "")
        do = "a network card, a driver or a library is at fault; `muster doctor` looks at versions and ways"
        yield Verdict("", operation["name"], not wrong, found, do)


# ---- data -----------------------------------------------------------------------------------------------------------


def _data(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    looks = told["epochs"]
    epochs = [look["by_rank"] for look in looks if look["what"] == "epoch"]
    by_what = {look["what"]: look["by_rank"] for look in looks}
    samples, ranks = told["samples"], len(epochs[0])
    padding = -samples % ranks
    wrong = "; ".join(
        f"epoch {number}: {words}" for number, seen in enumerate(epochs) if (words := _misses(seen, samples, padding))
    )
    seen = plural(samples, "sample")
    seen += f", and {padding} of them twice, so that all ranks have as many" if padding else ""
    do = "DistributedSampler on each rank with the same seed, `sampler.set_epoch(epoch)` before each epoch"
    yield Verdict("", "each sample is seen once an epoch", not wrong, wrong or seen, do)
    yield Verdict("", "epochs are shuffled differently", epochs[0] != epochs[1], "", do)
    yield Verdict("", "the same seed gives the same shares", by_what["again"] == epochs[0], "", do)
    yield Verdict("", "another seed gives other ones", by_what["other seed"] != epochs[0], "", do)
    if ranks > 1:
        words = _misses(by_what["without DistributedSampler"], samples, padding)
        yield Verdict("", "without DistributedSampler: it is noticed", bool(words), words)


def _misses(by_rank: Sequence[Sequence[int]], samples: int, padding: int) -> str:
    """Return which samples no rank sees, and how many repetitions exceed the padding; empty if none."""
    seen = Counter(sample for share in by_rank for sample in share)
    missing = [sample for sample in range(samples) if not seen[sample]]
    again = sum(seen.values()) - len(seen)
    words = [f"nobody sees {fold(missing)}"] if missing else []
    words += [f"{again} are seen again, and {padding} would fill up"] if again > padding else []
    return "; ".join(words)


# ---- convergence ----------------------------------------------------------------------------------------------------


def _convergence(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    for way in told["ways"]:
        off = way["off"]
        words = "parameters are no numbers any more" if off is None else f"parameters are off by {off:.1e}"
        same = off is not None and off <= BOUND and way["apart"] is not None and way["apart"] <= BOUND
        if way["way"] == "distributed":
            do = "gradients are not what they should be: see the sums above"
            yield Verdict("", "distributed equals alone", same, f"{words}, and {BOUND:.0e} is allowed", do)
        elif way["way"] != "alone":
            yield Verdict("", f"{way['way']}: it is noticed", not same, words)


_STATEMENTS = {"who": _who, "sum": _sums, "data": _data, "convergence": _convergence}
