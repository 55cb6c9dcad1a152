"""A class of `__main__` goes through pickle, to a pool of spawned processes and back."""

import multiprocessing
import pickle
from dataclasses import dataclass


@dataclass
class Point:
    """Something to pickle."""

    x: int
    y: int


def turned(point):
    return Point(point.y, -point.x)


if __name__ == "__main__":
    copy = pickle.loads(pickle.dumps(Point(1, 2)))
    print(copy, type(copy) is Point, Point.__module__)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for point in pool.map(turned, [Point(n, n + 1) for n in range(4)]):
            print(point, type(point) is Point)
