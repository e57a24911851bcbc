"""What the cost model and a bound from the hardware's rates expect of benchmarks/attention.py. No torch."""

from __future__ import annotations

import datetime
from collections import Counter
from functools import cache

import numpy as np
from attention_cases import LOCAL_WINDOW, WORKLOADS, Case

from hwsearch.cost.attention import BACKWARD_FACTOR, EXPONENTIALS_PER_CLOCK, attention_seconds
from hwsearch.cost.attention_tiles import visited_tiles
from hwsearch.gpu.attention_kernels import accepts
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

GPUS = ("h200-sxm", "h100-sxm", "a100-sxm-80", "l4", "rtx4090")
KERNELS = ("triton", "fa2", "fa3")
HEADS = 16
# Our tile of queries and keys for the bound; what the defaults are, the compile table says.
TILE = {None: (128, 64), LOCAL_WINDOW: (64, 64)}

# Forward without mask on an H100 SXM5, 16-bit, 16k tokens and hidden size 2048, TFLOP/s at PUBLISHED_LENGTHS:
# FlashAttention-3, arXiv 2407.08608, figure 5, read off the chart (to some 2 %).
PUBLISHED = {
    (64, "triton"): (340, 382, 396, 400, 401, 403),
    (64, "fa2"): (282, 306, 318, 321, 322, 324),
    (64, "fa3"): (333, 392, 460, 476, 496, 497),
    (128, "triton"): (323, 372, 389, 389, 392, 395),
    (128, "fa2"): (309, 350, 362, 368, 370, 370),
    (128, "fa3"): (467, 565, 625, 638, 646, 648),
}
PUBLISHED_LENGTHS, PUBLISHED_TOKENS, PUBLISHED_HIDDEN = (512, 1024, 2048, 4096, 8192, 16384), 16384, 2048

HEAD = """# Attention: predicted, unmeasured

{date}, written by `python benchmarks/attention.py --predict`. No GPU was at hand: **nothing on this page
was measured here**, and no figure counts for or against a target. What a GPU session runs instead is in
the docstring of benchmarks/attention.py.

Forward, one layer, bf16, {heads} heads, the batches of benchmarks/attention_cases.py (128k to 161k tokens).
`triton`, `fa2` and `fa3` are from hwsearch.cost.attention; TFLOP/s are of visible pairs only. To read
with care:

- The Triton constants were fitted to SGLang's kernels on one L40S (14.7 % median error on that card,
  results/fit_attention.md), not to ours, and are transferred to every other GPU, as is that kernel's
  tile. They know nothing of our work list, of masks left out of inner blocks, of rotation on load.
- FA2's constants are from L40S and A100, where it runs at the tensor cores' full rate. On Hopper it does
  not (it has no wgmma): against published figures the model is {fa2_off} too fast for FA2 there and
  Triton's ratio to it comes out too low, as the first table shows. **On h100-sxm and h200-sxm believe
  the published ratio, 1.20 to 1.25 for head size 64 and 1.05 for 128, before this model's.**
- The model has no grid: it does not charge FA2 for the empty blocks that a grid of sequences x longest
  sequence launches, which is what breaks on batches like `tiny`; there its ratio is too low.
- `floor` is no model: no forward kernel with score tiles of {global_tile} (global) or {local_tile} (local)
  can take less than the largest of three times, which `bound by` names. bandwidth: q, k, v, out and
  log-sum-exp once at the datasheet's bandwidth; products: those of all visited tiles at the datasheet's dense
  rate; exponentials: those of the same tiles at 16 per clock and multiprocessor at boost clock.
- Backward is {backward} x forward in the cost model, one number for all kernels (median over FA2 and FA3
  on an H100, hwsearch/cost/attention.py): it predicts no ratio between kernels, so there is no table.

`triton / fa2` is the ratio of TFLOP/s: above 1, the model expects Triton to be faster. To reach on an H200:
1.25 global from 2k on, 1.5 local, 2 for `tiny`, 1 for head size 128.
"""


def predicted() -> str:
    """results/attention_predicted.md."""
    text = HEAD.format(
        date=datetime.date.today(),
        heads=HEADS,
        backward=BACKWARD_FACTOR,
        global_tile="x".join(map(str, TILE[None])),
        local_tile="x".join(map(str, TILE[LOCAL_WINDOW])),
        fa2_off=_too_fast("fa2"),
    )
    return text + _against_published() + "\n".join(_of_gpu(load_gpu(name)) for name in GPUS)


def _published_model(head_size: int, kernel: str) -> list[float]:
    """The model's TFLOP/s for the published lengths."""
    gpu, heads = load_gpu("h100-sxm"), PUBLISHED_HIDDEN // head_size
    found = []
    for length in PUBLISHED_LENGTHS:
        count = PUBLISHED_TOKENS // length
        seconds = attention_seconds(gpu, "bf16", [length], [count], heads, head_size, kernel=kernel)
        found.append(4 * PUBLISHED_TOKENS * length * PUBLISHED_HIDDEN / float(seconds) / 1e12)
    return found


def _too_fast(kernel: str) -> str:
    ratios = [
        model / there
        for (size, of), published in PUBLISHED.items()
        if of == kernel
        for model, there in zip(_published_model(size, kernel), published, strict=True)
    ]
    return f"{100 * (min(ratios) - 1):.0f} to {100 * (max(ratios) - 1):.0f} %"


def _against_published() -> str:
    """The model on shapes whose speed FlashAttention-3's authors published."""
    header = ["head size", "kernel", *(f"{length}" for length in PUBLISHED_LENGTHS)]
    lines = ["\n## The model against published figures (H100 SXM, forward, TFLOP/s: model / published)\n"]
    lines += [_cells(header), _cells(["---"] * len(header))]
    for (size, kernel), published in PUBLISHED.items():
        model = _published_model(size, kernel)
        cells = [f"{found:.0f} / {there}" for found, there in zip(model, published, strict=True)]
        lines.append(_cells([str(size), kernel, *cells]))
    for size in (64, 128):
        pairs = zip(PUBLISHED[size, "triton"], PUBLISHED[size, "fa2"], strict=True)
        models = zip(_published_model(size, "triton"), _published_model(size, "fa2"), strict=True)
        cells = [f"{x / y:.2f} / {a / b:.2f}" for (x, y), (a, b) in zip(models, pairs, strict=True)]
        lines.append(_cells([str(size), "triton / fa2", *cells]))
    return "\n".join(lines) + "\n"


def _of_gpu(gpu: Gpu) -> str:
    kernels = [kernel for kernel in KERNELS if accepts(gpu, "bf16", kernel)]
    header = ["case", *(f"{k} ms" for k in kernels), *(f"{k} TFLOP/s" for k in kernels), "triton / fa2"]
    header += ["floor ms", "bound by", "triton of floor"]
    lines = [f"\n## {gpu.name}\n", _cells(header), _cells(["---"] * len(header))]
    for head_size in (64, 128):
        for window in (None, LOCAL_WINDOW):
            for workload in WORKLOADS:
                lines.append(_cells(_row(gpu, Case(workload, HEADS, head_size, window), kernels)))
    return "\n".join(lines) + "\n"


def _row(gpu: Gpu, case: Case, kernels: list[str]) -> list[str]:
    seconds = {kernel: _seconds(gpu, case, kernel) for kernel in kernels}
    flops = case.useful_flops("forward")
    floors = floor_seconds(gpu, case)
    bound, floor_s = max(floors.items(), key=lambda item: item[1])
    return [
        case.name,
        *(f"{seconds[k] * 1e3:.3f}" for k in kernels),
        *(f"{flops / seconds[k] / 1e12:.0f}" for k in kernels),
        f"{seconds['fa2'] / seconds['triton']:.2f}",
        f"{floor_s * 1e3:.3f}",
        bound,
        f"{100 * floor_s / seconds['triton']:.0f} %",
    ]


def _seconds(gpu: Gpu, case: Case, kernel: str) -> float:
    lengths, counts = _distinct(case.lengths)
    found = attention_seconds(
        gpu, "bf16", lengths, counts, case.heads, case.head_size, case.window, kernel=kernel
    )
    return float(found)


def floor_seconds(gpu: Gpu, case: Case) -> dict[str, float]:
    """By resource, the seconds below which our forward kernel cannot fall."""
    lengths, counts = _distinct(case.lengths)
    rows, columns = TILE[case.window]
    _, visited, _ = visited_tiles(rows, columns, lengths, counts, case.window or -1, False)
    pairs = float(visited) * rows * columns * case.heads
    moved = case.tokens * case.heads * (4 * 2 * case.head_size + 4)
    exponentials = EXPONENTIALS_PER_CLOCK * gpu.sms * gpu.boost_hz
    return {
        "bandwidth": moved / gpu.bandwidth_bytes_per_s,
        "products": 4 * pairs * case.head_size / gpu.dense_flops_per_s["bf16"],
        "exponentials": pairs / exponentials,
    }


@cache
def _distinct(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    counted = sorted(Counter(lengths).items())
    return np.array([length for length, _ in counted]), np.array([count for _, count in counted])


def _cells(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
