"""What the attention kernels share: loading and rotating tiles, and which keys a tile of queries sees.

Shape suffixes: M rows of a tile, N the other side of the score tile, D head size, R = D / 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load_tile(x, first, length, stride, M: tl.constexpr, D: tl.constexpr, CHECK: tl.constexpr):
    """[M, D] from row `first` on of the sequence that begins at `x`; zeros beyond its end."""
    pointers_MD = _tile_of(x, first, stride, M, D)
    if CHECK:
        return tl.load(pointers_MD, mask=(first + tl.arange(0, M) < length)[:, None], other=0.0)
    return tl.load(pointers_MD)


@triton.jit
def load_rotated_tile(
    x, first, length, stride, cos, sin, M: tl.constexpr, D: tl.constexpr, CHECK: tl.constexpr
):
    """As `load_tile`, turned by the angle of each row's position; in float32, rounded to x's dtype."""
    R: tl.constexpr = D // 2
    a_MR = load_tile(x, first, length, stride, M, R, CHECK).to(tl.float32)
    b_MR = load_tile(x + R, first, length, stride, M, R, CHECK).to(tl.float32)
    cos_MR = load_tile(cos, first, length, R, M, R, CHECK)
    sin_MR = load_tile(sin, first, length, R, M, R, CHECK)
    return rounded(_turned(a_MR, b_MR, cos_MR, sin_MR, M, R), x.dtype.element_ty)


@triton.jit
def unrotated(x_MD, first, length, cos, sin, M: tl.constexpr, D: tl.constexpr):
    """The transposed rotation, which takes a gradient back through `load_rotated_tile`; float32."""
    R: tl.constexpr = D // 2
    cos_MR = load_tile(cos, first, length, R, M, R, True)
    sin_MR = load_tile(sin, first, length, R, M, R, True)
    a_MR, b_MR = x_MD.reshape(M, 2, R).permute(0, 2, 1).split()
    return _turned(a_MR, b_MR, cos_MR, -sin_MR, M, R)


@triton.jit
def _turned(a_MR, b_MR, cos_MR, sin_MR, M: tl.constexpr, R: tl.constexpr):
    pairs_MR2 = tl.join(a_MR * cos_MR - b_MR * sin_MR, b_MR * cos_MR + a_MR * sin_MR)
    return pairs_MR2.permute(0, 2, 1).reshape(M, 2 * R)


@triton.jit
def store_tile(x, tile_MD, first, length, stride, M: tl.constexpr, D: tl.constexpr):
    inside_M1 = (first + tl.arange(0, M) < length)[:, None]
    value_MD = rounded(tile_MD.to(tl.float32), x.dtype.element_ty)
    tl.store(_tile_of(x, first, stride, M, D), value_MD, mask=inside_M1)


@triton.jit
def _tile_of(x, first, stride, M: tl.constexpr, D: tl.constexpr):
    # 64 bits up to the tile, 32 within it: an offset per element costs registers.
    return (
        x + tl.cast(first, tl.int64) * stride + (tl.arange(0, M)[:, None] * stride + tl.arange(0, D)[None, :])
    )


@triton.jit
def scheduled(schedule, tokens, max_seqlen):
    """(first token of the sequence as int64, its length, first row of the tile); length 0: no work.

    Cut to what the tensors and rotary tables hold: on a GPU nobody checks that a schedule is of this batch.
    """
    entry = schedule + tl.program_id(0) * 3
    base = tl.minimum(tl.maximum(tl.load(entry), 0), tokens)
    length = tl.minimum(tl.minimum(tl.load(entry + 1), max_seqlen), tokens - base)
    first = tl.maximum(tl.load(entry + 2), 0)
    return base.to(tl.int64), tl.where(first < length, length, 0), first


@triton.jit
def other_side(
    first, length, window, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    LOCAL: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """What rows first .. first + ROWS - 1 see: (start, full_start, full_stop, stop), in blocks of BLOCK.

    Blocks from full_start to full_stop are seen whole by every row and lie inside the sequence: they
    need no mask. BEFORE and AFTER: whether a row sees what precedes and what follows it.
    """
    last = first + ROWS - 1
    start, stop = 0, length
    # What all rows see, both ends included.
    all_from, all_to = 0, length - 1
    if LOCAL:
        start = tl.maximum(0, first - window)
        stop = tl.minimum(length, last + 1 + window)
        all_from, all_to = last - window, tl.minimum(first + window, length - 1)
    if not BEFORE:
        start, all_from = first, last
    if not AFTER:
        stop, all_to = tl.minimum(length, last + 1), tl.minimum(first, length - 1)
    full_start = start + tl.cdiv(tl.maximum(all_from - start, 0), BLOCK) * BLOCK
    full_stop = start + tl.maximum(all_to + 1 - start, 0) // BLOCK * BLOCK
    # No full block: one masked stretch, from start to stop.
    full_start = tl.minimum(full_start, stop)
    full_stop = tl.maximum(full_start, full_stop)
    return start, full_start, full_stop, stop


@triton.jit
def visible(queries, keys, length, window, LOCAL: tl.constexpr, CAUSAL: tl.constexpr):
    """Whether `queries` see `keys`: two broadcastable tiles of positions."""
    seen = keys < length
    if CAUSAL:
        seen = seen & (keys <= queries)
    if LOCAL:
        seen = seen & (tl.abs(queries - keys) <= window)
    return seen


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    """a @ b (+ acc), accumulated in float32."""
    if INTERPRETED:
        # The interpreter would multiply the bits of bfloat16 as integers.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 to `dtype`, to the nearest and to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        # The interpreter would cut the last bits off.
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits & 0xFFFF0000).to(tl.float32, bitcast=True).to(dtype)
    return x.to(dtype)
