"""The chart on a real API server with the real kinds: no pods, everything that the server itself checks."""
