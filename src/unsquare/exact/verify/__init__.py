"""Exact networks against the stock network on each image alone."""
