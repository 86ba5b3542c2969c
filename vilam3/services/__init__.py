"""The remote halves of the serving graph: an engine and experts over HTTP, behind the library's own protocols."""
