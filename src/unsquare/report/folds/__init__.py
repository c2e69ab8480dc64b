"""The page on a cross-validation."""
