"""Regression that the search over shapes and the tuning of kernels share."""
