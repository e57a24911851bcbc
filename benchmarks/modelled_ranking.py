"""How good is the order of configurations that the pipeline model gives?

    python benchmarks/modelled_ranking.py [--workers 1]

Writes results/modelled_ranking.md:

1. of every table in profiles/tuned (and the user's own) with a measured and a modelled row of one key, how
   much slower the model's first choice is than the fastest, and how many of its first have to be measured to
   be within 2 % of that;
2. what the model makes of tiles that others chose by hand for kernels of this kind: our kernels compiled with
   them, placed among all that was compiled for that GPU;
3. published differences between two tiles, and published rates, against the model's.

No GPU is needed; triton is. Compiled code is kept as benchmarks/model_tables.py keeps it.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path

import numpy as np

from hwsearch.cost.attention_pipeline import Calls, kernel_time
from hwsearch.files import write_whole
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.kernels.tuned import cache_folder, folders, read_table
from hwsearch.tuning.compiled_codes import CodeFile, Job, compile_jobs
from hwsearch.tuning.modelled import runnable_code
from hwsearch.tuning.ranking import compared

REPORT = Path(__file__).parents[1] / "results" / "modelled_ranking.md"
LENGTH, SEQUENCES, HEADS = 8192, 4, 12

# FlexAttention's own choices: torch/_inductor/template_heuristics/triton.py, 2.13 (bf16). Backward: its (M1,
# N1, M2, N2) are dK/dV of N1 keys by M1 queries and dQ of M2 queries by N2 keys.
FLEX = "FlexAttention"
FIELD = (
    ("a100-sxm-80", "forward", 64, Tile(128, 64, 4, 3), FLEX),
    ("h100-sxm", "forward", 64, Tile(128, 128, 4, 3), FLEX),
    ("b200", "forward", 64, Tile(128, 128, 4, 3), FLEX),
    ("rtx5090", "forward", 64, Tile(128, 64, 4, 2), FLEX),
    ("a100-sxm-80", "dq", 64, Tile(64, 64, 4, 2), FLEX),
    ("a100-sxm-80", "dkdv", 64, Tile(64, 64, 4, 2), FLEX),
    ("h100-sxm", "dq", 64, Tile(128, 64, 8, 3), FLEX),
    ("h100-sxm", "dkdv", 64, Tile(128, 64, 8, 3), FLEX),
    # Tiles of FlashAttention-2, csrc/flash_attn/src/flash_fwd_launch_template.h: best of four, in CUDA.
    ("a100-sxm-80", "forward", 64, Tile(128, 128, 4, 2), "FlashAttention-2"),
)
# The second is slower by so much: the same file's comments, A100.
PAIRS = (
    ("a100-sxm-80", 64, Tile(128, 128, 4, 2), Tile(128, 128, 8, 2), 18.0, "FlashAttention-2, head size 64"),
    ("a100-sxm-80", 128, Tile(128, 64, 4, 2), Tile(128, 64, 8, 2), 28.0, "FlashAttention-2, head size 128"),
)
# TFLOP/s of Triton's tutorial kernel, forward, no mask, head size 64. H100: FlashAttention-3's chart, bf16,
# 8k. A100: triton-lang.org, 06-fused-attention, fp16, 4k.
RATES = (("h100-sxm", 401.0, "arXiv 2407.08608, figure 5"), ("a100-sxm-80", 163.0, "triton-lang.org, 06"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=cache_folder() / "tuning" / "compiled")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args()
    codes = CodeFile(options.cache / "attention.jsonl")
    jobs = [_job(load_gpu(name), kernel, size, tile) for name, kernel, size, tile, _ in FIELD]
    for name, size, a, b, *_ in PAIRS:
        jobs += [_job(load_gpu(name), "forward", size, tile) for tile in (a, b)]
    if options.compile:
        compile_jobs(jobs, codes, options.workers, lambda job, code: print(job, code.get("error", "")))
    text = "\n".join([*_head(), *_tables(), *_field(codes), *_pairs(codes), *_rates(codes), ""])
    write_whole(options.out, text)
    print(text)


def _head() -> list[str]:
    return [
        "# How good the modelled order is",
        "",
        "Written by `python benchmarks/modelled_ranking.py`. Unless a line says measured, it is modelled or",
        "published. What a customer of the model is, four warps and not a block, was decided with the",
        "published rates and differences below in view: these two are no test of it; the tiles",
        f"chosen by hand are. {SEQUENCES} sequences of {LENGTH}, {HEADS} heads.",
    ]


def _tables() -> list[str]:
    lines = ["", "## Measured against modelled", ""]
    found = []
    for path in (path for folder in folders() for path in sorted(folder.glob("*/attention_*ward.json"))):
        table = read_table(path)
        for key, ranking in compared(table).items():
            row = f"| {table.gpu} | {table.kernel} | {key} | {ranking.configurations} "
            found.append((ranking, row + f"| {ranking.top_loss_percent:.1f} | {ranking.needed or 'none'} |"))
    if not found:
        return [*lines, "No table holds a measured and a modelled row of one key yet."]
    losses = [ranking.top_loss_percent for ranking, _ in found]
    lines += [
        f"Over {len(found)} keys the model's first is {statistics.mean(losses):.1f} % slower on average."
    ]
    lines += [
        "",
        "| GPU | kernel | key | both list | loss of the first, % | to measure |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [row for _, row in found]


def _field(codes: CodeFile) -> list[str]:
    lines = ["", "## Tiles that others chose by hand, in our kernels", ""]
    lines += [
        "| GPU | kernel | tile | chosen by | modelled time over the model's best | rank | spills, bytes |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    ratios = []
    for name, kernel, size, tile, who in FIELD:
        gpu = load_gpu(name)
        job = _job(gpu, kernel, size, tile)
        times = _times(codes, gpu, kernel, size)
        shown = f"| {name} | {kernel} | {_tile(tile)} | {who} "
        if not times or "error" in codes.found.get(job, {"error": "not compiled"}):
            lines.append(f"{shown}| {codes.found.get(job, {}).get('error', 'not compiled')} | | |")
            continue
        own = _seconds(codes, gpu, job, spilling=True)
        rank = 1 + sum(other < own for other in times)
        ratios.append(own / min(times))
        spills = codes.found[job]["stack_bytes"]
        lines.append(f"{shown}| {ratios[-1]:.2f} | {rank} of {len(times)} | {spills} |")
    if ratios:
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        lines += ["", f"Geometric mean {mean:.2f} over n = {len(ratios)}; 1 would be the model's own choice."]
        lines += ["A tile that spills is never chosen here, however the model would rank it."]
    return lines


def _pairs(codes: CodeFile) -> list[str]:
    lines = ["", "## Published differences", ""]
    lines += [
        "| GPU | fast | slow | published, % | modelled, % | source | spills, bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, size, fast, slow, percent, source in PAIRS:
        gpu = load_gpu(name)
        jobs = [_job(gpu, "forward", size, tile) for tile in (fast, slow)]
        if any("error" in codes.found.get(job, {"error": ""}) for job in jobs):
            continue
        a, b = (_seconds(codes, gpu, job, spilling=True) for job in jobs)
        spills = " and ".join(str(codes.found[job]["stack_bytes"]) for job in jobs)
        shown = f"| {name} | {_tile(fast)} | {_tile(slow)} | -{percent:.0f} "
        lines.append(f"{shown}| {100 * (a / b - 1):+.0f} | {source} | {spills} |")
    return lines


def _rates(codes: CodeFile) -> list[str]:
    lines = [
        "",
        "## Published rates",
        "",
        "| GPU | published, TFLOP/s | modelled best | % | source |",
        "|---|---|---|---|---|",
    ]
    for name, published, source in RATES:
        gpu = load_gpu(name)
        times = _times(codes, gpu, "forward", 64)
        if times:
            rate = 4 * LENGTH**2 * 64 * SEQUENCES * HEADS / min(times) / 1e12
            lines.append(
                f"| {name} | {published:.0f} | {rate:.0f} | {100 * (rate / published - 1):+.0f} | {source} |"
            )
    return lines


def _times(codes: CodeFile, gpu: Gpu, kernel: str, size: int) -> list[float]:
    """Of all that was compiled for this GPU's capability, runs and spills nothing; no rotation counted."""
    wanted = [
        job
        for job in codes.found
        if (job.capability, job.kernel, job.head_size) == (gpu.compute_capability, kernel, size)
        and not job.local and job.rope == "scratch" and job.dtype == "bf16"
    ]  # fmt: skip
    times = [_seconds(codes, gpu, job, spilling=False) for job in wanted]
    return [seconds for seconds in times if np.isfinite(seconds)]


def _seconds(codes: CodeFile, gpu: Gpu, job: Job, spilling: bool) -> float:
    code = runnable_code(codes, job, spilling=spilling)
    calls = Calls(np.array([LENGTH]), np.array([SEQUENCES]), -1, HEADS)
    return math.inf if code is None else kernel_time(gpu, "bf16", code, calls).seconds


def _job(gpu: Gpu, kernel: str, size: int, tile: Tile) -> Job:
    split = Tile(tile.rows, tile.columns, tile.warps, tile.stages, split=True)
    return Job(gpu.compute_capability, kernel, "bf16", size, split, False, "scratch")


def _tile(tile: Tile) -> str:
    return f"{tile.rows}x{tile.columns}, {tile.warps} warps, {tile.stages} stages"


if __name__ == "__main__":
    main()
