"""What holds on a real Kubernetes; each tier has a make target, and none runs with the other tests."""
