"""The lab of the chaos runs is that of the other tests."""
