"""Images: their names, their files, and what is built into them."""
