"""The generated InferenceGraph, compared whole."""
