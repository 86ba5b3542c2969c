"""The phantom corpus."""
