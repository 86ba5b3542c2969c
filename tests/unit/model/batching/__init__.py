"""Tests of `vilam3.model.batching`."""
