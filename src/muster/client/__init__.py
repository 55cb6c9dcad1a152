"""A run as seen from another process: its status, requests to it, and watching it."""
