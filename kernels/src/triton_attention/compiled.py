"""Compiles one kernel configuration for a GPU that need not be here, and says what it would use there.

Imports triton but not torch, so that a compiler without torch can be looked at too.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from .backward import delta_kernel, dkdv_kernel, dq_kernel, short_backward_kernel
from .configs import Tile, default_tiles, has_inner_blocks, launch_options
from .forward import forward_kernel
from .instructions import Instructions, read_instructions
from .occupancy import LIMITS, blocks_per_sm
from .rotation import rotate_kernel

KERNELS = {
    "forward": forward_kernel,
    "dq": dq_kernel,
    "dkdv": dkdv_kernel,
    "short": short_backward_kernel,
    "delta": delta_kernel,
    "rotate": rotate_kernel,
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

Window = Literal["global", "local"]
Rope = Literal["none", "load", "scratch"]

FLOAT32_TENSORS = {"lse", "delta", "cos", "sin"}
# The kernels as a call without a gradient of the log-sum-exp runs them.
ABSENT = {"dlse"}


@dataclass(frozen=True)
class Configuration:
    """One way to run one kernel.

    `split`: blocks without a mask have a loop of their own.
    `rope`: "none", "load" where tiles are rotated as they are loaded, "scratch" where those of the
    inner loop come rotated. `group`: query heads per key head.
    """

    kernel: str
    dtype: Literal["bfloat16", "float16", "float32"]
    head_size: int
    tile: Tile
    window: Window
    split: bool
    causal: bool = False
    rope: Rope = "none"
    group: int = 1


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel uses; instruction counts are of the PTX text, loops not multiplied.

    `registers` and `stack_bytes` are per thread; a stack is spilled registers or a local array.
    `digest` is the same for configurations that compile to the same machine code.
    `blocks_per_sm` is 0 where one block does not fit; `occupancy` is the share of the SM's warps.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    warps: int
    mma_sync: int
    wgmma: int
    tcgen05: int
    cp_async: int
    local_accesses: int
    blocks_per_sm: int
    occupancy: float
    digest: str

    @property
    def tensor_core_instructions(self) -> int:
        return self.mma_sync + self.wgmma + self.tcgen05


def default_configurations(
    capability: tuple[int, int], dtype: Literal["bfloat16", "float16", "float32"], head_size: int,
    window: int, max_seqlen: int, causal: bool = False, rope: bool = True, group: int = 1,
) -> list[Configuration]:  # fmt: skip
    """The kernels that a call runs by default on a GPU of `capability`; `window` is -1 for all keys."""
    tiles = default_tiles(capability, 4 if dtype == "float32" else 2, head_size, window >= 0, max_seqlen)

    def configuration(kernel: str, tile: Tile, in_load: bool) -> Configuration:
        inner = has_inner_blocks(tile, window, max_seqlen)
        kind: Window = "global" if window < 0 else "local"
        where: Rope = "none" if not rope else "load" if in_load else "scratch"
        return Configuration(kernel, dtype, head_size, tile, kind, inner, causal, where, group)

    forward = configuration("forward", tiles.forward, tiles.rotate_in_forward)
    if tiles.short is not None:
        return [forward, configuration("short", tiles.short, tiles.rotate_in_backward)]
    dq = configuration("dq", tiles.dq, tiles.rotate_in_backward)
    return [forward, dq, configuration("dkdv", tiles.dkdv, tiles.rotate_in_backward)]


def compile_for(capability: tuple[int, int], configuration: Configuration) -> Compiled:
    """Compile for a GPU of `capability`, a key of `occupancy.LIMITS`.

    Raises what Triton raises where it cannot compile the configuration.
    """
    return _usage(capability, binary(capability, configuration))


def _usage(capability: tuple[int, int], kernel: Any) -> Compiled:
    text = _cuobjdump("--dump-resource-usage", kernel.asm["cubin"])
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", text)}
    ptx = kernel.asm["ptx"]
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    columns = getattr(kernel.metadata, "tmem_size", None) or 0
    blocks = blocks_per_sm(capability, warps, usage["REG"], shared, columns)
    return Compiled(
        registers=usage["REG"],
        stack_bytes=usage["STACK"],
        shared_bytes=shared,
        tensor_memory_columns=columns,
        warps=warps,
        mma_sync=_count(r"\bmma\.sync", ptx),
        wgmma=_count(r"\bwgmma\.mma_async", ptx),
        tcgen05=_count(r"\btcgen05\.mma", ptx),
        cp_async=_count(r"\bcp\.async\.c[ag]", ptx),
        local_accesses=_count(r"\b(ld|st)\.local", ptx),
        blocks_per_sm=blocks,
        occupancy=blocks * warps / LIMITS[capability].warps_per_sm,
        digest=hashlib.sha256(kernel.asm["cubin"]).hexdigest()[:16],
    )


def compile_with_instructions(
    capability: tuple[int, int], configuration: Configuration
) -> tuple[Compiled, Instructions]:
    """As `compile_for`, with what the kernel issues."""
    kernel = binary(capability, configuration)
    return _usage(capability, kernel), read_instructions(_cuobjdump("-sass", kernel.asm["cubin"]))


def binary(capability: tuple[int, int], configuration: Configuration) -> Any:
    """Triton's compiled kernel, with the texts of all stages in `.asm`."""
    kernel = KERNELS[configuration.kernel]
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    backend = make_backend(target)
    arguments = {name: _argument(name, configuration) for name in kernel.arg_names}
    options = launch_options(configuration.tile)
    # The launcher's own steps from arguments to a specialised source.
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, _ = binder(**arguments)
    options, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


class _Pointer:
    """Stands for a tensor: the launcher asks for its type and whether its address divides by 16."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def data_ptr(self) -> int:
        return 0


def _argument(name: str, c: Configuration) -> Any:
    """What the launcher passes for the parameter `name`: tensors of our own projections, any T."""
    tile = c.tile
    # Rows are what a program owns: keys in dK/dV.
    rows, columns = ("N", "M") if c.kernel == "dkdv" else ("M", "N")
    constants = {
        rows: tile.rows, columns: tile.columns, "D": c.head_size, "GROUP": c.group,
        "LOCAL": c.window == "local", "SPLIT": c.split, "CAUSAL": c.causal, "HAS_DLSE": False,
        "ROTATE": c.rope == "load", "ROTATE_Q": c.rope != "none", "ROTATE_K": c.rope == "load",
        "UNROTATE": c.rope != "none", "PRECISION": "tf32x3" if c.dtype == "float32" else "tf32",
    }  # fmt: skip
    if name in constants:
        return constants[name]
    if name in ABSENT or (name in ("cos", "sin") and c.rope == "none" and c.kernel != "rotate"):
        return None
    if name in FLOAT32_TENSORS:
        return _Pointer("float32")
    if name == "schedule":
        return _Pointer("int32")
    if name.startswith("scale"):
        return 0.125
    # An odd number of tokens: nothing may rest on its divisibility.
    if name in ("tokens", "max_seqlen", "window"):
        return 77
    if name.endswith("_stride"):
        return 16 * c.head_size
    return _Pointer(c.dtype)


def _cuobjdump(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))
