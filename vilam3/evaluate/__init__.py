"""How good a model is, without and with experts, and whether that is good enough; the arithmetic knows no model."""
