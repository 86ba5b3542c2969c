"""Readers, rendering, conversations, splits and mixtures."""
