"""Tests of the clients of the serving graph."""
