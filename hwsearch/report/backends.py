"""What `hwsearch.kernels` runs on a GPU: the attention backend and why, and how well its tiles are tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TypeVar

from hwsearch.gpu.attention_kernels import best_kernel
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.dispatch import Call, Choice, allowed, backend_table, choose, installed_packages
from hwsearch.kernels.triton_attention.space import KERNELS as TILES
from hwsearch.kernels.tuned import LENGTHS, WINDOWS, Found, Key, tuned_for
from hwsearch.report.columns import aligned

HEAD_SIZE = 64
T = TypeVar("T")
L = TypeVar("L")
# What a kind of layer and a class of length find in two tables.
Pair = tuple[Found, Found]


def backend_lines(gpu: Gpu) -> list[str]:
    """Which backend serves each 16-bit type that the GPU has (fp32 where it has none) and kind of layer."""
    dtypes: list[str] = [d for d in ("fp16", "bf16") if d in gpu.dense_flops_per_s]
    dtypes = dtypes or ["fp32"]
    found = {dtype: _found(gpu, dtype, backend_table(False), backend_table(True)) for dtype in dtypes}
    rows = [["dtype", "layers", "backend", "why"]]
    for dtype, cells in found.items():
        rows += [[dtype, *row] for row in _backend_rows(gpu, dtype, cells)]
    lines = [
        f"attention of hwsearch.kernels, heads of {HEAD_SIZE}"
        f"{'' if _paths(found) else ', by capability: no measurement of this GPU'}"
    ]
    lines += [f"  {line}" for line in [*aligned(rows, left=4), *_paths(found)]]
    # The cost model knows no kernel before it was timed; efficient is the same one there.
    priced = {best_kernel(gpu, dtype) for dtype in dtypes} - {"efficient"}
    if priced:
        lines.append(
            f"  predictions price {', '.join(sorted(priced))}, other libraries' best here, but where a table"
            " times ours"
        )
    if any("triton" in allowed(_call(gpu, dtype, "global", False)) for dtype in dtypes):
        lines += _tile_lines(gpu, dtypes)
    return lines


def _tile_lines(gpu: Gpu, dtypes: list[str]) -> list[str]:
    """Where the tiles of the Triton kernels come from."""
    found = {dtype: _found(gpu, dtype, *TILES) for dtype in dtypes}
    by_dtype = {dtype: list(_ranges(cells, _states)) for dtype, cells in found.items()}
    if len({str(rows) for rows in by_dtype.values()}) == 1:
        by_dtype = {", ".join(dtypes): next(iter(by_dtype.values()))}
    rows = [["dtype", "layers", "forward", "backward"]]
    for dtype, ranges in by_dtype.items():
        rows += [[dtype, name, *label] for name, label, _ in ranges]
    return ["", "tiles of its triton backend", *(f"  {line}" for line in [*aligned(rows, 4), *_paths(found)])]


def _found(gpu: Gpu, dtype: str, *tables: str) -> dict[tuple[str, int], Pair]:
    capability = None if gpu.name == CPU else gpu.compute_capability

    def find(table: str, window: str, length: int) -> Found:
        found: Found = tuned_for(table, gpu.name, capability, Key(dtype, HEAD_SIZE, window, length))
        return found

    return {
        (window, length): (find(tables[0], window, length), find(tables[1], window, length))
        for window in WINDOWS
        for length in LENGTHS
    }


def _backend_rows(gpu: Gpu, dtype: str, cells: Mapping[tuple[str, int], Pair]) -> Iterator[list[str]]:
    """One row where forward and training choose the same, else one for each."""
    chosen = {
        (window, length): (
            choose(_call(gpu, dtype, window, False), pair[0]),
            choose(_call(gpu, dtype, window, True), pair[1]),
        )
        for (window, length), pair in cells.items()
    }
    for name, label, choices in _ranges(chosen, lambda pair: tuple((c.backend, c.reason) for c in pair)):
        if label[0] == label[1]:
            yield [name, label[0][0], _why(choice for pair in choices for choice in pair)]
        else:
            for place, direction in enumerate(("forward", "training")):
                why = _why(pair[place] for pair in choices)
                yield [f"{name}, {direction}", label[place][0], why]


def _why(choices: Iterable[Choice]) -> str:
    choices = list(choices)
    ahead = sorted(choice.ahead for choice in choices if choice.ahead is not None)
    reason: str = choices[0].reason
    if not ahead:
        return reason
    low, high = f"{ahead[0][0]:.2f}", f"{ahead[-1][0]:.2f}"
    times = low if low == high else f"{low} to {high}"
    others = " or ".join(sorted({name for _, name in ahead}))
    return f"{reason}, {times}x as fast as {others}"


def _states(pair: Pair) -> tuple[str, str]:
    forward, backward = (
        f"{found.state}: {found.gpu}" if found.state == "same family" else found.state for found in pair
    )
    return forward, backward


def _ranges(cells: Mapping[tuple[str, int], T], label: Callable[[T], L]) -> Iterator[tuple[str, L, list[T]]]:
    """Classes with the same label together: a name such as "local, up to 512", the label, what it covers."""
    columns = {window: [label(cells[window, length]) for length in LENGTHS] for window in WINDOWS}
    windows = {"global": "global"}
    if columns["narrow"] == columns["wide"]:
        windows["local"] = "narrow"
    else:
        windows |= {"local narrow": "narrow", "local wide": "wide"}
    for name, window in windows.items():
        for same, group in groupby(zip(LENGTHS, columns[window], strict=True), key=lambda each: each[1]):
            lengths = [length for length, _ in group]
            yield f"{name}{_span(lengths)}", same, [cells[window, length] for length in lengths]


def _span(lengths: list[int]) -> str:
    first, last = lengths[0], lengths[-1]
    below = LENGTHS[LENGTHS.index(first) - 1]
    match first == LENGTHS[0], last == LENGTHS[-1]:
        case True, True:
            return ""
        case True, False:
            return f", up to {last}"
        case False, True:
            return f", over {below}"
    return f", {below + 1} to {last}"


def _paths(found: Mapping[str, Mapping[tuple[str, int], Pair]]) -> list[str]:
    """A line for each table that something was found in."""
    tables: dict[str, set[str]] = {}
    for each in (each for cells in found.values() for pair in cells.values() for each in pair):
        if each.row is not None:
            with_triton = f"triton {each.row.triton}, " if each.row.triton else ""
            tables.setdefault(str(each.path), set()).add(f"{with_triton}{each.row.date}")
    return [f"{path}: {'; '.join(sorted(how))}" for path, how in sorted(tables.items())]


def _call(gpu: Gpu, dtype: str, window: str, training: bool) -> Call:
    return Call(
        device="cpu" if gpu.name == CPU else "cuda",
        capability=None if gpu.name == CPU else gpu.compute_capability,
        dtype=dtype,
        head_size=HEAD_SIZE,
        local=window != "global",
        training=training,
        # Where the GPU is, so is Triton.
        packages=installed_packages() | {"triton"},
    )
