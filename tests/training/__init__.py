"""Training by several real processes: equal to one, killed, resumed, elastic, on S3, on Ray; see `make test-train`."""
