"""Comparing runs on the same test rows: paired differences, tests, and a verdict in words."""
