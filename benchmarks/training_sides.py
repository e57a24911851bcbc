"""One optimizer step each: hwsearch's, transformers' ModernBertForMaskedLM's, and of matrix products alone.

A step is a function without arguments that trains on about `Task.step_tokens` tokens and returns how many
real ones they were. float32 on the CPU, bf16 by autocast over float32 weights on a GPU, on both sides; the
loss of both is the mean over the step's hidden tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, ModernBertConfig, ModernBertForMaskedLM
from transformers.trainer_pt_utils import LengthGroupedSampler

from hwsearch.export.hf import SpecialIds, hf_config
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.compiling import compile_for_all_sizes
from hwsearch.shape import EncoderShape
from hwsearch.training.batches import batches
from hwsearch.training.loop import accumulate, predictions_of
from hwsearch.training.optimizer import make_optimizer, set_rates
from hwsearch.training.processes import Processes
from hwsearch.training.recipe import Phase, Recipe
from hwsearch.training.sequences import Sequences
from hwsearch.training.token_cache import TokenCache

MASK_SHARE, LEARNING_RATE = 0.3, 1e-4

TrainStep = Callable[[], int]


@dataclass(frozen=True)
class Task:
    """What both sides train, on what.

    Attributes:
        lengths: of the documents, CLS and SEP included; none is over `sequence_length`.
        theirs: `cache.tokenizer` as transformers reads it.
        step_tokens: of one optimizer step, about.
        workers: processes that collate for transformers at its best; hwsearch makes its rows in line.
    """

    shape: EncoderShape
    cache: TokenCache
    lengths: NDArray[np.int64]
    sequence_length: int
    theirs: Any
    step_tokens: int
    device: torch.device
    workers: int


@dataclass(frozen=True)
class Setting:
    """How one side runs.

    Attributes:
        micro_tokens: of one pass through the model, about: hwsearch's row, transformers' real tokens.
        compiled: by torch.compile with dynamic shapes.
        attention: transformers' attn_implementation.
        at_best: transformers with sparse_prediction, grouping by length, no clipping, no mask of ones.
    """

    micro_tokens: int
    compiled: bool = False
    attention: str = ""
    at_best: bool = False

    def __str__(self) -> str:
        words = [f"{self.micro_tokens:,} tokens", self.attention, "compiled" if self.compiled else ""]
        return ", ".join(word for word in words if word)


def hwsearch_step(task: Task, setting: Setting) -> TrainStep:
    """hwsearch.training.loop's step, without its log and checkpoints."""
    rows = max(1, task.step_tokens // setting.micro_tokens)
    tokens = rows * setting.micro_tokens
    phase = Phase(
        name="benchmark",
        tokens=tokens,
        sequence_length=task.sequence_length,
        tokens_per_step=tokens,
        tokens_per_row=setting.micro_tokens,
        learning_rate=LEARNING_RATE,
        mask_share=MASK_SHARE,
    )
    model = MaskedLanguageModel(task.shape).to(task.device)
    if setting.compiled:
        compile_for_all_sizes(model)
    optimizer = make_optimizer(model, Recipe(phases=(phase,)))
    processes = Processes(0, 1, task.device)
    steps = batches(
        task.cache,
        sequence_length=phase.sequence_length,
        tokens_per_row=phase.tokens_per_row,
        rows_of_step=lambda step: rows,
        mask_share=phase.mask_share,
        seed=0,
    )
    following = next(steps)

    def step() -> int:
        nonlocal following
        read = following
        set_rates(optimizer, phase, LEARNING_RATE)
        total = accumulate(model, processes, read, phase, rows, predictions_of(read))
        following = next(steps)  # while a GPU is busy
        total.item()
        optimizer.step()
        optimizer.zero_grad()  # here rather than first, so that peaks count gradients on both sides
        return read.tokens

    return step


def transformers_step(task: Task, setting: Setting) -> TrainStep:
    """A bare loop: what Trainer does for a step, without its callbacks; AdamW is its default, fused."""
    model = transformers_model(task, setting)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    stream, passes = _endless(transformers_loader(task, setting)), passes_of(task, setting)

    def step() -> int:
        taken = list(islice(stream, passes))  # the loss is a mean over all of them, so Trainer counts first
        predictions = sum(int((each["labels"] != -100).sum()) for each in taken)
        total = torch.zeros((), device=task.device)
        for each in taken:
            inputs = {name: x.to(task.device, non_blocking=True) for name, x in each.items()}
            with torch.autocast(task.device.type, torch.bfloat16, enabled=task.device.type == "cuda"):
                loss = model(**inputs, num_items_in_batch=predictions).loss
            loss.backward()
            total += loss.detach()
        if not setting.at_best:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total.item()
        return sum(int(real_tokens(each)) for each in taken)

    return step


def transformers_model(task: Task, setting: Setting) -> Any:
    """ModernBertForMaskedLM of the task's shape, on its device."""
    tokenizer = task.cache.tokenizer
    ids = SpecialIds(cls=tokenizer.id("cls"), sep=tokenizer.id("sep"), pad=tokenizer.id("pad"))
    config = ModernBertConfig(**hf_config(task.shape, ids), sparse_prediction=setting.at_best)
    model = ModernBertForMaskedLM._from_config(config, attn_implementation=setting.attention)  # type: ignore[no-untyped-call]
    model.to(task.device).train()
    if setting.compiled:
        compile_for_all_sizes(model)
    return model


def transformers_loader(task: Task, setting: Setting) -> DataLoader[Any]:
    """Micro-batches of documents, `passes_of` to a step."""
    on_gpu = task.device.type == "cuda"
    collate = DataCollatorForLanguageModeling(
        task.theirs,
        mlm_probability=MASK_SHARE,
        pad_to_multiple_of=8 if setting.at_best and on_gpu else None,
    )
    workers = task.workers if setting.at_best else 0
    return DataLoader(
        _examples(task),  # type: ignore[arg-type]
        batch_sampler=list(chain.from_iterable(_order(task, setting))),
        collate_fn=_WithoutIdleMask(collate) if setting.at_best else collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )


def real_tokens(inputs: dict[str, Tensor]) -> Tensor:
    """Of a micro-batch, without padding; a scalar on its device."""
    mask = inputs.get("attention_mask")
    return torch.tensor(inputs["input_ids"].numel()) if mask is None else mask.sum()


def passes_of(task: Task, setting: Setting) -> int:
    """Micro-batches of a step."""
    return max(1, round(task.step_tokens / float(task.lengths.mean()) / _documents(task, setting)))


def _documents(task: Task, setting: Setting) -> int:
    """Of a micro-batch."""
    return max(1, round(setting.micro_tokens / float(task.lengths.mean())))


@dataclass(frozen=True)
class _WithoutIdleMask:
    """A mask of ones would only choose slower kernels."""

    collate: Any

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        inputs = dict(self.collate(examples))
        if bool(inputs["attention_mask"].all()):
            del inputs["attention_mask"]
        return inputs


def products_step(task: Task, setting: Setting) -> TrainStep:
    """The products of activations and weights, forward and both gradients, in rows of `micro_tokens`.

    Attention's own products are left out, outputs are written over each other: no step can be faster.
    """
    tokens, shape = setting.micro_tokens, task.shape
    predicted = int(tokens * MASK_SHARE)
    h, i, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    after_attention = ((h, h), (h, 2 * i), (i, h))
    sizes = [(layers, tokens, h, 3 * h), *((layers - 1, tokens, *size) for size in after_attention)]
    # Nobody reads the other tokens after the last attention.
    sizes += [(1, predicted, *size) for size in (*after_attention, (h, h), (h, shape.vocab_size))]
    dtype = torch.bfloat16 if task.device.type == "cuda" else torch.float32

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype, device=task.device)

    operands = [
        (count, drawn(m, inner), drawn(m, outer), drawn(outer, inner)) for count, m, inner, outer in sizes
    ]
    results = [tuple(torch.empty_like(x) for x in each[1:]) for each in operands]
    rows = max(1, task.step_tokens // tokens)

    def step() -> int:
        for _ in range(rows):
            for (count, x, dy, weight), (dx, y, dweight) in zip(operands, results, strict=True):
                for _ in range(count):
                    torch.mm(x, weight.T, out=y)
                    torch.mm(dy, weight, out=dx)
                    torch.mm(dy.T, x, out=dweight)
        return rows * tokens

    return step


def _order(task: Task, setting: Setting) -> list[list[list[int]]]:
    """Steps of micro-batches of documents' numbers."""
    lengths = task.lengths.tolist()
    size, passes = _documents(task, setting), passes_of(task, setting)
    generator = torch.Generator().manual_seed(0)
    if setting.at_best:
        numbers = list(LengthGroupedSampler(size * passes, lengths=lengths, generator=generator))
    else:
        numbers = torch.randperm(len(lengths), generator=generator).tolist()
    micro = [numbers[first : first + size] for first in range(0, len(numbers) - size + 1, size)]
    steps = [micro[first : first + passes] for first in range(0, len(micro) - passes + 1, passes)]
    # Grouping puts the longest first; a few steps from anywhere stand for all of them.
    return [steps[number] for number in torch.randperm(len(steps), generator=generator).tolist()]


def _examples(task: Task) -> list[dict[str, list[int]]]:
    """What a tokenizer returns with return_special_tokens_mask, which spares the collator the work."""
    sequences = Sequences(task.cache.training, task.sequence_length)
    begins, ends = sequences.spans(np.arange(len(sequences)))
    cls, sep = task.cache.tokenizer.id("cls"), task.cache.tokenizer.id("sep")
    return [
        {
            "input_ids": [cls, *task.cache.training.tokens[begin:end].tolist(), sep],
            "special_tokens_mask": [1, *[0] * int(end - begin), 1],
        }
        for begin, end in zip(begins, ends, strict=True)
    ]


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
