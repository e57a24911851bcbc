"""Attention kernels on packed sequences. Torch is imported on first use: `dispatch` answers without it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import varlen_attention, varlen_attention_qkvpacked
    from .schedule import attention_schedule
    from .tuned_call import tuned_state

__all__ = ["attention_schedule", "tuned_state", "varlen_attention", "varlen_attention_qkvpacked"]

_MODULES = {
    "attention_schedule": "schedule",
    "tuned_state": "tuned_call",
    "varlen_attention": "attention",
    "varlen_attention_qkvpacked": "attention",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value
