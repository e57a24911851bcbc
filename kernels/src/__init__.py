"""Attention kernels on packed sequences. Imports torch, and triton where it is used."""

from .attention import varlen_attention, varlen_attention_qkvpacked
from .schedule import attention_schedule

__all__ = ["attention_schedule", "varlen_attention", "varlen_attention_qkvpacked"]
