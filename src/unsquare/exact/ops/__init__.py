"""What exact layers and functional calls compute."""
