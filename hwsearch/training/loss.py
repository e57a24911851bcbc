"""The masked-LM loss of a packed row, as a module, so that DDP, FSDP2 and torch.compile see all of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.kernels.loss import linear_cross_entropy
from hwsearch.model import MaskedLanguageModel
from hwsearch.training.masking import MaskedRow
from hwsearch.training.packing import Row

# What a process without a row of its own runs, since the others wait for it: two tokens, weighted by 0.
IDLE_ROW = MaskedRow(
    Row(np.zeros(2, np.int64), np.array([0, 2], np.int32)), np.zeros(1, np.int64), np.zeros(1, np.int64)
)


class MaskedLoss(nn.Module):
    """Cross-entropy in nats, summed over the hidden tokens of a row; no [P, V] logits are kept.

    On a GPU matrix products run in bf16, on the CPU everything is float32.
    """

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, positions_P: Tensor, targets_P: Tensor
    ) -> Tensor:
        device = tokens_T.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            head_PC = self.model.head_states(tokens_T, cu_seqlens, max_seqlen, positions_P)
            decoder = self.model.decoder
            loss: Tensor = linear_cross_entropy(
                head_PC, decoder.weight, targets_P, decoder.bias, reduction="sum"
            )
            return loss


def inputs(hidden: MaskedRow, device: torch.device) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
    """The arguments of `MaskedLoss.forward`, on `device`."""
    tokens, offsets, positions, targets = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (hidden.row.tokens, hidden.row.cu_seqlens, hidden.positions, hidden.targets)
    )
    return tokens, offsets, hidden.row.max_seqlen, positions, targets
