"""Search spaces: the file, its grid, the constraints that are known beforehand."""
