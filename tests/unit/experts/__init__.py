"""Experts: what triggers them, what they are and what they say."""
