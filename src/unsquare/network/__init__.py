"""What is trained: backbone, pool and head, and the arithmetic of a step."""
