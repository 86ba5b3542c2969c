"""What a run came to, for people: one self-contained page, one JSON summary, one table; measures nothing itself."""
