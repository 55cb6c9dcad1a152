"""The public Python API: functions and scripts as runs. `muster/__init__.py` names what is public."""
