"""How to run a chain of steps in less memory."""
