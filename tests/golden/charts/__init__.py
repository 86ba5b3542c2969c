"""The chart's scenarios as they render."""
