"""Attention kernels on packed sequences. Imports torch only."""

from hwsearch.kernels.attention import varlen_attention

__all__ = ["varlen_attention"]
