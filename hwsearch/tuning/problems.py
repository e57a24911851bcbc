"""What is tuned: kernels for a GPU, an element type, a head size, a window and lengths of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.dispatch import AMPERE, TRITON_HEAD_SIZES
from hwsearch.kernels.triton_attention import space as tile_space
from hwsearch.kernels.tuned import KERNELS, LENGTHS, WINDOWS, Key, class_window, length_class, window_class
from hwsearch.space.search_space import SearchSpace
from hwsearch.workload import Workload, parse_workload

# Kernels of ours that have tiles; the others of the tables choose a backend.
TILES: tuple[str, ...] = tile_space.KERNELS
# What the command line takes; `attention` stands for all.
NAMES = ("attention", *KERNELS)

# Every layer is as wide as ModernBERT-base where nobody names the heads.
WIDTH = 768
# Enough to fill every GPU many times over; little enough for a CPU.
TOKENS, TOKENS_ON_CPU = 32_768, 2_048


@dataclass(frozen=True)
class Problem:
    """One row of one table.

    Attributes:
        kernel: one of KERNELS.
        key: the class of calls that the answer is for.
        heads: of queries; keys have as many.
        workload: the lengths that it is tuned on.
        window: keys to each side, None for all, at which the class is tuned.
    """

    kernel: str
    gpu: Gpu
    key: Key
    heads: int
    workload: Workload
    window: int | None

    def __str__(self) -> str:
        key = self.key
        return f"{self.kernel} {key.dtype} head size {key.head_size} {key.window} up to {key.length}"


@dataclass(frozen=True)
class Wanted:
    """Which calls to tune for; their product is taken, less what cannot occur.

    `windows` and `lengths` are classes; `workload` stands in for the lengths of all of them.
    """

    dtypes: tuple[str, ...]
    head_sizes: tuple[int, ...]
    windows: tuple[str, ...]
    lengths: tuple[int, ...]
    heads: int | None = None
    workload: Workload | None = None


def everything(gpu: Gpu) -> Wanted:
    """What `--all` stands for: the GPU's own dtype, every head size, ModernBERT's windows, all lengths."""
    return Wanted((gpu.default_dtype,), TRITON_HEAD_SIZES, ("global", "narrow"), LENGTHS)


def of_space(space: SearchSpace, gpu: Gpu) -> Wanted:
    """Every head size, window and length that the shapes of `space` can ask for on its workloads."""
    shape = space.file.shape
    longest = [max(workload.lengths) for workload in space.workloads]
    # Where every layer is global, none is local.
    local = shape.local_attention if any(n > 1 for n in shape.global_attn_every_n_layers) else ()
    asked = {window_class(size // 2, length) for size in local for length in longest} | {"global"}
    return Wanted(
        (gpu.default_dtype,),
        tuple(sorted(set(shape.head_size))),
        tuple(window for window in WINDOWS if window in asked),
        tuple(sorted({length_class(length) for length in longest})),
    )


def problems(gpu: Gpu, kernels: Iterable[str], wanted: Wanted) -> list[Problem]:
    """One for each kernel and class, lengths innermost; no class twice, and none that cannot occur.

    Raises HwsearchError for a dtype that the GPU lacks, a size out of range, and where nothing is left.
    """
    _check(gpu, wanted)
    lengths = (max(wanted.workload.lengths),) if wanted.workload else wanted.lengths
    found: dict[tuple[str, Key], Problem] = {}
    for kernel, dtype, size, window, length in product(
        kernels, wanted.dtypes, wanted.head_sizes, wanted.windows, lengths
    ):
        if kernel in TILES and size not in TRITON_HEAD_SIZES:
            continue
        key = Key(dtype, size, window, length_class(length))
        keys = class_window(window, key.length)
        if window_class(keys, length) != window:
            continue  # it would hide nothing
        workload = wanted.workload or class_workload(key.length, gpu)
        heads = wanted.heads or max(1, WIDTH // size)
        found.setdefault((kernel, key), Problem(kernel, gpu, key, heads, workload, keys))
    if not found:
        raise HwsearchError(
            f"{gpu.name}: nothing is left to tune; tiles are for heads of {_listed(TRITON_HEAD_SIZES)}, and a"
            " window must hide something of the longest sequence"
        )
    return list(found.values())


def tunable(gpu: Gpu, kernels: Iterable[str], here: bool) -> tuple[str, ...]:
    """Those of `kernels` that can be tuned for `gpu`: tiles where Triton uses its tensor cores, the choice of
    a backend where the GPU is `here`. Raises HwsearchError where none is left."""
    tiles = gpu.name != CPU and gpu.compute_capability >= AMPERE
    found = tuple(kernel for kernel in kernels if (tiles if kernel in TILES else here))
    if not found:
        reason = "it is not here" if tiles else "Triton's tiles need tensor cores of compute capability 8.0"
        raise HwsearchError(f"{gpu.name}: nothing of {', '.join(kernels)} can be tuned: {reason}")
    return found


def class_workload(length: int, gpu: Gpu) -> Workload:
    """Lengths of a class: around three quarters of its longest, as traffic fills a class."""
    mean = 3 * length // 4
    tokens = TOKENS_ON_CPU if gpu.name == CPU else TOKENS
    return parse_workload(f"normal:{mean},{length // 8},{length // 2}..{length}x{max(1, tokens // mean)}")


def kernels_named(names: Sequence[str]) -> tuple[str, ...]:
    """The kernels that `names` stand for, each once, in KERNELS' order; HwsearchError for an unknown one."""
    if unknown := [name for name in names if name not in NAMES]:
        raise HwsearchError(f"no kernel is called {unknown[0]!r}; accepted: {', '.join(NAMES)}")
    return tuple(k for k in KERNELS if "attention" in names or k in names)


def _check(gpu: Gpu, wanted: Wanted) -> None:
    if unknown := [window for window in wanted.windows if window not in WINDOWS]:
        raise HwsearchError(f"window: {unknown[0]!r}; accepted: {', '.join(WINDOWS)}")
    for dtype in wanted.dtypes:
        gpu.check_dtype(dtype)
        if dtype == "tf32":
            raise HwsearchError("tf32: attention keeps float32 as it is; accepted: fp16, bf16, fp32")
    if odd := [size for size in wanted.head_sizes if size % 2]:
        raise HwsearchError(f"head size: {odd[0]}; accepted: even sizes, since rotary embeddings turn pairs")
    for name, values, largest in (
        ("head size", wanted.head_sizes, 256),
        ("length", wanted.lengths, LENGTHS[-1]),
        ("heads", [] if wanted.heads is None else [wanted.heads], 1024),
    ):
        for value in values:
            if not 1 <= value <= largest:
                raise HwsearchError(f"{name}: {value}; accepted: 1 to {largest:,}")


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
