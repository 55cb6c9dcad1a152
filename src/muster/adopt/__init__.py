"""`muster adopt`: from a launch script to the command line of muster that does the same.

A script is read with the model of `muster lint`, which needs an optional package; so nothing here is imported by other
commands.
"""
