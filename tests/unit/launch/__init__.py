"""Tests of vilam3.launch."""
