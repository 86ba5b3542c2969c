"""Training as a job of a Kubernetes cluster: made once, watched, ended with whoever launched it."""
