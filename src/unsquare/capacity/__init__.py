"""How much fits: probe steps, memory profiles of strategies, and what happens where memory runs short."""
