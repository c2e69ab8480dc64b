"""What memory a device has, how much a micro-batch takes, and how much a run took."""
