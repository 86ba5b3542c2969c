"""A real Kubernetes for tests, by kind or from Go modules on one Linux machine; knows nothing of what is installed on it."""
