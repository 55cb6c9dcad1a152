"""All rows of the bench, in the order of the page and of measuring."""

from __future__ import annotations

import row_commands
import row_controller
import row_external
import row_failures
import row_held
import row_idle
import row_imports
import row_launch
import row_logs
import row_steps

GROUPS = (
    row_launch,
    row_failures,
    row_held,
    row_external,
    row_imports,
    row_logs,
    row_commands,
    row_controller,
    row_idle,
    row_steps,
)
ROWS = {row.name: row for group in GROUPS for row in group.ROWS}
