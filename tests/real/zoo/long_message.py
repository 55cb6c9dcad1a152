"""A message of many lines, whose head is far up in the log."""

from loop import train


def load(rank):
    if rank == 3:
        keys = "\n".join(f"\tMissing key in state_dict: transformer.block.{number}.weight" for number in range(4000))
        raise RuntimeError(f"Error(s) in loading state_dict for Net:\n{keys}")


train(load)
