"""A real Kubernetes for tests, by kind or from Go modules on one Linux machine; knows not what is installed on it."""
