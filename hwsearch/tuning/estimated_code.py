"""What a tile would compile to, by its shape alone: good enough to choose which tiles to compile.

Counts follow the device code by the element: a lane holds e = rows x columns / (32 warps) scores and
a = rows x D / (32 warps) sums. Forward, a score costs a scaled difference, a sum, a maximum and half a
conversion, a sum costs a product; backward, a score costs three multiply-adds. A mask adds two comparisons or
selections a score. An operand that is rotated in the load is converted, turned by cosine and sine from
memory, and stored.
"""

from __future__ import annotations

from dataclasses import replace
from operator import mul

from hwsearch.cost.attention_pipeline import PRODUCTS, KernelCode
from hwsearch.gpu.profile import BYTES_PER_ELEMENT
from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.kernels.triton_attention.instructions import Instructions, Mix

MOST_REGISTERS = 255
# Registers: a base, and so many for each score, sum, rotated element and element of an operand that a lane
# holds, and for each further loop. Least squares, rounded, over some 700 kernels compiled by Triton 3.9 that
# spill nothing (results/kernel_compile.csv and a cache of benchmarks/model_tables.py): off by 5 to 20.
REGISTERS = {
    "mma.sync": {
        "forward": (58, 1.9, 1.8, 1.1, 0.0, 1.7),
        "dq": (60, 1.6, 1.4, 0.0, 0.7, 3.8),
        "dkdv": (62, 1.4, 1.4, 0.0, 3.1, 3.3),
        "short": (90, 4.0, 0.7, 4.2, 0.7, 0.0),
    },
    "wgmma": {
        "forward": (3, 2.0, 2.0, 0.2, 0.5, 5.5),
        "dq": (40, 1.6, 1.6, 0.0, 0.0, 6.0),
        "dkdv": (62, 1.4, 1.4, 0.0, 3.1, 7.7),
        "short": (8, 1.6, 1.6, 2.6, 1.6, 0.0),
    },
    "tcgen05": {
        "forward": (91, 0.0, 0.4, 0.0, 1.5, 2.6),
        "dq": (5, 2.7, 0.2, 0.0, 1.6, 5.0),
        "dkdv": (60, 1.5, 0.0, 0.0, 1.5, 1.5),
        "short": (60, 1.5, 0.0, 0.0, 1.5, 0.0),
    },
}
STRAIGHT = Mix(issued=800, fma=200, alu=300, shared_bytes=16_000, global_bytes=16_000, barriers=6)


def estimated_code(
    kernel: str, capability: tuple[int, int], dtype: str, head_size: int, tile: Tile, local: bool, rotate: str
) -> KernelCode:
    """Registers may exceed what a thread can have: such a tile spills."""
    size = BYTES_PER_ELEMENT[dtype]
    lanes = 32 * tile.warps
    scores, sums = tile.rows * tile.columns / lanes, tile.rows * head_size / lanes
    products = PRODUCTS[kernel][0]
    kind = "mma.sync"
    if tile.rows >= 64 and tile.warps >= 4 and size == 2:
        kind = {9: "wgmma", 10: "tcgen05", 11: "tcgen05"}.get(capability[0], "mma.sync")
    operand = tile.columns * head_size * size
    # Warps beyond one for 16 rows repeat the others' products.
    repeated = max(1.0, 16 * tile.warps / tile.rows) if kind == "mma.sync" else 1.0
    step = Mix(
        fma={"forward": 2 * scores + sums}.get(kernel, 3 * scores),
        alu=(1.5 if kernel != "dq" else 1.0) * scores,
        mufu=scores,
        tensor_flops=0 if kind == "tcgen05" else products * 2 * scores * 32 * head_size * repeated,
        wgmma=products if kind == "wgmma" else 0,
        tcgen05=products * head_size / 16 if kind == "tcgen05" else 0,
        tcgen05_shared=products * head_size / 32 if kind == "tcgen05" else 0,
        # Each warp reads every operand that lies in shared memory; a warpgroup or a block once.
        shared_bytes=2 * operand / tile.warps
        + {"mma.sync": products * operand, "wgmma": products * operand / 4, "tcgen05": 0}[kind],
        global_bytes=2 * operand / tile.warps,
        shuffles=8 if kernel == "forward" else 0,
        barriers={"mma.sync": 2, "wgmma": 4, "tcgen05": 9}[kind],
    )
    turned = tile.columns * head_size / lanes if rotate == "load" else 0.0
    turning = Mix(
        fma=1.5 * turned,
        alu=1.5 * turned,
        shared_bytes=turned * 32 * size,
        global_bytes=turned * 32 * 4,
    )
    step = step + turning
    step = replace(step, issued=step.fma + step.alu + step.mufu + 60)
    masked = replace(step, alu=step.alu + 2 * scores, issued=step.issued + 2 * scores)
    loops: tuple[Mix, ...] = (masked,)
    if tile.split:
        loops = (masked, step, masked) if local else (step, masked)
    buffers = max(1, tile.stages - (kind == "mma.sync"))
    shared = buffers * 2 * operand + tile.rows * head_size * size * (1 if kernel == "forward" else 2)
    tensor_memory = 0
    if kind == "tcgen05":
        tensor_memory = 2 * (tile.columns + head_size) if kernel != "forward" else tile.columns + head_size
        tensor_memory = 1 << max(32, tensor_memory - 1).bit_length()
    held = (1, scores, sums, turned, tile.columns * head_size / lanes, len(loops) - 1)
    registers = sum(map(mul, REGISTERS[kind][kernel], held))
    return KernelCode(
        kernel, tile.rows, tile.columns, tile.warps, tile.stages, head_size,
        int(registers), shared, min(512, tensor_memory), Instructions(loops, STRAIGHT),
    )  # fmt: skip
