"""torch.compile of an encoder."""

from __future__ import annotations

import torch._dynamo.config
from torch import nn

# Pieces of code that torch makes of one function, of which eight by default. The layers share theirs, where a
# CPU's attention divides the model, and sizes that happen to be equal have code of their own. Beyond, torch
# would run it eagerly, and say so nowhere but in a log.
MOST_PIECES = 64


def compile_for_all_sizes(module: nn.Module) -> None:
    """Have `module` compiled at its first call, in place, once for batches of any sizes."""
    # Else each norm's eps is taken for a variable: the whole model is traced, and once more since it is none.
    torch._dynamo.config.specialize_float = True
    torch._dynamo.config.recompile_limit = MOST_PIECES
    module.compile(dynamic=True)
