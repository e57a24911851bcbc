"""The third rung: short training runs as a judge of shapes."""
