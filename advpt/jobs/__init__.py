"""Plans of runs, and who executes them."""
