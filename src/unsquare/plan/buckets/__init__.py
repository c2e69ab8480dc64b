"""Buckets: which images may share a micro-batch, and on which canvases, decided once for all epochs."""
