"""Bytes of the operators that only move memory: the least, and what eager torch, inductor and Liger move.

    python benchmarks/memory_bound.py [--tokens 16384] [--kernels]

Bytes per token, for ModernBERT-base (hidden 768, feed-forward 1152, 12 heads of 64, 22 layers) in bf16:

    least      every input read once, every output written once, nothing stored in between
    eager      inputs and outputs of every aten operator that is dispatched
    inductor   of the kernels that torch.compile generates: every buffer once, and whole where they read a
               part (RoPE: two of three thirds; embedding: the table). Without a GPU the Triton code is
               generated for the CPU device and never run, and the one choice that asks for a GPU by name,
               fusing sums over rows with sums over columns, is told that there is one.
    Liger      counted by hand in the source of Liger-Kernel 0.8.5: comment above OPERATIONS

Then the cost model's milliseconds for a training step of 65,536 tokens. --kernels prints the generated code.
With CUDA everything that can be imported is timed too, forward with backward: A B A B, medians.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
import torch._inductor.config as inductor_config
import triton
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._inductor import scheduler
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget

from hwsearch.cost.stream import bytes_seconds
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.loss import by_chunks, linear_cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HIDDEN, FEED_FORWARD, HEADS, HEAD_SIZE, WORDS = 768, 1152, 12, 64, 50_368
LAYERS = 22
PRICED_TOKENS = 65_536
GPUS = ("h100-sxm", "l4", "t4")
BF16 = 2


def add_norm(x: Tensor, branch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The residual sum, and its norm for the next branch."""
    total = x + branch
    return total, F.layer_norm(total, (HIDDEN,), weight)


def geglu(projected: Tensor) -> Tensor:
    activated, gate = projected.chunk(2, dim=-1)
    return F.gelu(activated) * gate


def rope(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """q and k [T, 2, H, D] of the packed projection, turned by halves; tables [T, D/2] in bf16."""
    a, b = qkv[:, :2].chunk(2, dim=-1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def embed_norm(ids: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(F.embedding(ids, table), (HIDDEN,), weight)


def unpad(x: Tensor, indices: Tensor) -> Tensor:
    """Half of [2 T, C] kept."""
    return x.index_select(0, indices)


def pad(x: Tensor, indices: Tensor) -> Tensor:
    return x.new_zeros(2 * len(x), HIDDEN).index_copy(0, indices, x)


def plain_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


def draw(*size: int) -> Tensor:
    return torch.randn(size, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)


@dataclass(frozen=True)
class Operation:
    """`least` and `liger`: bf16 numbers read and written per token, forward and backward."""

    name: str
    function: Callable[..., Any]
    inputs: Callable[[int], list[Tensor]]
    least: tuple[int, int]
    liger: tuple[int, int] | None
    times: int  # in one pass through the encoder


C, I = HIDDEN, FEED_FORWARD  # noqa: E741
# Liger-Kernel 0.8.5: layer_norm.py has no residual add (it and its gradient's add are kernels of their own)
# and reads each row once, a program a row, next_power_of_2 lanes. geglu.py (tanh only) copies both halves of
# the projection, as ensure_contiguous asks, and their two gradients are joined outside. rope.py copies q and
# k out of their transposes and works in place. Embedding with norm, and padding: none.
OPERATIONS = (
    Operation(
        name="add + norm",
        function=add_norm,
        inputs=lambda t: [draw(t, C), draw(t, C), draw(C)],
        least=(4 * C, 4 * C),
        liger=(5 * C, 6 * C),
        times=2 * LAYERS,
    ),
    Operation(
        name="GeGLU",
        function=geglu,
        inputs=lambda t: [draw(t, 2 * I)],
        least=(3 * I, 5 * I),
        liger=(7 * I, 9 * I),
        times=LAYERS,
    ),
    Operation(
        name="RoPE alone",
        function=rope,
        inputs=lambda t: [draw(t, 3, HEADS, HEAD_SIZE), *(draw(t, HEAD_SIZE // 2).detach() for _ in "cs")],
        least=(4 * C + HEAD_SIZE, 4 * C + HEAD_SIZE),
        liger=(8 * C + HEAD_SIZE, 4 * C + HEAD_SIZE),
        times=LAYERS,
    ),
    Operation(
        name="embedding + norm",
        function=embed_norm,
        inputs=lambda t: [torch.randint(0, WORDS, (t,), device=DEVICE), draw(WORDS, C), draw(C)],
        least=(2 * C + 4, 4 * C + 4),
        liger=None,
        times=1,
    ),
    Operation(
        name="unpad",
        function=unpad,
        inputs=lambda t: [draw(2 * t, C), torch.arange(0, 2 * t, 2, device=DEVICE)],
        least=(2 * C + 4, 3 * C + 4),
        liger=None,
        times=0,
    ),
    Operation(
        name="pad",
        function=pad,
        inputs=lambda t: [draw(t, C), torch.arange(0, 2 * t, 2, device=DEVICE)],
        least=(3 * C + 4, 2 * C + 4),
        liger=None,
        times=0,
    ),
)


# The argument of which these operators read, or write, a few entries only.
HARDLY_READ = {
    "aten::gather": 0,
    "aten::scatter_": 0,
    "aten::nll_loss_forward": 0,
    "aten::nll_loss_backward": 1,
}


class EagerBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of arguments and results of every operator that is not a view, those inside of ours included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.hwsearch.linear_cross_entropy.default:
            with self:
                return by_chunks(*args)
        out = func(*args, **(kwargs or {}))
        name, returns = func._schema.name, func._schema.returns
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            touched = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
            if name in HARDLY_READ:
                touched.pop(id(args[HARDLY_READ[name]]), None)
            self.bytes += sum(x.numel() * x.element_size() for x in touched.values())
        return out


def eager_bytes(operation: Operation, tokens: int) -> tuple[float, float]:
    inputs = operation.inputs(tokens)
    with EagerBytes() as forward:
        out = operation.function(*inputs)
    gradients = [torch.ones_like(x) for x in tree_leaves(out)]
    with EagerBytes() as backward:
        torch.autograd.backward(tree_leaves(out), gradients)
    return forward.bytes / tokens, backward.bytes / tokens


@dataclass(frozen=True)
class Generated:
    """One graph that inductor lowered."""

    bytes: int
    code: str

    @property
    def kernels(self) -> list[str]:
        return re.findall(r"^(triton_\w+) = ", self.code, re.MULTILINE)


class Captured(Exception):
    """Raised once a graph's code is there, before it is compiled."""


class NoGpu:
    """A Triton driver of an H100 that launches nothing."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0


@contextmanager
def capturing(seen: list[Generated]) -> Iterator[None]:
    generate = GraphLowering.codegen

    def capture(graph: GraphLowering) -> None:
        code = generate(graph)[0].value
        seen.append(Generated(int(graph.count_bytes()[0]), code))
        raise Captured

    with ExitStack() as stack:
        stack.enter_context(patch.object(GraphLowering, "codegen", capture))
        stack.enter_context(inductor_config.patch(fx_graph_cache=False, compile_threads=1))
        if not torch.cuda.is_available():
            triton.runtime.driver.set_active(NoGpu())
            stack.enter_context(inductor_config.patch(cpu_backend="triton"))
            stack.enter_context(patch.object(scheduler, "_is_gpu_triton_backend", lambda *_: True))
        yield


def inductor(function: Callable[..., Any], inputs: list[Tensor]) -> list[Generated]:
    """What torch.compile makes of the forward and of the backward graph."""
    seen: list[Generated] = []

    def lower(graph: torch.fx.GraphModule, inputs: list[Tensor], **options: Any) -> Any:
        try:
            compile_fx_inner(graph, inputs, **options)
        except Exception as error:
            if Captured.__name__ not in f"{type(error)} {error}":
                raise
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = partial(compile_fx, inner_compile=lower)
    with capturing(seen):
        out = tree_leaves(torch.compile(function, backend=backend, dynamic=False)(*inputs))
        torch.autograd.backward(out, [torch.ones_like(x) for x in out])
    return seen


def print_bytes(tokens: int, show_code: bool) -> dict[str, dict[str, float]]:
    """The table, and bytes per token of forward and backward together by operator and way."""
    print("| operator | | least | eager | inductor | Liger | inductor's kernels |")
    print("|---|---|---|---|---|---|---|")
    totals = {}
    for operation in OPERATIONS:
        eager = eager_bytes(operation, tokens)
        graphs = inductor(operation.function, operation.inputs(tokens))
        made = [graph.bytes / tokens for graph in graphs]
        least = [BF16 * numbers for numbers in operation.least]
        liger = [BF16 * numbers for numbers in operation.liger or ()]
        for way, name in enumerate(("forward", "backward")):
            print(
                f"| {operation.name} | {name} | {least[way]:,} | {eager[way]:,.0f} | {made[way]:,.0f} |"
                f" {f'{liger[way]:,}' if liger else 'none'} | {' '.join(graphs[way].kernels)} |"
            )
            if show_code:
                print(graphs[way].code)
        ways = {"least": least, "eager": eager, "inductor": made, "Liger": liger}
        totals[operation.name] = {name: float(sum(numbers)) for name, numbers in ways.items() if numbers}
    return totals


def print_loss_bytes() -> None:
    """Per logit, products included; a hidden size of 64 leaves their other operands out of it."""
    rows, hidden = 1024, 64
    labels = torch.randint(0, WORDS, (rows,), device=DEVICE)
    print("\nLinear decoder and cross-entropy, bf16, bytes per logit, forward and backward:\n")
    for name, loss in (("plain", plain_loss), ("ours", linear_cross_entropy)):
        inputs = draw(rows, hidden), draw(WORDS, hidden)
        with EagerBytes() as seen:
            torch.autograd.backward(loss(*inputs, labels))
        print(f"{name:>16} {seen.bytes / (rows * WORDS):5.1f}")
    compiled = inductor(plain_loss, [draw(rows, hidden), draw(WORDS, hidden), labels])
    print(f"{'plain, inductor':>16} {sum(graph.bytes for graph in compiled) / (rows * WORDS):5.1f}")
    print(f"{'Liger, by hand':>16} {12:5.1f}   product 2, statistics 2, gradient in place 4, two products 4")
    print(f"{'least':>16} {10:5.1f}   as Liger, each row read once")


def print_prices(totals: dict[str, dict[str, float]]) -> None:
    print(f"\nPredicted ms of a training step of {PRICED_TOKENS:,} tokens, all layers:\n")
    print("| GPU | operator | least | eager | inductor | Liger |\n|---|---|---|---|---|---|")
    for name in GPUS:
        gpu = load_gpu(name)
        for operation in OPERATIONS:
            if not operation.times:
                continue
            # Half of the bytes in each direction, for one launch's floor each.
            cells = [
                f"{2e3 * operation.times * float(bytes_seconds(gpu, PRICED_TOKENS * moved / 2)):.2f}"
                for moved in totals[operation.name].values()
            ]
            print(f"| {name} | {' | '.join([operation.name, *cells, *['none'] * (4 - len(cells))])} |")


def liger_function(name: str) -> Callable[..., Any] | None:
    if not find_spec("liger_kernel"):
        return None
    from liger_kernel.ops.geglu import LigerGELUMulFunction
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    def norm(x: Tensor, branch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + branch
        return total, LigerLayerNormFunction.apply(total, weight, torch.zeros_like(weight), 1e-5)

    def gate(projected: Tensor) -> Any:
        return LigerGELUMulFunction.apply(*projected.chunk(2, -1))

    functions: dict[str, Callable[..., Any]] = {"add + norm": norm, "GeGLU": gate}
    return functions.get(name)


def print_times(rounds: int = 21) -> None:
    print(
        f"\nMeasured ms of {PRICED_TOKENS:,} tokens, forward and backward, {torch.cuda.get_device_name()}:\n"
    )
    for operation in OPERATIONS:
        inputs = operation.inputs(PRICED_TOKENS)
        torch._dynamo.reset()
        ways: dict[str, Callable[..., Any]] = {
            "eager": operation.function,
            "inductor": torch.compile(operation.function, dynamic=False),
        }
        if liger := liger_function(operation.name):
            ways["Liger"] = liger
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, function in ways.items():
                times[name].append(step_ms(function, inputs))
        medians = {name: statistics.median(samples[1:]) for name, samples in times.items()}
        print(f"{operation.name:>18} ", "  ".join(f"{name} {ms:.3f}" for name, ms in medians.items()))


def step_ms(function: Callable[..., Any], inputs: list[Tensor]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")  # type: ignore[no-untyped-call]
    torch.cuda._sleep(1_000_000)  # type: ignore[no-untyped-call]  # lets the host run ahead, so that launches are not timed
    start.record()
    out = tree_leaves(function(*inputs))
    torch.autograd.grad(out, [x for x in inputs if x.requires_grad], out)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def main() -> None:
    parser = argparse.ArgumentParser(description="bytes of the operators that only move memory")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--kernels", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, triton {triton.__version__};"
        f" bytes per token of {arguments.tokens:,}\n"
    )
    totals = print_bytes(arguments.tokens, arguments.kernels)
    print_loss_bytes()
    print_prices(totals)
    if torch.cuda.is_available():
        print_times()


if __name__ == "__main__":
    main()
