"""How many threads the C++ kernels take."""

from __future__ import annotations

import os
from functools import cache

import torch


def threads() -> int:
    """As many as torch; one in a process forked from a user of more, which have not come along."""
    return torch.get_num_threads() if _first_user() == os.getpid() else 1


@cache
def _first_user() -> int:
    return os.getpid()
