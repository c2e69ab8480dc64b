"""Partition: the images of a step cut into micro-batches, which are spread over ranks."""
