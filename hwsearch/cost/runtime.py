"""What a runtime changes: kernels a layer launches, bytes they move, and who waits for the host."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.settings import RuntimeName


@dataclass(frozen=True)
class Runtime:
    """One way to run an encoder layer.

    Attributes:
        host_s_per_kernel: time the CPU needs to launch one kernel; where the sum over kernels
            exceeds the GPU's work, the GPU waits. 0 where a graph or an engine replays them.
        residual_streams: reads and writes of the hidden state by each kernel of a residual add.
        norm_streams: the same for a norm, with the residual add where the two are one kernel.
        gated_streams: the same for the gated activation, of one GLU branch.
        plain_streams: the same for an activation without a gate.
        end_to_end_error_percent: median absolute error on public end-to-end cells that were not fitted,
            results/fit_runtimes.txt.
    """

    host_s_per_kernel: float
    residual_streams: tuple[int, ...]
    norm_streams: tuple[int, ...]
    gated_streams: tuple[int, ...]
    plain_streams: tuple[int, ...]
    end_to_end_error_percent: float


# Eager: add (2 reads, 1 write) and norm (1, 1) are kernels of their own, as are the activation (1, 1)
# and the product with the gate (2, 1). Inductor joins each pair. Engines such as TensorRT also put a
# plain activation into the GEMM before it. The host's time is the median of public end-to-end cells with
# batch 1 and at most 128 tokens, over all the kernels counted here (eager: 15 cells, 65 to 135 us between
# the deciles; compile: 5 cells, 19 to 25 us); benchmarks/fit_runtimes.py prints it.
RUNTIMES: dict[RuntimeName, Runtime] = {
    "eager": Runtime(81e-6, (3,), (2,), (2, 3), (2,), 30.7),
    "graph": Runtime(0.0, (3,), (2,), (2, 3), (2,), 36.5),
    "compile": Runtime(20e-6, (), (4,), (3,), (2,), 23.7),
    "tensorrt": Runtime(0.0, (), (4,), (3,), (), 16.1),
}
