"""One KFP step a file; each body is a thin call into the library, shipped as source text."""
