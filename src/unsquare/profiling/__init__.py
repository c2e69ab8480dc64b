"""What holds the memory in a training step, and how large a batch fits."""
