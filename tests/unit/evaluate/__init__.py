"""Tests of vilam3.evaluate."""
