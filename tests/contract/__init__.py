"""What two parts agreed on: documents and the command line, layers, sizes, generated files."""
