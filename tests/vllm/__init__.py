"""vLLM against the torch engine, where vLLM is installed."""
