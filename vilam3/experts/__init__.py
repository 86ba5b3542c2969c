"""Expert models behind one protocol, and the grammar by which the language model calls them."""
