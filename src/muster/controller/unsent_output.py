"""Output in the logs of a run that was not sent to who shows it: its agent was killed, or the run ended before."""

from __future__ import annotations

import os

from muster.errors import MusterError
from muster.linux import processes
from muster.rundir.run import Run
from muster.ui.view import View


def show_rest(run: Run, view: View, offsets: dict[str, int], tail: int | None = None) -> None:
    """Show output in the run's log files that was not sent: the run may have ended before anyone could watch.

    It is shown in the order of writing, as far as that is known. `tail`: of log files of which nothing was sent, show
    only the last `tail` bytes.
    """
    from muster.rundir.log_order import Ordered  # imported late: most runs need nothing of it

    for attempt in run.attempts():
        places: dict[tuple[int, str], int] = {}
        for rank in run.ranks(attempt):
            if view.wants is not True and not (view.wants and rank in view.wants):
                continue
            for stream in ("out", "err"):
                try:
                    with run.open_log(attempt, rank, stream) as file:
                        begin = 0 if tail is None else max(0, os.fstat(file.fileno()).st_size - tail)
                    places[rank, stream] = offsets.get(f"{attempt}/{rank}.{stream}", begin)
                except FileNotFoundError:
                    pass
                except (OSError, MusterError) as error:  # someone replaced the file by something else
                    why = processes.reason(error)
                    view.say(f"warning: cannot show {run.log(attempt, rank, stream)}: {why}")
        rest = Ordered(run, attempt, list(places))
        rest.places.update(places)
        try:
            for written in rest.read(all_of_it=True):
                view.output(written.rank, written.stream, written.data)
        except (OSError, MusterError) as error:
            view.say(f"warning: cannot show all output: {processes.reason(error)}")
        finally:
            rest.close()
        offsets.update({f"{attempt}/{rank}.{stream}": place for (rank, stream), place in rest.places.items()})
