"""Pixels: decoding, augmenting and loading pictures at their own size."""
