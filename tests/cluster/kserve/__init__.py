"""The chart on real KServe: questions to real pods, and what becomes of them when pods go."""
