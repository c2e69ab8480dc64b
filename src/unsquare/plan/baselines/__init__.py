"""Baselines: how other projects form batches, for comparison with a plan."""
