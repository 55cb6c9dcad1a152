"""What each command of `muster` does: words and environment in, exit status out."""
