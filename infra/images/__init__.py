"""Builds the container images, with docker where that answers and without any daemon or registry elsewhere."""
