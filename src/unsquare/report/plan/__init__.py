"""The page on a plan."""
