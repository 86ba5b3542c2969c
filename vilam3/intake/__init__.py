"""One way in for whatever asks for a run: an event becomes a key, and a key becomes one run."""
