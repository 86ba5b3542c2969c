"""What surrounds an installation: the test cluster, the pinned operators and the tools that both are built from."""
