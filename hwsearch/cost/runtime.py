"""What a runtime changes: the kernels around a layer's GEMMs, their bytes, and who waits for the host.

- eager: PyTorch under autocast, as nearly every public eager table is: weights and the stream of hidden
  states stay in fp32, norms read and write fp32, and a kernel casts each norm's output and, every time,
  each weight matrix. Attention is one fused kernel, as PyTorch chooses it since 2.0.
- graph: eager replayed from a CUDA graph, its weights cast beforehand.
- compile: autocast through inductor, which joins neighbouring kernels: residual add, norm and cast are one.
- tensorrt: engines such as TensorRT or AITemplate. Everything is 16 bit, residual and norm are one kernel
  and a plain activation is part of the GEMM before it. Fused attention is the engines' own until Hopper.

In fp32 and tf32 nothing is cast, and attention is two batched products with passes over the scores between
them. So it is in engines on GPUs older than compute capability 7.5, for which they have no fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import RuntimeName


@dataclass(frozen=True)
class Kernels:
    """What stands between the GEMMs of a layer. Every number is one kernel and says how many
    elements, of the size of the run's dtype, it reads and writes for each element of its tensor.

    Attributes:
        residual: of a residual add, on the hidden state.
        norm: of a norm, with the residual add and the cast where they are one kernel.
        pre_norm: the same in a pre-norm encoder, where a joint kernel also writes the sum that it normalizes.
        cast: of a cast of what a norm wrote.
        rotary: of the rotation composed of PyTorch operators, on queries and keys.
        gated: of the gated activation, on one GLU branch.
        plain: of an activation without a gate.
        scores: of unfused attention between its two products, on the scores.
        copies: the same around them, on queries, keys, values and the result, all four of one size.
        casts_weights: each weight matrix is read in fp32 and written in 16 bits before it is used.
        fused_attention: one kernel instead of products, scores and copies.
        attention_kernel: which, of hwsearch.gpu.attention_kernels.KERNELS; None is the GPU's best.
    """

    residual: tuple[float, ...]
    norm: float
    pre_norm: float
    cast: tuple[float, ...]
    rotary: tuple[float, ...]
    gated: tuple[float, ...]
    plain: tuple[float, ...]
    scores: tuple[float, ...]
    copies: tuple[float, ...]
    casts_weights: bool = False
    fused_attention: bool = True
    attention_kernel: str | None = None


@dataclass(frozen=True)
class Runtime:
    """One way to run an encoder.

    Attributes:
        half, full: its kernels for 16 and for 32 bits an element.
        fused_from: the compute capability from which 16-bit attention is one kernel.
        host_s_per_kernel: time the CPU needs to launch one kernel; where the sum over kernels
            exceeds the GPU's work, the GPU waits. 0 where a graph or an engine replays them.
        end_to_end_error_percent: median absolute error on public end-to-end cells, results/encoders.txt.
    """

    half: Kernels
    full: Kernels
    fused_from: tuple[int, int]
    host_s_per_kernel: float
    end_to_end_error_percent: float

    def kernels(self, gpu: Gpu, dtype: str) -> Kernels:
        """What this runtime runs on `gpu`."""
        if BYTES_PER_ELEMENT[dtype] > 2:
            return replace(self.full, fused_attention=False, attention_kernel=None)
        fused = gpu.compute_capability >= self.fused_from
        # Where the engine has none, an encoder that unpads still brings a kernel of its own.
        kernel = self.half.attention_kernel if fused and gpu.compute_capability < HOPPER else None
        return replace(self.half, fused_attention=fused, attention_kernel=kernel)


EAGER_FULL = Kernels(
    residual=(3,),
    norm=2,
    pre_norm=2,
    cast=(),
    # Products with the cosine and, of the rotated half (negate, join), with the sine; their sum.
    rotary=(3, 1, 2, 3, 3),
    gated=(2, 3),
    plain=(2,),
    scores=(2, 2, 2),  # scale, mask, softmax
    copies=(2, 2, 2, 2),
)
# Norms, sums, rotation and softmax are fp32, and what enters a product is cast to 16 bits.
AUTOCAST = replace(
    EAGER_FULL,
    residual=(5,),
    norm=4,
    pre_norm=4,
    cast=(3,),
    rotary=(4, 1, 2, 4, 6, 3),
    scores=(2, 3, 4, 3),
)
FUSED_FULL = Kernels(
    residual=(),
    norm=3,
    pre_norm=4,
    cast=(),
    rotary=(2,),
    gated=(3,),
    plain=(2,),
    scores=(2,),
    copies=(6, 2),
)
FUSED_AUTOCAST = replace(FUSED_FULL, norm=6, pre_norm=6, casts_weights=True)
ENGINE = replace(FUSED_FULL, plain=(), attention_kernel="engine")

ANY, TURING, HOPPER = (0, 0), (7, 5), (9, 0)
RUNTIMES: dict[RuntimeName, Runtime] = {
    "eager": Runtime(replace(AUTOCAST, casts_weights=True), EAGER_FULL, ANY, 42e-6, 12.3),
    "graph": Runtime(AUTOCAST, EAGER_FULL, ANY, 0.0, 32.2),
    "compile": Runtime(FUSED_AUTOCAST, FUSED_FULL, ANY, 14e-6, 3.5),
    "tensorrt": Runtime(ENGINE, ENGINE, TURING, 0.0, 8.8),
}
# From the end of one kernel to the start of the next, which needs its results: launch-bound cells that are
# replayed from a CUDA graph take longer than the sum of their kernels. benchmarks/encoders.py prints it.
GAP_S_PER_KERNEL = 1.5e-6
