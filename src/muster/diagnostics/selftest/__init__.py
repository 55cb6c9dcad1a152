"""The results of `muster check`: evaluated, as text, and as a page. Pure."""
