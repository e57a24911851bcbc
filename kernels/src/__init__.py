"""Attention kernels on packed sequences. Imports torch only."""

from .attention import varlen_attention

__all__ = ["varlen_attention"]
