"""Training: the step, the batches, the states and the local launcher."""
