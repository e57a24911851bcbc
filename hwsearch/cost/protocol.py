"""The efficiency protocol of the ModernBERT paper (arXiv 2412.13663, section 4), as its notebooks ran it.

AnswerDotAI/ModernBERT, branch efficiency-spotchecks, efficiency/notebooks: backbones alone, from
transformers or the models' own code, under inference_mode in PyTorch eager; everything float32 with
TF32 off, but FlexBERT casts q, k and v to bf16 for flash attention and compiles its embeddings and
feed-forwards. Batches of 512 short or 32 long sequences unless the notebook says otherwise. RoBERTa's
and DeBERTa's attention stores its scores (their notebooks' tracebacks show it), the others' does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwsearch.cost.activations import Code
from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.cost.memory import encoder_memory
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape import PRESETS, EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload, parse_workload

SHORT, LONG = 512, 8192
# Batches of drawn lengths that are priced; the paper's 8192 sequences make 16 short and 256 long ones.
DRAWN_BATCHES = 16
# What CUDA reported of the 24 GiB of the notebooks' RTX 4090.
USABLE_MEMORY = 23.43 / 24
PADDED = Settings(runtime="eager", dtype="fp32", attention="flash", unpads=False)
STORED = replace(PADDED, attention="math")
UNPADDED = replace(PADDED, unpads=True)
# The compiled feed-forward is most of what runtimes differ in; its norms and residual adds stayed eager.
FLEXBERT = Settings(runtime="compile", dtype="fp32", attention="flash", attention_dtype="bf16", unpads=True)


@dataclass(frozen=True)
class Entry:
    """One line of the paper's table.

    Attributes:
        name: of the line.
        short_batch, long_batch: sequences of a batch.
        fragmentation: memory that PyTorch's caching allocator needs over the bytes alive, replayed from the
            code's own allocations: results/fragmentation.txt.
        code: what its code holds beside the wiring; None is the default for its architecture.
    """

    name: str
    fragmentation: float
    settings: Settings = PADDED
    short_batch: int = 512
    long_batch: int = 32
    code: Code | None = None


def _flexbert(name: str, fragmentation: float) -> Entry:
    return Entry(name, fragmentation, settings=FLEXBERT, code=Code(hidden_states=4))


def _gte(name: str, short_batch: int, long_batch: int) -> tuple[Entry, ...]:
    padded = Entry(name, 1.179, short_batch=short_batch, long_batch=long_batch)
    return padded, replace(padded, name=f"{name} unpadded", settings=UNPADDED)


ENTRIES: dict[str, tuple[Entry, ...]] = {
    "bert-base": (Entry("bert-base", 1.273),),
    "roberta-base": (Entry("roberta-base", 1.334, settings=STORED),),
    "deberta-v3-base": (Entry("deberta-v3-base", 1.081, settings=STORED, short_batch=224),),
    "nomic-bert": (Entry("nomic-bert", 1.179),),
    "gte-en-mlm-base": _gte("gte-en-mlm-base", 512, 32),
    "modernbert-base": (_flexbert("modernbert-base", 1.161),),
    "bert-large": (Entry("bert-large", 1.273),),
    "roberta-large": (Entry("roberta-large", 1.334, settings=STORED, short_batch=396),),
    "deberta-v3-large": (Entry("deberta-v3-large", 1.081, settings=STORED, short_batch=128),),
    "gte-en-mlm-large": _gte("gte-en-mlm-large", 256, 16),
    "modernbert-large": (_flexbert("modernbert-large", 1.220),),
}


@dataclass(frozen=True)
class Half:
    """Short or long: tokens per second, real ones, and the most sequences of full length that fit."""

    fixed_tokens_per_s: float
    variable_tokens_per_s: float
    largest_batch: int


@dataclass(frozen=True)
class ProtocolRow:
    """The predicted line of one encoder; `long` is None where positions end at 512."""

    encoder: str
    gpu: str
    dtype: str
    attention: str
    short: Half
    long: Half | None
    calibration: str


def protocol_rows(presets: list[str], gpu: Gpu) -> list[ProtocolRow]:
    """Predict the paper's lines for some presets. Raises HwsearchError for one that it did not time."""
    if unknown := [name for name in presets if name not in ENTRIES]:
        raise HwsearchError(
            f"{unknown[0]}: the protocol modernbert-paper did not time it; accepted: {', '.join(ENTRIES)}"
        )
    return [_row(PRESETS[name], entry, gpu) for name in presets for entry in ENTRIES[name]]


def _row(preset: EncoderShape, entry: Entry, gpu: Gpu) -> ProtocolRow:
    settings = entry.settings
    stored = settings.attention == "math" or preset.architecture.position == "relative"
    # A table of positions ends; rotary embeddings do not.
    ends = preset.architecture.position in ("learned", "relative")
    return ProtocolRow(
        encoder=entry.name,
        gpu=gpu.name,
        dtype=settings.dtype_on(gpu),
        attention=f"{settings.attention_dtype or settings.dtype_on(gpu)} {'math' if stored else 'flash'}",
        short=_half(preset, entry, gpu, SHORT, entry.short_batch),
        long=None if ends else _half(preset, entry, gpu, LONG, entry.long_batch),
        calibration=gpu.calibration.kind,
    )


def _half(shape: EncoderShape, entry: Entry, gpu: Gpu, length: int, batch: int) -> Half:
    fixed = parse_workload(f"fixed:{length}x{batch}")
    table = ShapeTable.of([shape])
    memory = encoder_memory(table, fixed, entry.settings, entry.settings.dtype_on(gpu), entry.code)
    return Half(
        _tokens_per_s(table, entry.settings, gpu, [fixed]),
        _tokens_per_s(table, entry.settings, gpu, drawn_batches(length, batch)),
        int(memory.batch_within(gpu.memory_bytes * USABLE_MEMORY, batch, entry.fragmentation)[0]),
    )


def drawn_batches(length: int, batch: int) -> list[Workload]:
    """Lengths from Normal(length / 2, length / 8) within 32..length, padded to `length`, in batches."""
    spec = f"normal:{length // 2},{length // 8},32..{length}x{batch * DRAWN_BATCHES}"
    lengths = np.array(parse_workload(spec).lengths).reshape(DRAWN_BATCHES, batch)
    return [Workload(spec, tuple(row), length) for row in lengths.tolist()]


def _tokens_per_s(table: ShapeTable, settings: Settings, gpu: Gpu, batches: list[Workload]) -> float:
    layers = DistinctLayers(table)
    if not settings.unpads:
        seconds = len(batches) * float(encoder_time(layers, gpu, batches[0], settings).latency[0])
    else:
        seconds = sum(float(encoder_time(layers, gpu, batch, settings).latency[0]) for batch in batches)
    return sum(batch.tokens for batch in batches) / seconds
