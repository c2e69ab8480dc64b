"""Baselines: how other projects form batches, to be set beside a plan."""
