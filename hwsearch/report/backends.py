"""Which attention backend `hwsearch.kernels` takes on a GPU, and why, as lines of text."""

from __future__ import annotations

from hwsearch.gpu.attention_kernels import best_kernel
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.dispatch import Call, Choice, choose, installed_packages
from hwsearch.kernels.measured import LENGTHS, measured_for
from hwsearch.report.columns import aligned

HEAD_SIZE = 64


def backend_lines(gpu: Gpu) -> list[str]:
    """A row for each 16-bit type that the GPU has (fp32 where it has none) and each kind of layer."""
    dtypes: list[str] = [d for d in ("fp16", "bf16") if d in gpu.dense_flops_per_s]
    dtypes = dtypes or ["fp32"]
    rows = [["dtype", "layers", "backend", "why"]]
    for dtype in dtypes:
        for layers in ("global", "local"):
            rows += [[dtype, kind, c.backend, c.reason] for kind, c in _choices(gpu, dtype, layers)]
    measured = measured_for(gpu.name)
    source = f"measured: {measured.path}" if measured else "by capability: no measurement of this GPU"
    lines = [f"attention of hwsearch.kernels, heads of {HEAD_SIZE}, {source}"]
    lines += [f"  {line}" for line in aligned(rows, left=4)]
    # The cost model knows no kernel before it was timed; efficient is the same one there.
    priced = {best_kernel(gpu, dtype) for dtype in dtypes} - {"efficient"}
    if priced:
        lines.append(
            f"  predictions price {', '.join(sorted(priced))}, other libraries' best here, by default"
        )
    return lines


def _choices(gpu: Gpu, dtype: str, layers: str) -> list[tuple[str, Choice]]:
    """One choice where it is the same for every length and pass, else one for each."""
    found = {}
    measured = measured_for(gpu.name)
    for training in (False, True):
        call = Call(
            device="cpu" if gpu.name == CPU else "cuda",
            capability=None if gpu.name == CPU else gpu.compute_capability,
            dtype=dtype,
            head_size=HEAD_SIZE,
            local=layers == "local",
            training=training,
            # Where the GPU is, so is Triton.
            packages=installed_packages() | {"triton"},
        )
        for length in LENGTHS:
            name = f"{layers}, {length}, {'training' if training else 'forward'}"
            found[name] = choose(call, length, measured)
    if len(set(found.values())) == 1:
        return [(layers, next(iter(found.values())))]
    return list(found.items())
