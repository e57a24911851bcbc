"""How an encoder is run: dtype, inference or training, runtime, head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsearch.gpu.profile import Gpu

Mode = Literal["inference", "training"]
RuntimeName = Literal["eager", "graph", "compile", "tensorrt"]
Head = Literal["none", "mlm"]

# ModernBERT masks 30 % of the tokens in training, and only those pass through its head.
MASKED_SHARE = 0.3


@dataclass(frozen=True)
class Settings:
    """What the same shape and workload can be run with; `dtype` None is the GPU's default."""

    mode: Mode = "inference"
    runtime: RuntimeName = "graph"
    head: Head = "none"
    dtype: str | None = None

    @property
    def training(self) -> bool:
        return self.mode == "training"

    def dtype_on(self, gpu: Gpu) -> str:
        return self.dtype or gpu.default_dtype

    def head_tokens(self, tokens: int) -> int:
        """Positions that go through the masked-LM head."""
        if self.head == "none":
            return 0
        return max(1, round(MASKED_SHARE * tokens)) if self.training else tokens
