"""The compiled pipelines, kept whole: what a cluster is asked for changes only on purpose."""
