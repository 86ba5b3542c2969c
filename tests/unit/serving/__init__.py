"""Tests of the serving leaf."""
