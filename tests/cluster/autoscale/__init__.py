"""Replicas follow the load: more while requests come, fewer afterwards, and no request is lost on the way."""
