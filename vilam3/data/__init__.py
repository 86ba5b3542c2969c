"""Samples, studies and the phantoms they can be made from; knows no model and no framework."""
