"""What a run holds: its folder, the schema of every file, and what a checkpoint was trained from."""
