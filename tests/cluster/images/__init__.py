"""The container images: what is in them works as a node would run it."""
