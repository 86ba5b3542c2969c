"""Unit tests of vilam3.results."""
