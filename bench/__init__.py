"""Measurements: one module an area, each writes ``bench/results/<area>.json``; nothing here is imported by the product."""
