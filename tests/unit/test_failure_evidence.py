"""What a rank left behind: how long before its exit it last wrote something."""

from __future__ import annotations

import os
import time
from pathlib import Path

from muster.agent.failure_evidence import gather
from muster.protocol.paths import rank_file


def test_the_age_of_what_was_written_before_the_exit(tmp_path: Path) -> None:
    now = time.time()
    log, stack = (Path(rank_file(str(tmp_path), 0, kind)) for kind in ("err", "stack"))
    log.write_text("Traceback\n")
    assert not gather(str(tmp_path), 0, "err", 0, b"").hooked
    stack.touch()
    os.utime(stack, (now - 1.0, now - 1.0))  # when it began to exit

    def age(written: float, traceback_at: float | None = None) -> float:
        os.utime(log, (written, written))
        found = gather(str(tmp_path), 0, "err", 0, b"", traceback_at)
        assert found.hooked and found.err_age is not None
        return found.err_age

    assert 3.0 == round(age(now - 4.0), 1)
    assert 3.0 == round(age(now - 4.0, time.monotonic() - 4.0), 1)
    # a library writes while it exits
    assert 5.0 == round(age(now - 0.5, time.monotonic() - 6.0), 1)
    assert 0.0 == age(now - 0.5, time.monotonic())
