"""Information of the kernel about processes, tested with real ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from waiting import until

from muster.linux import procfs

NAMED = "open('/proc/self/comm', 'w').write('a) Z (b'); print(flush=True); input()"


def test_a_process_from_its_start_to_its_end() -> None:
    """Its name may contain brackets; a zombie is not alive, though its pid exists."""
    child = subprocess.Popen([sys.executable, "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    until(lambda: procfs.stat(child.pid).state == "S", "it reads")
    found, since = procfs.stat(child.pid), procfs.started(child.pid)
    assert found is not None and (found.name, found.parent, found.lives) == ("a) Z (b", os.getpid(), True)
    assert found.memory > 100
    assert found.started == since != "" and procfs.still_lives(child.pid, since)
    assert not procfs.still_lives(child.pid, str(int(since) + 1)) and not procfs.still_lives(child.pid, "")
    child.send_signal(signal.SIGKILL)
    until(lambda: not procfs.lives(child.pid), "it is killed")
    assert procfs.stat(child.pid).state == "Z"
    assert procfs.started(child.pid) == "" and not procfs.still_lives(child.pid, since)
    child.communicate()
    assert procfs.stat(child.pid) is None


def test_there_is_one_reader_of_it() -> None:
    """stat(5) is parsed in one place only; the same holds for the boot ID and the names of rank files."""
    source = Path(procfs.__file__).parents[1]
    text = {str(path.relative_to(source)): path.read_text() for path in source.rglob("*.py")}

    def readers(pattern: str) -> list[str]:
        return sorted(name for name, code in text.items() if re.search(pattern, code))

    alone = ["agent/hook/any_script.py", "agent/hook/quick_exit.py"]  # the site hook imports nothing of muster
    assert readers(r'/stat"') == [*alone, "linux/procfs.py"]
    assert readers('boot_id"') == ["linux/procfs.py"]
    assert readers(r"rank_\{") == ["protocol/paths.py"]
    assert readers(r'get\("MUSTER_HOME"\)') == ["protocol/paths.py", "rundir/homes.py"]
