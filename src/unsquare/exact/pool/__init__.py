"""Pools over each image's own region, on levels or as a whole."""
