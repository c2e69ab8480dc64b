"""What holds the memory, and how much fits."""
