"""torch.compile of an encoder."""

from __future__ import annotations

import torch._dynamo.config
from torch import nn


def compile_for_all_sizes(module: nn.Module) -> None:
    """Have `module` compiled at its first call, in place, once for batches of any sizes."""
    # Else each norm's eps is taken for a variable: the whole model is traced, and once more since it is none.
    torch._dynamo.config.specialize_float = True
    module.compile(dynamic=True)
