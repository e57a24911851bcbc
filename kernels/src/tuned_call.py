"""What a call of the kernels would find in the tuned tables."""

from __future__ import annotations

import torch

from .arguments import DTYPES
from .cpu_name import cpu_name
from .tuned import DEFAULT, KERNELS, Found, Key, length_class, tuned, window_class


def tuned_state(
    kernel: str,
    max_seqlen: int,
    dtype: torch.dtype = torch.bfloat16,
    head_size: int = 64,
    window: int | None = None,
    causal: bool = False,
    device: torch.device | str | int | None = None,
) -> Found:
    """What a call of `varlen_attention` finds for `kernel`, and so what it runs with.

        found = tuned_state("attention_forward", max_seqlen=512, window=64)
        found.state, found.row and found.row.config

    Args:
        kernel: "attention_forward" or "attention_backward", whose rows hold the tiles of the triton backend;
            "attention_backend" or "attention_backend_training", which backend serves a call without
            gradients, or with them.
        max_seqlen, window, causal: as in the call.
        device: of the tensors; by default the current GPU, or the CPU where there is none.

    Returns:
        `hwsearch.kernels.tuned.Found`: `state` is "exact", "same GPU", "same family", "compiled only" or
        "default"; `row` and `gpu` say what was found and for which GPU profile, None for "default".
        Causal calls are not tuned: always "default".

    Raises ValueError for another kernel or dtype.
    """
    for name, value, accepted in (("kernel", kernel, KERNELS), ("dtype", dtype, DTYPES)):
        if value not in accepted:
            raise ValueError(f"{name}: {value!r}; accepted: {', '.join(map(str, accepted))}")
    if causal:
        return DEFAULT
    key = Key(DTYPES[dtype], head_size, window_class(window, max_seqlen), length_class(max_seqlen))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return tuned_on(torch.device(device), kernel, key)


def tuned_on(device: torch.device, kernel: str, key: Key) -> Found:
    """What the tables hold for `key` on `device`."""
    match device.type:
        case "cuda":
            name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
            return tuned(kernel, name, capability, key)
        case "cpu":
            return tuned(kernel, cpu_name(), None, key)
    return DEFAULT
