"""Analysis: what a plan computes and wastes, and how far it is from the best there could be."""
