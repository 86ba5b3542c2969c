"""The test cluster itself: it comes up, it works, and nothing of it is left."""
