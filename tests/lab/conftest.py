"""Fixtures for the tests of the lab itself: a machine of a test's own, and labs of other shapes."""

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
    """A machine of this test's own, on which nothing else happens."""
    skip_without_root()
    with LabProcess(tmp_path / "muster home") as made:
        yield made


@pytest.fixture
def own_lab() -> Iterator[Callable[..., Lab]]:
    """Make a lab for this test alone; takes what `Lab` takes."""
    skip_without_root()
    with ExitStack() as stack:

        def make(**shape: Any) -> Lab:
            return stack.enter_context(Lab(**{"nodes": 1, **shape}))

        yield make
