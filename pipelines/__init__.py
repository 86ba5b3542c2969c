"""KFP graphs and what runs, compiles and shows them; the work itself is in the library."""
