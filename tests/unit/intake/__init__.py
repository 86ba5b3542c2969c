"""Rules of the intake."""
