"""What the ranks of `muster check` told: judged, in words, and as a page. Pure."""
