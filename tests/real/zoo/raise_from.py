"""A library wraps an exception into its own."""

from loop import train


def look_up(options):
    return options["warmup"]


def configure(rank):
    if rank == 2:
        try:
            look_up({})
        except KeyError as error:
            raise RuntimeError("cannot build the schedule") from error


train(configure)
