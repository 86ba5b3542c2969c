"""Training: a pure step, batches in a fixed order, checkpoints that survive any kill, and one local launcher."""
