"""How much fits: probes, memory profiles of execution strategies, the memory guard, and recovery from shortages."""
