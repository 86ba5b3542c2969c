"""Tests of vilam3.report."""
