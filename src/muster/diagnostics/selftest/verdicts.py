"""Evaluation of the ranks' self-test reports (`payloads/selftest.py`): each check is one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from muster.core.fold import by_value
from muster.core.layout import fold, named
from muster.core.plurals import plural

Reported = Mapping[str, Mapping[str, Any]]
"""The output of rank 0, by section."""

BOUND = 1e-10
"""Allowed deviation of float64 parameters after some dozen steps, caused by the summation order of the ranks."""

SECTIONS = {
    "who": "placement of ranks",
    "sum": "collectives with known results",
    "data": "samples of each rank",
    "convergence": "training on one rank and on all ranks",
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
            found.append(Verdict(section, "section completed", False, "the ranks exited before it", "see their logs"))
            continue
        found += [verdict._replace(section=section) for verdict in statements(told[section], asked)]
    return found


# ---- placement ------------------------------------------------------------------------------------------------------


def _who(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    ranks = told["ranks"]
    yield Verdict(
        "",
        "all ranks joined",
        len(ranks) == asked,
        f"{len(ranks)} of {asked}",
        "see the logs of the ranks that did not join",
    )
    if any(rank["gpu"] for rank in ranks):
        yield _gpus(ranks)
    elif any(rank["gpus_there"] for rank in ranks) and told["asked"] != "gloo":
        blind = [rank["rank"] for rank in ranks if rank["gpus_there"]]
        do = "install torch with CUDA, update the driver or check CUDA_VISIBLE_DEVICES; or use `--backend gloo`"
        yield Verdict("", "torch detects the GPUs", False, f"no GPUs detected by {named(blind)} on hosts with GPUs", do)
    yield _cores(ranks)
    for what in ("python", "torch", "cuda", "nccl"):
        seen: dict[Any, list[int]] = by_value((rank["rank"], rank[what]) for rank in ranks)
        if len(seen) > 1:
            words = "; ".join(f"{value} on {named(numbers)}" for value, numbers in seen.items())
            yield Verdict("", f"same version of {what}", False, words, "use the same environment on all hosts")
    yield Verdict("", "same backend", True, f"{told['backend']}")


def _gpus(ranks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Check that each rank has a GPU of its own, however it is numbered."""
    without = [rank["rank"] for rank in ranks if not rank["gpu"]]
    on = by_value((rank["rank"], (rank["host"], _gpu_id(rank["gpu"]))) for rank in ranks if rank["gpu"])
    shared = [f"{named(held)} share a GPU of {host} ({name})" for (host, name), held in on.items() if held[1:]]
    shared += [f"no GPU for {named(without)}"] if without else []
    do = "start one rank per GPU, call `torch.cuda.set_device(LOCAL_RANK)`, and check CUDA_VISIBLE_DEVICES"
    return Verdict("", "each rank has its own GPU", not shared, "; ".join(shared) or plural(len(on), "GPU"), do)


def _gpu_id(gpu: Mapping[str, Any]) -> str:
    return str(gpu["uuid"] or gpu["bus"] or f"index {gpu['index']}")


def _cores(ranks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Check that no core is the only one for several ranks."""
    only = by_value(
        (rank["rank"], (rank["host"], rank["cpus"][0]))
        for rank in ranks
        if len(rank["cpus"]) == 1 and rank["all_cpus"] > 1
    )
    crowded = [
        f"{named(held)} on {host} are all bound to core {core}" for (host, core), held in only.items() if held[1:]
    ]
    do = "change the binding of the launcher: `--bind-to none` of mpirun, `--cpus-per-task` of Slurm, `taskset`"
    found = "; ".join(crowded) or f"at least {plural(min(len(rank['cpus']) for rank in ranks), 'core')} per rank"
    return Verdict("", "no ranks bound to the same single core", not crowded, found, do)


# ---- collectives ----------------------------------------------------------------------------------------------------


def _sums(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    for operation in told["operations"]:
        wrong = [f"rank {rank}: {words}" for rank, words in operation["wrong"].items()]
        few = "; ".join(wrong[:3]) + (f"; and {plural(len(wrong) - 3, 'more rank')}" if wrong[3:] else "")
        found = few or (f"not supported: {operation['without']}" if operation["without"] else "")
        do = "check the network card, the driver and the libraries; `muster doctor` checks versions and connectivity"
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
    seen += f", {padding} of them twice, so that all ranks have the same number" if padding else ""
    do = "use DistributedSampler with the same seed on each rank, and `sampler.set_epoch(epoch)` before each epoch"
    yield Verdict("", "each sample is used once per epoch", not wrong, wrong or seen, do)
    yield Verdict("", "each epoch is shuffled differently", epochs[0] != epochs[1], "", do)
    yield Verdict("", "the same seed gives the same samples", by_what["again"] == epochs[0], "", do)
    yield Verdict("", "another seed gives other samples", by_what["other seed"] != epochs[0], "", do)
    if ranks > 1:
        words = _misses(by_what["without DistributedSampler"], samples, padding)
        yield Verdict("", "detects a missing DistributedSampler", bool(words), words)


def _misses(by_rank: Sequence[Sequence[int]], samples: int, padding: int) -> str:
    """Return which samples no rank sees, and how many repetitions exceed the padding; empty if none."""
    seen = Counter(sample for share in by_rank for sample in share)
    missing = [sample for sample in range(samples) if not seen[sample]]
    again = sum(seen.values()) - len(seen)
    words = [f"{plural(len(missing), 'sample')} never used: {fold(missing)}"] if missing else []
    words += [f"{again} used repeatedly, expected for padding: {padding}"] if again > padding else []
    return "; ".join(words)


# ---- convergence ----------------------------------------------------------------------------------------------------


def _convergence(told: Mapping[str, Any], asked: int) -> Iterator[Verdict]:
    for way in told["ways"]:
        off = way["off"]
        words = "parameters are NaN or infinite" if off is None else f"parameters differ by {off:.1e}"
        same = off is not None and off <= BOUND and way["apart"] is not None and way["apart"] <= BOUND
        if way["way"] == "distributed":
            do = "the gradients are wrong: see the collectives above"
            yield Verdict(
                "", "distributed training equals training on one rank", same, f"{words}, tolerance {BOUND:.0e}", do
            )
        elif way["way"] != "alone":
            yield Verdict("", f"detects a training mistake: {_MISTAKES[way['way']]}", not same, words)


_MISTAKES = {
    "no averaging": "gradients not averaged",
    "one shard for all": "the same data on all ranks",
    "sum in place of mean": "gradients summed instead of averaged",
}
"""What is wrong on purpose in a training, by its name in the result."""

_STATEMENTS = {"who": _who, "sum": _sums, "data": _data, "convergence": _convergence}
