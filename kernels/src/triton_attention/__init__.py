"""Attention of packed sequences in Triton, forward and backward."""
