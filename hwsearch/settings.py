"""How an encoder is run: dtype, inference or training, runtime, head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

Mode = Literal["inference", "training"]
RuntimeName = Literal["eager", "graph", "compile", "tensorrt"]
Head = Literal["none", "mlm"]
# flash: scores never leave the chip; math: score matrices are stored.
AttentionName = Literal["flash", "math"]
# library: the best kernel of public libraries, as predicted; tuned: what hwsearch's own encoder runs, where a
# tuned table knows its time.
AttentionTimes = Literal["tuned", "library"]

# ModernBERT masks 30 % of the tokens in training, and only those pass through its head.
MASKED_SHARE = 0.3


@dataclass(frozen=True)
class Settings:
    """What the same shape and workload can be run with.

    Attributes:
        dtype: of weights and products; None is the GPU's default.
        recompute: training keeps each layer's input alone and runs the layer again for its backward pass.
        attention: how the scores are kept; None is what the runtime does with them on the GPU. Relative
            positions always store them.
        attention_times: whose kernel is priced. Published timings are of libraries, so that is the default.
        unpads: whether padding is left out; None is what the encoder's own code does.
        attention_dtype: q, k and v are cast to it around the attention; None means `dtype`.
    """

    mode: Mode = "inference"
    runtime: RuntimeName = "graph"
    head: Head = "none"
    dtype: str | None = None
    recompute: bool = False
    attention: AttentionName | None = None
    attention_dtype: str | None = None
    unpads: bool | None = None
    attention_times: AttentionTimes = "library"

    def __post_init__(self) -> None:
        for name, accepted in (
            ("mode", get_args(Mode)),
            ("runtime", get_args(RuntimeName)),
            ("head", get_args(Head)),
            ("attention_times", get_args(AttentionTimes)),
            ("dtype", (None, *BYTES_PER_ELEMENT)),
        ):
            if (value := getattr(self, name)) not in accepted:
                listed = ", ".join(each for each in accepted if each)
                raise HwsearchError(f"{name}: {value!r} is unknown; accepted: {listed}")
        if self.recompute and not self.training:
            raise HwsearchError("recomputation is for training; inference keeps nothing to recompute")

    @property
    def training(self) -> bool:
        return self.mode == "training"

    def dtype_on(self, gpu: Gpu) -> str:
        return self.dtype or gpu.default_dtype

    def attention_cast_bytes(self, dtype: str) -> float:
        """Size of the attention's elements over that of `dtype`; 0 where nothing is cast."""
        if self.attention_dtype in (None, dtype):
            return 0.0
        return BYTES_PER_ELEMENT[self.attention_dtype] / BYTES_PER_ELEMENT[dtype]

    def head_tokens(self, tokens: int) -> int:
        """Positions that go through the masked-LM head."""
        if self.head == "none":
            return 0
        return max(1, round(MASKED_SHARE * tokens)) if self.training else tokens
