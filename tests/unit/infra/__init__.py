"""The pure parts of the test cluster, and its supervisor over small processes."""
