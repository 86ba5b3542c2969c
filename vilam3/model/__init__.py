"""VILA-M3 natively on torch and transformers: configuration, network, tokens, prompts, checkpoints and the engine."""
