"""What a runtime changes: the kernels around a layer's GEMMs, the bytes they move, and who waits for the host.

- eager: PyTorch under autocast, as nearly every public eager table is: weights and the stream of hidden
  states stay in fp32, norms read and write fp32, and a kernel casts each norm's output and, every time,
  each weight matrix.
- graph: eager replayed from a CUDA graph, its weights cast beforehand.
- compile: autocast through inductor, which joins neighbouring kernels: residual add, norm and cast are one.
- tensorrt: engines such as TensorRT or AITemplate. Everything is 16 bit, residual and norm are one kernel
  and a plain activation is part of the GEMM before it.

In fp32 and tf32 nothing is cast. Attention is one fused kernel where the GPU has one for 16 bits: PyTorch's
from compute capability 8.0 on, the engines' own from 7.5 on. Elsewhere (V100, T4 in PyTorch, fp32) it is two
batched products with passes over the scores between them, which is what the public tables of those GPUs ran.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import RuntimeName


@dataclass(frozen=True)
class Kernels:
    """What stands between the GEMMs of a layer. Every entry of a tuple is one kernel and says how many
    elements, of the size of the run's dtype, it reads and writes for each element of its tensor.

    Attributes:
        residual: of a residual add, on the hidden state.
        norm: of a norm, with the residual add and the cast where they are one kernel.
        gated: of the gated activation, on one GLU branch.
        plain: of an activation without a gate.
        scores: of unfused attention between its two products, on the scores.
        copies: the same around them, on queries, keys, values and the result, all four of one size.
        casts_weights: each weight matrix is read in fp32 and written in 16 bits before it is used.
        fused_attention: one kernel instead of products, scores and copies.
    """

    residual: tuple[float, ...]
    norm: tuple[float, ...]
    gated: tuple[float, ...]
    plain: tuple[float, ...]
    scores: tuple[float, ...]
    copies: tuple[float, ...]
    casts_weights: bool = False
    fused_attention: bool = True


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
            return replace(self.full, fused_attention=False)
        return replace(self.half, fused_attention=gpu.compute_capability >= self.fused_from)


# Scores: scale, mask, softmax (autocast: mask and softmax in fp32, then a cast back to 16 bits). Copies: queries,
# keys and values per head and the result back; compiled and in engines the first three are one kernel.
EAGER_FULL = Kernels((3,), (2,), (2, 3), (2,), scores=(2, 2, 2), copies=(2, 2, 2, 2))
AUTOCAST = Kernels((5,), (4, 3), (2, 3), (2,), scores=(2, 3, 4, 3), copies=(2, 2, 2, 2))
FUSED_FULL = Kernels((), (4,), (3,), (2,), scores=(2,), copies=(6, 2))
FUSED_AUTOCAST = Kernels((), (6,), (3,), (2,), scores=(2,), copies=(6, 2), casts_weights=True)
ENGINE = replace(FUSED_FULL, plain=())

TORCH_FLASH, ENGINE_FUSED = (8, 0), (7, 5)
RUNTIMES: dict[RuntimeName, Runtime] = {
    "eager": Runtime(replace(AUTOCAST, casts_weights=True), EAGER_FULL, TORCH_FLASH, 35e-6, 30.7),
    "graph": Runtime(AUTOCAST, EAGER_FULL, TORCH_FLASH, 0.0, 36.5),
    "compile": Runtime(FUSED_AUTOCAST, FUSED_FULL, TORCH_FLASH, 20e-6, 23.7),
    "tensorrt": Runtime(ENGINE, ENGINE, ENGINE_FUSED, 0.0, 16.1),
}
