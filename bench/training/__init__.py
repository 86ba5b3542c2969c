"""What the parts of the training area share: the work they measure, and how the published training does it."""
