"""Finds the fastest settings of a kernel: a list of feasible configurations, an optimizer, recorded devices."""
