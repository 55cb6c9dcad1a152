"""`by_ray.py RANKS FOLDER FILE [WHAT]`: the ranks of first_sum.py as workers of Ray Train, in a cluster of its own."""

import sys
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def rank(config: dict[str, Any]) -> None:
    """One of the ranks."""
    sys.path.insert(0, config["here"])
    from first_sum import first_sum

    first_sum(*config["words"])


if __name__ == "__main__":
    count, folder, *words = sys.argv[1:]
    ray.init(num_cpus=int(count) + 1, include_dashboard=False, log_to_driver=False)
    config = {"here": str(Path(__file__).parent), "words": words}
    TorchTrainer(
        rank,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=int(count), resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=folder),
    ).fit()
