"""Which backend serves a call of varlen_attention, and why. Imports the standard library alone.

A tuned table decides where there is one for the device or its family, else the capability of the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from .backends import BACKENDS
from .cpu_kernels.library import ROW_MULTIPLE, why_none
from .tuned import DEFAULT, Found

DTYPES = ("fp16", "bf16", "fp32", "fp64")
TRITON_HEAD_SIZES = (32, 64, 128)
FLASH_LARGEST_HEAD = 256
# From here Triton multiplies on tensor cores, and the flash kernels exist.
AMPERE = (8, 0)


@dataclass(frozen=True)
class Call:
    """What the choice depends on.

    Attributes:
        device: "cuda", "cpu" or another of torch's device types.
        capability: compute capability of a CUDA device, else None.
        dtype: one of DTYPES.
        head_size: D.
        local: a window is given.
        training: gradients are wanted.
        packages: of "triton" and "flash_attn", those at hand.
        interpreted: Triton runs on the CPU (TRITON_INTERPRET=1).
    """

    device: str
    capability: tuple[int, int] | None
    dtype: str
    head_size: int
    local: bool
    training: bool = False
    packages: frozenset[str] = frozenset({"triton"})
    interpreted: bool = False


@dataclass(frozen=True)
class Choice:
    """A backend and why; where a table decided, also how many times as fast it is as the next, by name."""

    backend: str
    reason: str
    ahead: tuple[float, str] | None = None


def choose(call: Call, found: Found = DEFAULT) -> Choice:
    """The backend of a call for which the table of backends holds `found`."""
    served = allowed(call)
    seconds = {backend: s for backend, s in _seconds(found).items() if backend in served}
    if seconds:
        return _fastest(seconds, found)
    match call.device:
        case "cuda":
            first, best = "triton", served[0]
        case "cpu":  # for which Triton only stands in
            first, best = "native", "native" if "native" in served else "cpu"
        case _:
            return Choice("sdpa", _WHAT["sdpa"])
    refused = why_not(first, call)
    return Choice(
        best, what(best, call) if refused is None else f"{what(best, call)}; not {first}: {refused}"
    )


def backend_table(training: bool) -> str:
    """The kernel, by its name in the tuned tables, that the choice of a backend is."""
    return "attention_backend_training" if training else "attention_backend"


def allowed(call: Call) -> tuple[str, ...]:
    """The backends that can serve the call, best first."""
    return tuple(backend for backend in BACKENDS if why_not(backend, call) is None)


def check_backend(backend: str, call: Call) -> None:
    """Raise ValueError unless `backend` can serve the call."""
    reason = why_not(backend, call) if backend in BACKENDS else "no backend has this name"
    if reason is not None:
        raise ValueError(f"backend: {backend!r}: {reason}; accepted here: {', '.join(allowed(call))}")


def why_not(backend: str, call: Call) -> str | None:
    """Why `backend` cannot serve the call; None where it can."""
    match backend:
        case "triton":
            return _why_not_triton(call)
        case "flash_attn" | "torch_flash":
            return _why_not_flash(backend, call)
        case "efficient":
            return _why_not_efficient(call)
        case "native" | "cpu" if call.device != "cpu":
            return f"it is for tensors on a CPU, and these are on {call.device}"
        case "native":
            return _why_not_native(call)
    return None


def _why_not_triton(call: Call) -> str | None:
    if "triton" not in call.packages:
        return "triton is not installed"
    if call.device == "cuda" and _older(call, AMPERE):
        return f"Triton uses tensor cores from compute capability 8.0, not on {_version(call)}"
    if call.device != "cuda" and not (call.device == "cpu" and call.interpreted):
        return "it runs on CUDA GPUs, and on a CPU under TRITON_INTERPRET=1"
    if call.dtype not in ("fp16", "bf16", "fp32"):
        return f"its kernels take fp16, bf16 and fp32, not {call.dtype}"
    if call.head_size not in TRITON_HEAD_SIZES:
        return f"its kernels take head sizes {_listed(TRITON_HEAD_SIZES)}, not {call.head_size}"
    return None


def _why_not_flash(backend: str, call: Call) -> str | None:
    if backend == "flash_attn" and "flash_attn" not in call.packages:
        return "the package flash-attn is not installed"
    if call.device != "cuda":
        return "it runs on CUDA GPUs"
    if _older(call, AMPERE):
        return f"FlashAttention-2 needs compute capability 8.0, and this is {_version(call)}"
    if call.dtype not in ("fp16", "bf16"):
        return f"its kernels take fp16 and bf16, not {call.dtype}"
    if call.head_size % 8 or call.head_size > FLASH_LARGEST_HEAD:
        return f"its kernels take head sizes that are multiples of 8 up to 256, not {call.head_size}"
    return None


def _why_not_efficient(call: Call) -> str | None:
    if call.device != "cuda":
        return "it runs on CUDA GPUs"
    if call.dtype == "fp64" or (call.dtype == "bf16" and _older(call, AMPERE)):
        return f"its kernels take fp16, fp32 and, from compute capability 8.0, bf16, not {call.dtype}"
    if call.head_size % 8:
        return f"its kernels take head sizes that are multiples of 8, not {call.head_size}"
    return None


def _why_not_native(call: Call) -> str | None:
    if call.dtype != "fp32":
        return f"its kernels take fp32, not {call.dtype}"
    if call.head_size % ROW_MULTIPLE:
        return f"its kernels take head sizes that are multiples of {ROW_MULTIPLE}, not {call.head_size}"
    return why_none()


def what(backend: str, call: Call) -> str:
    """The backend in a few words."""
    if backend == "efficient" and call.local:
        return "PyTorch's memory-efficient kernel on blocks along the diagonal"
    return _WHAT[backend]


_WHAT = {
    "triton": "hwsearch's Triton kernels, on tensor cores from compute capability 8.0",
    "flash_attn": "the package flash-attn",
    "torch_flash": "the flash kernel in PyTorch",
    "efficient": "PyTorch's memory-efficient kernel, which takes packed sequences",
    "sdpa": "PyTorch's scaled_dot_product_attention for each length",
    "native": "hwsearch's C++ kernels, compiled for this CPU",
    "cpu": "plain PyTorch for CPUs",
}


@cache
def installed_packages() -> frozenset[str]:
    specs = {name: find_spec(name) for name in ("triton", "flash_attn")}
    # Without an origin it is a folder for others' parts, as FlashAttention-4 alone leaves of flash_attn.
    return frozenset(name for name, spec in specs.items() if spec is not None and spec.origin is not None)


def _seconds(found: Found) -> dict[str, float]:
    """Seconds by backend."""
    if found.row is None:
        return {}
    timed = ((found.row.config, found.row.seconds), *found.row.alternatives)
    return {str(config["backend"]): seconds for config, seconds in timed}


def _fastest(seconds: dict[str, float], found: Found) -> Choice:
    best, *rest = sorted(seconds, key=lambda backend: seconds[backend])
    source = found.row.source if found.row is not None else ""
    reason = f"{found.state}: {source} on {found.gpu}"
    return Choice(best, reason, (seconds[rest[0]] / seconds[best], rest[0]) if rest else None)


def _older(call: Call, capability: tuple[int, int]) -> bool:
    return call.capability is None or call.capability < capability


def _version(call: Call) -> str:
    return "unknown" if call.capability is None else ".".join(map(str, call.capability))


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
