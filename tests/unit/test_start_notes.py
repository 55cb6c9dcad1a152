"""What the controller of a job does before it can be connected to, as the waiting command shows it."""

from __future__ import annotations

from pathlib import Path

from muster.rundir.run import Run
from muster.rundir.start_notes import StartNotes, clear_notes, note


def test_lines_are_shown_once_and_anew_for_another_attempt(tmp_path: Path) -> None:
    run, shown = Run(tmp_path), list[str]()
    notes = StartNotes(run, shown.append)
    notes.look()
    note(run, "sending é\x1b[2J")
    notes.look()
    with open(tmp_path / "starting.log", "ab") as file:
        file.write(b"half a li")
    notes.look()
    assert ["sending é\\x1b[2J"] == shown
    note(run, "ne")
    notes.look()
    clear_notes(run)
    note(run, "again")
    notes.look()
    note(run, "once more")
    notes.look()
    assert ["sending é\\x1b[2J", "half a line", "again", "once more"] == shown
    assert {*shown} == notes.told


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    run = Run(tmp_path / "gone")
    note(run, "text")
    clear_notes(run)
    StartNotes(run, lambda text: None).look()
