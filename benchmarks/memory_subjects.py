"""Models to account for, what is measured of them, and the prediction of it; CPU only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import transformers
from memory_accounting import LiveBytes, bytes_saved
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hwsearch.cost.activations import CODES, Code, Load, saved_bytes
from hwsearch.cost.memory import CONTEXT_BYTES, load_memory
from hwsearch.gpu.profile import BYTES_PER_ELEMENT
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.encoder import Attention, FeedForward
from hwsearch.settings import Settings
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.parameters import head_matrices, layer_matrices
from hwsearch.shape.table import ShapeTable

BATCH, LENGTH = 4, 256
PREDICTED_EVERY = 3
MIXED = (352, 288, 224, 160)  # as many tokens
TRANSFORMERS_MODERNBERT = Code(hidden_states=5)


@dataclass(frozen=True)
class Subject:
    """A model and a batch: its loss, its backbone's forward pass, and what a prediction needs."""

    model: torch.nn.Module
    backbone: torch.nn.Module
    loss: Callable[[], Tensor]
    encode: Callable[[], object]
    load: Load
    settings: Settings
    code: Code


def subject(code: str, notation: str) -> Subject:
    """`ours` is hwsearch.model without our kernels for CPUs, `mixed` the same with sequences of several
    lengths, `transformers` that library's model of the shape's architecture."""
    torch.manual_seed(0)
    shape = parse_shape(notation)
    tokens = torch.randint(5, shape.vocab_size, (BATCH, LENGTH))
    if code == "transformers":
        return _transformers(shape, tokens)
    return _ours(shape, tokens, MIXED if code == "mixed" else (LENGTH,) * BATCH)


def _ours(shape: EncoderShape, tokens: Tensor, lengths: tuple[int, ...]) -> Subject:
    model, packed = MaskedLanguageModel(shape), tokens.flatten()
    for module in model.modules():  # plain torch is what is accounted for
        if isinstance(module, Attention):
            module.backend = "cpu"
        if isinstance(module, FeedForward):
            module.fused_gate = False
    offsets = torch.tensor([0, *accumulate(lengths)])
    positions = torch.arange(0, packed.numel(), PREDICTED_EVERY)

    def loss() -> Tensor:
        return F.cross_entropy(model(packed, offsets, max(lengths), positions).float(), packed[positions])

    pairs = sum(length * length for length in lengths)
    load = Load(packed.numel(), len(lengths), pairs, len(positions))
    encode = partial(model.model, packed, offsets, max(lengths))
    return Subject(model, model.model, loss, encode, load, Settings(), CODES["modernbert"])


def _transformers(shape: EncoderShape, tokens: Tensor) -> Subject:
    attention = "eager" if shape.architecture.name in ("roberta", "deberta-v3") else "sdpa"
    model = _BUILDERS[shape.architecture.name](shape, attention)
    if shape.architecture.position == "relative":
        # One table of relative positions serves all sequences and is not counted: less of it.
        tokens = tokens.reshape(2 * BATCH, LENGTH // 2)
    ones = torch.ones_like(tokens)

    def loss() -> Tensor:
        found: Tensor = model(input_ids=tokens, attention_mask=ones, labels=tokens).loss
        return found

    backbone = getattr(model, model.base_model_prefix)
    load = Load(tokens.numel(), len(tokens), tokens.numel() * tokens.shape[1], tokens.numel())
    settings = Settings(attention="math" if attention == "eager" else "flash")
    name = shape.architecture.name
    code = TRANSFORMERS_MODERNBERT if name == "modernbert" else CODES[name]
    encode = partial(backbone, input_ids=tokens, attention_mask=ones)
    return Subject(model, backbone, loss, encode, load, settings, code)


def _sizes(shape: EncoderShape, attention: str) -> dict[str, Any]:
    """What every config takes; without dropout, which no prediction counts."""
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
    sizes = {name: getattr(shape, name) for name in names}
    return {**sizes, "pad_token_id": 0, "attn_implementation": attention}


def _modernbert(shape: EncoderShape, attention: str) -> Any:
    ends: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    kinds = ["sliding_attention"] * shape.num_hidden_layers
    kinds[:: shape.global_attn_every_n_layers] = ["full_attention"] * shape.num_global_layers
    config = transformers.ModernBertConfig(**_sizes(shape, attention), **ends, layer_types=kinds)
    return transformers.ModernBertForMaskedLM(config)


NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _bert(shape: EncoderShape, attention: str) -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_sizes(shape, attention), **NO_DROPOUT))


def _roberta(shape: EncoderShape, attention: str) -> Any:
    positions: dict[str, Any] = {"max_position_embeddings": shape.max_position_embeddings + 2}
    config = transformers.RobertaConfig(**_sizes(shape, attention), **positions, **NO_DROPOUT)
    return transformers.RobertaForMaskedLM(config)


def _deberta(shape: EncoderShape, attention: str) -> Any:
    published: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_position_embeddings": 512,
        "legacy": False,
    }
    config = transformers.DebertaV2Config(**_sizes(shape, attention), **published, **NO_DROPOUT)
    return transformers.DebertaV2ForMaskedLM(config)


_BUILDERS = {"modernbert": _modernbert, "bert": _bert, "roberta": _roberta, "deberta-v3": _deberta}


def saved(case: Subject, notation: str, dtype: str) -> tuple[float, float]:
    """Bytes saved: counted by torch, and predicted."""
    with _autocast(dtype):
        counted = bytes_saved(case.model, case.loss)
    table, element = ShapeTable.of([parse_shape(notation)]), BYTES_PER_ELEMENT[dtype]
    settings = replace(case.settings, mode="training", head="mlm")
    found = saved_bytes(table, case.load, settings, element, case.code)
    predicted = found.norms + table.num_hidden_layers * found.per_layer - found.unread + found.head
    if dtype == "bf16":
        matrices = table.num_hidden_layers * layer_matrices(table) + head_matrices(table)
        predicted = predicted + element * matrices
    return counted, float(predicted[0])


def training(case: Subject, notation: str, dtype: str, recompute: bool) -> tuple[float, float]:
    """Most bytes alive in a training step: counted, and predicted."""
    weights = [weight for weight in case.model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    if recompute:
        _checkpoint_layers(case.model)
    with LiveBytes() as live:
        with _autocast(dtype):
            loss = case.loss()
        loss.backward()  # type: ignore[no-untyped-call]
    counted = live.peak + 16 * sum(weight.numel() for weight in weights)
    settings = replace(case.settings, mode="training", head="mlm", recompute=recompute)
    return counted, _predicted(case, notation, settings, dtype)


def inference(case: Subject, notation: str, dtype: str) -> tuple[float, float]:
    """Most bytes alive in the backbone's forward pass: counted, and predicted."""
    if dtype == "bf16":
        case.model.to(torch.bfloat16)
    with torch.inference_mode(), LiveBytes() as live:
        case.encode()
    weights = sum(weight.nbytes for weight in case.backbone.parameters())
    return live.peak + weights, _predicted(case, notation, case.settings, dtype)


def _predicted(case: Subject, notation: str, settings: Settings, dtype: str) -> float:
    memory = load_memory(ShapeTable.of([parse_shape(notation)]), case.load, settings, dtype, case.code)
    return float(memory.peak_bytes[0]) - CONTEXT_BYTES


def _autocast(dtype: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16")


def _checkpoint_layers(model: torch.nn.Module) -> None:
    if isinstance(model, MaskedLanguageModel):
        for layer in model.model.layers:
            forward = layer.forward
            layer.forward = partial(checkpoint, forward, use_reentrant=False)
    else:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


MEASURES: dict[str, Callable[[Subject, str, str], tuple[float, float]]] = {
    "saved": saved,
    "training": partial(training, recompute=False),
    "recompute": partial(training, recompute=True),
    "inference": inference,
}
