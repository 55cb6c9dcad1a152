"""pytest fixtures for a lab. In conftest.py: `pytest_plugins = ["muster.lab.testing"]`; then use the fixture `lab`.

One lab serves all tests of a pytest process, and is removed with it. Its hosts share `tmp_path` and the directory of
the tests (pytest's rootdir), wherever these are; otherwise /tmp is each host's own. If a lab is not possible (no root,
no namespaces, a missing program), tests that use one are skipped, and the summary says how many and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.lab import Lab

_SKIPPED = "no lab"


@pytest.fixture(scope="session")
def the_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab, with whatever faults a test left in it. Override it for another size."""
    made = Lab(shared=[tmp_path_factory.getbasetemp(), request.config.rootpath])
    try:
        made.up(owned=True)
    except InvalidRequest as error:
        pytest.skip(f"{_SKIPPED}: {error.sentence}")
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def lab(the_lab: Lab) -> Iterator[Lab]:
    """A lab without faults; those that the test makes are undone after it."""
    yield the_lab
    the_lab.clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many tests were skipped because there is no lab."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if _SKIPPED in str(report.longrepr)]
    if skipped:
        why = str(skipped[0].longrepr).partition(f"{_SKIPPED}: ")[2].strip("')\n")
        terminalreporter.write_line(f"{plural(len(skipped), 'test')} skipped, a lab is required: {why}")
