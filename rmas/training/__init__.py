"""Training: objectives, optimizer, train state, steps, checkpoints, metrics, run folders."""
