"""Fixtures for the tests of the lab: a machine for one test, and labs with other options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from lab_process import LabProcess, skip_without_root

from muster.lab import Lab


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[LabProcess]:
    """A machine for this test alone, on which nothing else happens."""
    skip_without_root()
    with LabProcess(tmp_path / "muster home") as made:
        yield made


@pytest.fixture
def own_lab() -> Iterator[Callable[..., Lab]]:
    """Return a function that creates a lab for this test alone, with the arguments of `Lab`."""
    skip_without_root()
    with ExitStack() as stack:

        def make(**shape: Any) -> Lab:
            return stack.enter_context(Lab(**{"nodes": 1, **shape}))

        yield make
