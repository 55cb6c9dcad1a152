"""`muster.run` in a real notebook: output in the cell, classes of cells, errors, and Interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from running import carriers
from waiting import until

pytestmark = [
    pytest.mark.slow,
    # of the libraries of Jupyter, not of muster
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def notebook(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that executes cells in one kernel, and returns the output of each."""
    for name in set(os.environ) - set(env):
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    made = nbformat.v4.new_notebook()
    client = NotebookClient(made, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():

        def run(text: str) -> str:
            cell = nbformat.v4.new_code_cell(text)
            made.cells.append(cell)
            client.execute_cell(cell, len(made.cells) - 1)
            return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)

        yield run


def test_functions_of_cells_run_and_print_into_the_cell(notebook: Any, tmp_path: Path) -> None:
    notebook("""
        import dataclasses, os, muster

        @dataclasses.dataclass
        class Answer:
            rank: int
    """)
    notebook("""
        def train():
            print("hello from", os.environ["RANK"])
            return Answer(int(os.environ["RANK"]))
    """)
    said = notebook("found = muster.run(train, np=2); print(found == [Answer(0), Answer(1)])")
    assert ["True", "[0] hello from 0", "[1] hello from 1"] == sorted(said.splitlines())
    assert "[7]" == notebook("muster.run(lambda: 7)").strip()
    assert "[0, 1]" == notebook("await muster.submit(lambda: int(os.environ['RANK']), np=2)").strip()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError") as failed:
        notebook("muster.run(lambda: 1 / 0, show_output=False)")
    assert "RemoteError" in str(failed.value)
    assert "1 / 0" in notebook("print(muster.attach('last').failures[0].traceback)"), "with the line of the cell"

    kernel = int(notebook("os.getpid()"))

    def interrupt() -> None:
        runs = tmp_path / "muster home" / "runs"
        until(lambda: list(runs.glob("*-sleep/attempt_0/rank_00000.out")), "the ranks run")
        until(lambda: any("up" in path.read_text() for path in runs.glob("*-sleep/attempt_0/rank_00000.out")), "up")
        os.kill(kernel, signal.SIGINT)  # as the button does

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook("""
            def sleep():
                import time
                print("up", flush=True)
                time.sleep(1000)
            muster.run(sleep, np=2, grace=1)
        """)
    thread.join()
    run_id = next((tmp_path / "muster home" / "runs").glob("*-sleep")).name
    until(lambda: not carriers(run_id), "the ranks have ended")
    assert "8" == notebook("print(4 + 4)").strip(), "the kernel lives"
