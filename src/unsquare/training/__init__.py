"""Training: the classifier, the loop over planned steps, checkpoints, evaluation."""
