"""Real processes talking to one another on this machine."""
