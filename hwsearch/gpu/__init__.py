"""What GPUs are: facts with their sources, fitted constants, and which one is at hand."""
