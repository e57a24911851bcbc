"""The operators of an operator table: which columns each needs, and how a column of them is priced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwsearch.cost.attention import attention_rows_seconds
from hwsearch.cost.distinct import Seconds
from hwsearch.cost.gemm import bmm_seconds, gemm_seconds
from hwsearch.cost.stream import StreamKernel, stream_seconds
from hwsearch.gpu.attention_constants import attention_constants
from hwsearch.gpu.attention_kernels import choose_kernel
from hwsearch.gpu.calibration import Evidence
from hwsearch.gpu.profile import Gpu
from hwsearch.shape.table import Column
from hwsearch.workload import MAX_LENGTH, MAX_SEQUENCES

LARGEST = 2**31 - 1
Sizes = Mapping[str, Column]


@dataclass(frozen=True)
class Variant:
    """What rows that are priced together have in common; the kernel "" is the GPU's best flash kernel."""

    causal: bool = False
    kernel: str = ""


@dataclass(frozen=True)
class Operator:
    """One value of the column `op`.

    Attributes:
        columns: the sizes that a row must give, each with the largest value accepted.
        seconds: GPU, dtype, sizes [N] and variant to seconds [N], without the host's launch.
        evidence: where the constants behind it come from, and how far they were off.
    """

    columns: dict[str, int]
    seconds: Callable[[Gpu, str, Sizes, Variant], Seconds]
    evidence: Callable[[Gpu, str, Variant], Evidence]


def _attention(gpu: Gpu, dtype: str, sizes: Sizes, variant: Variant) -> Seconds:
    # Public timings of causal attention are those of prefill in serving engines, which fill a cache as well.
    return attention_rows_seconds(
        gpu,
        dtype,
        sizes["batch_size"],
        sizes["seq_len"],
        sizes["num_heads"],
        sizes["head_dim"],
        sizes["window"],
        causal=variant.causal,
        kernel=variant.kernel or None,
        prefill=variant.causal & (sizes["window"] < 0),
    )


def _gemm(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
    return gemm_seconds(gpu, dtype, sizes["m"], sizes["n"], sizes["k"], in_a_loop=True)


def _bmm(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
    return bmm_seconds(gpu, dtype, sizes["b"], sizes["m"], sizes["n"], sizes["k"], in_a_loop=True)


def _stream(kernel: StreamKernel, passes: int = 2) -> Callable[[Gpu, str, Sizes, Variant], Seconds]:
    def seconds(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
        return stream_seconds(gpu, dtype, sizes["rows"], sizes["cols"], kernel, passes)

    return seconds


def _of_gemm(gpu: Gpu, dtype: str, _: Variant) -> Evidence:
    return gpu.calibration.gemm[dtype].evidence


def _of_attention(gpu: Gpu, dtype: str, variant: Variant) -> Evidence:
    kernel = choose_kernel(gpu, dtype, variant.kernel or None)
    if kernel == "math":
        return gpu.calibration.gemm[dtype].evidence
    return attention_constants(gpu, dtype, kernel).evidence


def _of_stream(gpu: Gpu, dtype: str, _: Variant) -> Evidence:
    return gpu.calibration.stream.evidence


_MATRICES = {"m": LARGEST, "n": LARGEST, "k": LARGEST}
_ROWS = {"rows": LARGEST, "cols": LARGEST}
_SEQUENCES = {"batch_size": MAX_SEQUENCES, "seq_len": MAX_LENGTH, "num_heads": 1 << 20, "head_dim": 1 << 16}

OPERATORS = {
    "gemm": Operator(_MATRICES, _gemm, _of_gemm),
    "bmm": Operator({"b": LARGEST, **_MATRICES}, _bmm, _of_gemm),
    "attention": Operator(_SEQUENCES, _attention, _of_attention),
    "layernorm": Operator(_ROWS, _stream("layernorm"), _of_stream),
    "softmax": Operator(_ROWS, _stream("softmax"), _of_stream),
    "gelu": Operator(_ROWS, _stream("gelu"), _of_stream),
    "add": Operator(_ROWS, _stream("elementwise", 3), _of_stream),
}
