"""A corpus built from phantoms: conversations in the published formats, held-out questions, material for experts."""
