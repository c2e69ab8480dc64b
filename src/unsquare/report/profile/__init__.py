"""The page on what holds the memory of a network."""
