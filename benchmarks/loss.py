"""Linear decoder and cross-entropy, forward and backward: chunks of masked positions against what others do.

    python benchmarks/loss.py [--rounds 5]

Ways: all positions with ignore_index (transformers), plain (logits of the masked positions, F.cross_entropy),
plain under torch.compile, torch's own chunks (F.linear_cross_entropy, from torch 2.13 on), ours, and with
CUDA Liger-Kernel where it can be imported. Each round times every way once, in turn (A B A B); medians. Peak:
bytes allocated over those alive before, gradients included. On the CPU float32; on a GPU bf16 by autocast.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec

import torch
from peak_memory import peak_bytes
from torch import Tensor
from torch.nn import functional as F

from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.kernels.loss import linear_cross_entropy

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
HIDDEN = 768
MASKED_SHARE = 0.3


@dataclass(frozen=True)
class Case:
    tokens: int
    words: int
    chunk_rows: int  # of the way with small chunks


CASES = (
    (Case(65_536, 50_368, 1024), Case(65_536, 1024, 1024))
    if CUDA
    else (Case(1_024, 50_368, 64), Case(6_827, 1024, 256))
)


@dataclass(frozen=True)
class Batch:
    hidden: Tensor  # [T, C]
    weight: Tensor  # [V, C]
    bias: Tensor  # [V]
    labels: Tensor  # [T], -100 where nothing is predicted
    positions: Tensor  # [P]
    targets: Tensor  # [P]

    @property
    def floats(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias


def draw(case: Case) -> Batch:
    torch.manual_seed(0)
    hidden, weight, bias = (
        (torch.randn(size, device=DEVICE) * scale).requires_grad_()
        for size, scale in (
            ((case.tokens, HIDDEN), 1.0),
            ((case.words, HIDDEN), 0.02),
            ((case.words,), 0.0),
        )
    )
    count = int(case.tokens * MASKED_SHARE)
    positions = torch.randperm(case.tokens, device=DEVICE)[:count].sort().values
    targets = torch.randint(0, case.words, (count,), device=DEVICE)
    labels = torch.full((case.tokens,), -100, device=DEVICE).index_copy(0, positions, targets)
    return Batch(hidden, weight, bias, labels, positions, targets)


def all_positions(b: Batch) -> Tensor:
    return F.cross_entropy(F.linear(b.hidden, b.weight, b.bias).float(), b.labels)


def logits_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets)


def plain(b: Batch, loss: Callable[..., Tensor] = logits_loss) -> Tensor:
    return loss(b.hidden.index_select(0, b.positions), b.weight, b.bias, b.targets)


def ours(b: Batch, chunk_rows: int | None = None) -> Tensor:
    hidden = b.hidden.index_select(0, b.positions)
    mean: Tensor = linear_cross_entropy(hidden, b.weight, b.targets, b.bias, chunk_rows=chunk_rows)
    return mean


def torch_chunks(b: Batch) -> Tensor:
    hidden, weight, bias = b.hidden.index_select(0, b.positions), b.weight, b.bias
    if CUDA:  # it knows nothing of autocast
        hidden, weight, bias = hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, b.targets, linear_bias=bias, options=options)


def liger(b: Batch) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(accum_dtype=torch.float32)
    value: Tensor = loss(b.weight, b.hidden.index_select(0, b.positions), b.targets, b.bias)
    return value


def ways(case: Case) -> dict[str, Callable[[Batch], Tensor]]:
    found: dict[str, Callable[[Batch], Tensor]] = {
        "all positions": all_positions,
        "plain": plain,
        "plain, compiled": partial(plain, loss=torch.compile(logits_loss)),
    }
    # On the CPU it took 13 times as long as plain for 102 rows of 50,368 words: too long to repeat.
    if hasattr(F, "linear_cross_entropy") and (CUDA or case.words < 10_000):
        found["torch's chunks"] = torch_chunks
    found["ours"] = ours
    found[f"ours, {case.chunk_rows} rows"] = partial(ours, chunk_rows=case.chunk_rows)
    if CUDA and find_spec("liger_kernel"):
        found["Liger"] = liger
    return found


def step(way: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA):
        loss = way(batch)
    return loss.detach(), torch.autograd.grad(loss, batch.floats)


def seconds(way: Callable[[Batch], Tensor], batch: Batch) -> float:
    if CUDA:
        torch.cuda.synchronize()
    started = time.perf_counter()
    step(way, batch)
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def error(way: Callable[[Batch], Tensor], batch: Batch, truth: tuple[Tensor, tuple[Tensor, ...]]) -> float:
    """The largest error of a gradient, as a share of its largest entry."""
    gradients = step(way, batch)[1]
    return max(
        float((ours - exact).abs().max() / exact.abs().max())
        for ours, exact in zip(gradients, truth[1], strict=True)
    )


def compare(case: Case, rounds: int) -> None:
    batch, found = draw(case), ways(case)
    print(
        f"\n{case.tokens:,} tokens, {len(batch.positions):,} masked, {case.words:,} words, hidden {HIDDEN}\n"
    )
    print("| way | seconds | of plain | peak GB | of plain | gradient error |\n|---|---|---|---|---|---|")
    with torch.autocast(DEVICE.type, enabled=False):
        exact = plain(batch)
        truth = exact.detach(), torch.autograd.grad(exact, batch.floats)
    errors = {name: error(way, batch, truth) for name, way in found.items()}  # and a first run, to compile
    peaks = {name: peak_bytes(partial(step, way, batch), DEVICE) for name, way in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, way in found.items():
            times[name].append(seconds(way, batch))
    medians = {name: statistics.median(samples) for name, samples in times.items()}
    for name in found:
        print(
            f"| {name} | {medians[name]:.3f} | {medians[name] / medians['plain']:.2f} |"
            f" {peaks[name] / 1e9:.3f} | {peaks[name] / peaks['plain']:.2f} | {errors[name]:.0e} |"
        )


def machine() -> str:
    if CUDA:
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    dtype = "bf16 products" if CUDA else "float32"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__}, {dtype}; {rounds} rounds")
    for case in CASES:
        compare(case, rounds)


if __name__ == "__main__":
    main()
