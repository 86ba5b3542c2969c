"""Scheduling and the load of the API server on a thousand nodes that are pretended; nothing about accelerators."""
