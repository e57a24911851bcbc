"""Finds the fastest settings of a kernel among its enumerated feasible configurations."""
