"""Training launched as jobs."""
