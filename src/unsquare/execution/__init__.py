"""Execution strategies: how to run a network, a chain of steps, in less memory."""
