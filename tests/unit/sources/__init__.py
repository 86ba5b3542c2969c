"""Unit tests of vilam3.sources."""
