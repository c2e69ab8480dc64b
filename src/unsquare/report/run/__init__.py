"""The page on a run."""
