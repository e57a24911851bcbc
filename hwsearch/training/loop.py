"""The masked-LM training loop."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hwsearch.errors import HwsearchError
from hwsearch.export.hf import hf_config_text
from hwsearch.files import make_folder, write_whole
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.kernels.loss import linear_cross_entropy
from hwsearch.model import MaskedLanguageModel, save_weights
from hwsearch.model.encoder import check_wiring
from hwsearch.shape import EncoderShape
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.training.batches import Step, batches, evaluation_rows
from hwsearch.training.log import MetricsLog
from hwsearch.training.masking import MaskedRow
from hwsearch.training.recipe import Recipe
from hwsearch.training.token_cache import TokenCache, token_cache

BETAS = (0.9, 0.98)
EPS = 1e-6
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        steps: finished optimizer steps; fewer than asked for after Ctrl-C.
        held_out_before, held_out_after: nats per hidden token of the held-out text at 15 %; `after`
            is None after Ctrl-C.
        tokens_per_second: real tokens, over the steps alone.
    """

    out: Path
    steps: int
    interrupted: bool
    parameters: int
    tokens: int
    tokens_per_second: float
    held_out_before: float
    held_out_after: float | None


def train(
    shape: EncoderShape,
    data: Sequence[Path],
    out: Path,
    recipe: Recipe | None = None,
    *,
    tokenizer: Path | None = None,
    report: Callable[[str], None] = print,
) -> TrainingResult:
    """Train `shape` from fresh weights and leave a folder that transformers loads.

    Writes model.safetensors, config.json, tokenizer.json and tokenizer_config.json at the end, each
    whole, and metrics.jsonl as it goes. Ctrl-C ends the run after the step in progress and writes
    the same files. On a GPU matrix products run in bf16; on the CPU everything is float32, and the
    same seed on the same machine gives the same losses.

    Args:
        shape: a ModernBERT shape.
        data: text files and folders; none means the sources of Python's standard library.
        out: a folder, created if need be.
        recipe: `Recipe()` if None.
        tokenizer: a tokenizer.json or its folder; None trains one on the text.
        report: takes one line of progress at a time.

    Raises HwsearchError for input that does not fit (nothing is written then), and when the loss is
    no longer finite (no weights are written then).
    """
    recipe = recipe or Recipe()
    check_wiring(shape)
    recipe.check_fits(shape)
    text = token_cache(
        data,
        vocab_size=shape.vocab_size,
        tokenizer=tokenizer,
        tokens=recipe.steps * recipe.tokens_per_step,
        report=report,
    )
    make_folder(out)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MaskedLanguageModel(shape).to(device)
    parameters = int(masked_lm_parameters(shape))
    report(
        f"{shape}: {parameters:,} parameters, {recipe.steps:,} steps of up to"
        f" {recipe.tokens_per_step:,} tokens, on {device.type}; {text.training.token_count:,} tokens of text"
    )
    with MetricsLog(out / "metrics.jsonl") as log:
        log.write(
            kind="start",
            shape=shape.to_dict(),
            recipe=asdict(recipe),
            data=text.source,
            device=device.type,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            python=platform.python_version(),
        )
        before = evaluate(model, text, recipe)
        log.write(kind="held_out", step=0, loss=before)
        report(f"held-out loss {before:.3f} before the first step")
        progress = _optimize(model, text, recipe, log, report)
        _save(model, text, out)
        after = None if progress.interrupted else evaluate(model, text, recipe)
        if after is None:
            report(f"stopped after step {progress.steps} of {recipe.steps}; its weights are in {out}")
        else:
            log.write(kind="held_out", step=progress.steps, loss=after)
            report(
                f"held-out loss {before:.3f} -> {after:.3f} nats"
                f" ({text.held_out.token_count:,} tokens, 15 % hidden),"
                f" {progress.tokens_per_second:,.0f} tokens/s; saved in {out}"
            )
    return TrainingResult(
        out=out,
        steps=progress.steps,
        interrupted=progress.interrupted,
        parameters=parameters,
        tokens=progress.tokens,
        tokens_per_second=progress.tokens_per_second,
        held_out_before=before,
        held_out_after=after,
    )


@dataclass
class _Progress:
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def _optimize(
    model: MaskedLanguageModel,
    text: TokenCache,
    recipe: Recipe,
    log: MetricsLog,
    report: Callable[[str], None],
) -> _Progress:
    optimizer = _optimizer(model, recipe)
    progress = _Progress()
    last_line = started = time.perf_counter()
    tokens_at_last_line = 0
    previous: float | None = None
    with StopOnInterrupt() as stop:
        for step, read in zip(range(recipe.steps), _steps(text, recipe), strict=False):
            learning_rate = recipe.learning_rate_at(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            (hidden,) = read.rows
            loss = masked_loss(model, hidden) / len(hidden.targets)
            value = loss.item()
            if not math.isfinite(value):
                raise HwsearchError(_not_finite(step, value, learning_rate, previous))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.max_gradient_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
            optimizer.step()

            now = time.perf_counter()
            progress.steps, progress.seconds = step + 1, now - started
            progress.tokens += read.tokens
            previous = value
            log.write(
                kind="step",
                step=progress.steps,
                loss=value,
                learning_rate=learning_rate,
                tokens=progress.tokens,
                tokens_per_second=progress.tokens_per_second,
            )
            if stop.requested:
                progress.interrupted = True
                break
            if now - last_line >= SECONDS_BETWEEN_LINES or progress.steps == recipe.steps:
                rate = (progress.tokens - tokens_at_last_line) / (now - last_line)
                last_line, tokens_at_last_line = now, progress.tokens
                report(
                    f"step {progress.steps}/{recipe.steps}  loss {value:.3f}"
                    f"  learning rate {learning_rate:.1e}  {rate:,.0f} tokens/s"
                )
    return progress


def _steps(text: TokenCache, recipe: Recipe) -> Iterator[Step]:
    return batches(
        text,
        sequence_length=recipe.sequence_length,
        tokens_per_row=recipe.tokens_per_step,
        rows_of_step=lambda step: 1,
        mask_share=recipe.mask_share,
        seed=recipe.seed,
    )


def _not_finite(step: int, loss: float, learning_rate: float, previous: float | None) -> str:
    last = "it is the first one" if previous is None else f"{previous:.3f} in the step before"
    return (
        f"step {step + 1}: the loss is {loss} ({last}) at learning rate {learning_rate:.2e};"
        " no weights are saved; a lower learning rate, a longer warmup or gradient clipping may help"
    )


def _optimizer(model: MaskedLanguageModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that leaves norms and biases, the one-dimensional weights, without decay."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, eps=EPS, fused=True)


def masked_loss(model: MaskedLanguageModel, hidden: MaskedRow) -> Tensor:
    """Cross-entropy in nats, summed over the hidden tokens; a float32 scalar. No [P, V] logits are kept."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        head_PC = model.head_states(
            torch.from_numpy(hidden.row.tokens).to(device),
            torch.from_numpy(hidden.row.cu_seqlens).to(device),
            hidden.row.max_seqlen,
            torch.from_numpy(hidden.positions).to(device),
        )
        targets_P = torch.from_numpy(hidden.targets).to(device)
        decoder = model.decoder
        total: Tensor = linear_cross_entropy(
            head_PC, decoder.weight, targets_P, decoder.bias, reduction="sum"
        )
        return total


@torch.no_grad()
def evaluate(model: MaskedLanguageModel, text: TokenCache, recipe: Recipe) -> float:
    """Nats per hidden token of the held-out text, 15 % hidden; the same tokens in every call."""
    total, count = 0.0, 0
    for hidden in evaluation_rows(
        text, sequence_length=recipe.sequence_length, tokens_per_row=recipe.tokens_per_step
    ):
        total += masked_loss(model, hidden).item()
        count += len(hidden.targets)
    return total / count


def _save(model: MaskedLanguageModel, text: TokenCache, out: Path) -> None:
    text.tokenizer.save(out, model.shape.max_position_embeddings)
    write_whole(out / "config.json", hf_config_text(model.shape, text.tokenizer.config_ids))
    save_weights(model, out / "model.safetensors")
