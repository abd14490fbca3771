"""Training: the loop, the mode it runs in, checkpoints, and the prediction of memory and time."""
