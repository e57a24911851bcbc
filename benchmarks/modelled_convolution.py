"""The generic part of the pipeline model against measured times: a kernel of others, brute-forced by others.

    pip install nvidia-cuda-nvrtc-cu12
    python benchmarks/modelled_convolution.py convolution_milo.cu A6000.json.gz [--sample 60]

The source is kernels/convolution_milo.cu of AutoTuningAssociation/benchmark_hub, the times are Kernel Tuner's
caches of it (its convolution_milo, RTX A6000 and A4000). A random sample of the recorded configurations is
compiled for sm_86 with NVRTC, read with `read_instructions`, and ranked by the queueing model, occupancy and
traffic of hwsearch/cost/attention_pipeline.py, whose constants are not touched. What attention has and this
kernel lacks is not tested here: tensor cores, exponentials, software pipelines. Bank conflicts, which this
kernel has, the model does not know.
"""

from __future__ import annotations

import argparse
import ctypes
import glob
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hwsearch.cost.attention_pipeline import (
    LATENCY_BARRIER,
    LATENCY_MEMORY,
    LATENCY_SHARED,
    OTHER_LANES,
    SCHEDULERS,
    SHARED_BYTES,
    response_cycles,
)
from hwsearch.files import write_whole
from hwsearch.kernels.triton_attention.instructions import WARP, Mix, read_instructions
from hwsearch.kernels.triton_attention.occupancy import blocks_per_sm
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.ranking import ranking

CAPABILITY, IMAGE, FILTER = (8, 6), 4096, 15
# Datasheets: SMs, memory bandwidth in bytes/s, boost clock in Hz.
CARDS = {"A6000": (84, 768e9, 1.80e9), "A4000": (48, 448e9, 1.56e9)}
FP32_LANES = 128
REPORT = Path(__file__).parents[1] / "results" / "modelled_convolution.md"
HEAD = (
    "# The generic part of the pipeline model against measured times",
    "",
    "Written by `python benchmarks/modelled_convolution.py`, which says what it does. Times: Kernel Tuner's",
    "caches of convolution_milo (AutoTuningAssociation/benchmark_hub), a random sample; the model saw none.",
    "",
)
# As C++ mangles convolution_kernel.
KERNEL = "_Z18convolution_kernelPfS_S_"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("recorded", type=Path, nargs="+")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args()
    lines = [
        "| GPU | configurations | agreement | loss of the first, % | to measure | by chance: loss | measure |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    codes: dict[tuple[int, ...], tuple[int, int, int, Mix | None]] = {}
    for path in options.recorded:
        card = path.name.split(".")[0]
        names, rows, times = _sample(path, options.sample, options.seed)
        modelled, measured = [], []
        for settings, time in zip(rows, times, strict=True):
            config = dict(zip(names, settings, strict=True))
            if settings not in codes:
                codes[settings] = _compiled(options.source.read_text(), config)
                print(len(codes), config, codes[settings][:3], file=sys.stderr, flush=True)
            seconds = _seconds(CARDS[card], config, *codes[settings])
            if math.isfinite(seconds):
                modelled.append(seconds)
                measured.append(time)
        found = ranking(modelled, measured)
        close = sum(time <= 1.02 * min(measured) for time in measured)
        chance = (len(measured) + 1) / (close + 1)
        middle = 100 * (float(np.mean(measured)) / min(measured) - 1)
        lines.append(
            f"| {card} | {found.configurations} | {found.agreement:.2f} | {found.top_loss_percent:.1f}"
            f" | {found.needed} | {middle:.0f} | {chance:.0f} |"
        )
    text = "\n".join([*HEAD, *lines, ""])
    write_whole(options.out, text)
    print(text)


def _sample(path: Path, count: int, seed: int) -> tuple[list[str], list[tuple[int, ...]], list[float]]:
    """The same configurations of every file: those that succeed, in the order of their settings."""
    recorded = read_recorded(path)
    space = recorded.space
    good = [
        i
        for i in range(len(space))
        # The source has no other way than through shared memory: the rest was recorded of an older one.
        if math.isfinite(recorded.times[i]) and space.configuration(i).get("use_shmem", 1) == 1
    ]
    rows = sorted((tuple(space.configuration(i).values()), float(recorded.times[i])) for i in good)
    chosen = np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False)
    return list(space.names), [rows[i][0] for i in chosen], [rows[i][1] for i in chosen]


def _compiled(source: str, config: dict[str, int]) -> tuple[int, int, int, Mix | None]:
    """(registers, stack bytes, shared bytes, instructions); registers 0 where it does not compile."""
    options = [f"-D{name}={value}" for name, value in config.items()]
    cubin = _nvrtc(source, [*options, "--gpu-architecture=sm_86", "-std=c++11"])
    if cubin is None:
        return 0, 0, 0, None
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        texts = [
            subprocess.run([tool, *option, file.name], capture_output=True, text=True, check=True).stdout
            for option in (["--dump-resource-usage"], ["-sass", "-fun", KERNEL])
        ]
    usage = re.search(rf"{KERNEL}:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", texts[0])
    assert usage is not None, texts[0]
    return int(usage[1]), int(usage[2]), int(usage[3]), read_instructions(texts[1]).straight


def _seconds(
    card: tuple[int, float, float],
    config: dict[str, int],
    registers: int,
    stack: int,
    shared: int,
    mix: Mix | None,
) -> float:
    if mix is None or stack:
        return math.inf
    sms, bandwidth, clock = card
    bx, by = config["block_size_x"], config["block_size_y"]
    tx, ty = config["tile_size_x"], config["tile_size_y"]
    warps = -(-bx * by // WARP)
    resident = blocks_per_sm(CAPABILITY, warps, registers, shared)
    if not resident:
        return math.inf
    # The loop that loads the tile and its border runs as often as it takes; the rest is unrolled.
    loaded = (by * ty + FILTER - 1) * (bx * tx + FILTER - 1)
    each = loaded / (bx * by)
    issued = (mix.issued + 8 * each) * warps
    lanes = max(mix.fma / FP32_LANES, mix.alu / OTHER_LANES) * WARP
    demands = (
        max(issued / SCHEDULERS, lanes * warps),
        (mix.shared_bytes * warps + 4 * loaded) / SHARED_BYTES,
    )
    waits = LATENCY_MEMORY * math.ceil(each / 4) + LATENCY_BARRIER + LATENCY_SHARED
    customers = warps / SCHEDULERS
    per_customer = tuple(demand / customers for demand in demands)

    def cycles(blocks: float) -> float:
        return response_cycles(per_customer, waits, max(1.0, blocks * customers))

    blocks = -(-IMAGE // (bx * tx)) * -(-IMAGE // (by * ty))
    waves = blocks / (sms * resident)
    left = blocks - int(waves) * sms * resident
    total = int(waves) * cycles(resident) + (cycles(math.ceil(left / sms)) if left else 0.0)
    return max(total / clock, 2 * 4 * IMAGE * IMAGE / bandwidth)


def _nvrtc(source: str, options: list[str]) -> bytes | None:
    library = _library()
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    wanted = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), wanted)
    size = ctypes.c_size_t()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, cubin)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return None if failed else cubin.raw


def _library() -> ctypes.CDLL:
    folders = [*sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    for folder in folders:
        for path in sorted(glob.glob(f"{folder}/nvidia/cuda_nvrtc/lib/libnvrtc.so.1?")):
            return ctypes.CDLL(path)
    raise SystemExit("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")


if __name__ == "__main__":
    main()
