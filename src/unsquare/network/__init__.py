"""What is trained: backbone, pool and head, and the computation of a step."""
