"""Measurements: one module an area, each writes ``bench/results/<area>.json``."""
