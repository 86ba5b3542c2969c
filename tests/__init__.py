"""Tests by tier: unit, contract, golden, end to end; `python -m tests` runs them in that order."""
