"""The demonstration: an embedded dataset of procedural photographs, and what runs on it."""
