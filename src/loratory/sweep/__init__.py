"""Sweeps: many runs over a space of settings. `sweep.sweep.run_sweep` is the door; each trial is ordinary runs."""
