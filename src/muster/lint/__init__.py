"""`muster lint`: a model of launch scripts and configurations, and the rules that look at it.

`parse.read_script` builds the model of `model.py` once; `muster adopt` reads the same model. Nothing here is imported
by other commands, because the parser of shell scripts is an optional dependency.
"""
