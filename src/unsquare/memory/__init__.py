"""Memory: how much there is, how much a micro-batch takes, and how much was taken."""
