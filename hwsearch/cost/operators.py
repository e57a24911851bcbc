"""The operators of an operator table: which columns each needs, and how a column of them is priced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwsearch.cost.attention import seconds_of_tiles, visited_tiles
from hwsearch.cost.distinct import Seconds, distinct
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.calibration import Evidence
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.shape.table import Column
from hwsearch.workload import MAX_LENGTH, MAX_SEQUENCES

LARGEST = 2**31 - 1
ATTENTION_KERNELS = ("fa2", "fa3", "fa4", "triton", "efficient", "math")
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
        evidence: where the constants behind it come from.
    """

    columns: dict[str, int]
    seconds: Callable[[Gpu, str, Sizes, Variant], Seconds]
    evidence: Callable[[Gpu, str], Evidence]


def attention_rows_seconds(
    gpu: Gpu,
    dtype: str,
    batch_size: Column,
    seq_len: Column,
    num_heads: Column,
    head_dim: Column,
    window: Column,
    causal: bool = False,
    kernel: str | None = None,
) -> Seconds:
    """Attention of rows that each have `batch_size` sequences of `seq_len`; a negative window sees all."""
    constants = gpu.calibration.attention[dtype]
    of_length = distinct(seq_len=seq_len, window=window)
    one = np.ones(1, dtype=np.int64)
    tiles = np.array(
        [
            visited_tiles(constants.query_tile, constants.key_tile, one * s, one, int(w), causal)
            for s, w in zip(of_length["seq_len"].tolist(), of_length["window"].tolist(), strict=True)
        ],
        dtype=np.float64,
    )[of_length.index]
    moved = np.asarray(BYTES_PER_ELEMENT[dtype] * 4.0 * batch_size * seq_len * num_heads * head_dim)
    blocks, visited = batch_size * tiles[:, 0], batch_size * tiles[:, 1]
    return seconds_of_tiles(gpu, dtype, constants, blocks, visited, tiles[:, 2], num_heads, head_dim, moved)


def _attention(gpu: Gpu, dtype: str, sizes: Sizes, variant: Variant) -> Seconds:
    return attention_rows_seconds(
        gpu,
        dtype,
        sizes["batch_size"],
        sizes["seq_len"],
        sizes["num_heads"],
        sizes["head_dim"],
        window=sizes["window"],
        causal=variant.causal,
        kernel=variant.kernel or None,
    )


def _gemm(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
    return gemm_seconds(gpu, dtype, sizes["m"], sizes["n"], sizes["k"])


def _bmm(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
    return gemm_seconds(gpu, dtype, sizes["b"] * sizes["m"], sizes["n"], sizes["k"])


def _stream(passes: int, norm: bool) -> Callable[[Gpu, str, Sizes, Variant], Seconds]:
    def seconds(gpu: Gpu, dtype: str, sizes: Sizes, _: Variant) -> Seconds:
        elements = sizes["rows"].astype(np.float64) * sizes["cols"]
        return stream_seconds(gpu, passes * BYTES_PER_ELEMENT[dtype] * elements, norm)

    return seconds


def _of_gemm(gpu: Gpu, dtype: str) -> Evidence:
    return gpu.calibration.gemm[dtype].evidence


def _of_attention(gpu: Gpu, dtype: str) -> Evidence:
    return gpu.calibration.attention[dtype].evidence


def _of_stream(gpu: Gpu, dtype: str) -> Evidence:
    return gpu.calibration.stream.evidence


_MATRICES = {"m": LARGEST, "n": LARGEST, "k": LARGEST}
_ROWS = {"rows": LARGEST, "cols": LARGEST}
_SEQUENCES = {"batch_size": MAX_SEQUENCES, "seq_len": MAX_LENGTH, "num_heads": 1 << 20, "head_dim": 1 << 16}

OPERATORS = {
    "gemm": Operator(_MATRICES, _gemm, _of_gemm),
    "bmm": Operator({"b": LARGEST, **_MATRICES}, _bmm, _of_gemm),
    "attention": Operator(_SEQUENCES, _attention, _of_attention),
    "layernorm": Operator(_ROWS, _stream(2, norm=True), _of_stream),
    "softmax": Operator(_ROWS, _stream(2, norm=True), _of_stream),
    "gelu": Operator(_ROWS, _stream(2, norm=False), _of_stream),
    "add": Operator(_ROWS, _stream(3, norm=False), _of_stream),
}
