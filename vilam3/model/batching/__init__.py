"""Continuous batching: requests join and leave between two passes of the network."""
