"""Tests of pipelines: what shows, measures and serves a run; the graphs are in tests/golden and tests/contract."""
