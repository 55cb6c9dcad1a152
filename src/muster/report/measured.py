"""Resources over time as the report shows them, from what agents recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from muster.report.data import Resource, Series
from muster.rundir.resources import NodeResources, Values, resources_of
from muster.rundir.run import Run

_MOST_POINTS = 240
"""Maximum number of points of a curve: more cannot be seen."""


def series_of(run: Run, attempt: int) -> tuple[Series, ...]:
    """Return what was measured in an attempt."""
    return tuple(
        series._replace(points=_fewer(series.points))
        for node in resources_of(run, attempt)
        for series in _of_node(node)
        if len(series.points) > 1
    )


def _of_node(node: NodeResources) -> Iterator[Series]:
    """Yield the curves of a node: of its ranks, the machine, and its GPUs."""
    for rank in node.ranks:
        both = tuple(
            None if own is None else own + (more or 0.0) for own, more in zip(rank.memory, rank.children_memory)
        )
        yield Series(Resource.STEP, node.node, rank.rank, points=_points(node.times, rank.step))
        yield Series(Resource.CPU, node.node, rank.rank, points=_points(node.times, rank.cpu))
        yield Series(Resource.MEMORY, node.node, rank.rank, points=_points(node.times, both))
    yield Series(Resource.NODE_CPU, node.node, points=_points(node.times, node.cpu))
    yield Series(Resource.NODE_MEMORY, node.node, points=_points(node.times, node.memory))
    for gpu in node.gpus:
        yield Series(Resource.GPU, node.node, gpu=gpu.number, points=_points(node.times, gpu.utilization))
        yield Series(Resource.GPU_MEMORY, node.node, gpu=gpu.number, points=_points(node.times, gpu.memory))


def _points(times: Sequence[float], values: Values) -> tuple[tuple[float, float], ...]:
    return tuple((at, value) for at, value in zip(times, values) if value is not None)


def _fewer(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Return at most `_MOST_POINTS` points, of each part the one with the highest value."""
    size = -(-len(points) // _MOST_POINTS)
    parts = (points[begin : begin + size] for begin in range(0, len(points), size))
    return tuple(max(part, key=lambda point: point[1]) for part in parts)
