"""Generated files compared whole with the committed ones."""
