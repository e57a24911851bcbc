"""One training run from start to finish: text, model, checkpoint to go on from, loop, final weights."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from hwsearch.errors import HwsearchError
from hwsearch.files import hold, make_folder, write_whole
from hwsearch.model import MaskedLanguageModel, load_weights
from hwsearch.model.compiling import compile_for_all_sizes
from hwsearch.model.scaling import parameter_scales, scale_initial_weights
from hwsearch.model.tiling import tile_from
from hwsearch.shape import EncoderShape
from hwsearch.shape.buildable import check_wiring
from hwsearch.shape.flops import count_flops
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.training.averaging import average_weights
from hwsearch.training.batches import evaluation_rows
from hwsearch.training.checkpoint import PREFIX, WEIGHTS, Checkpoint, find_checkpoints, latest_checkpoint
from hwsearch.training.log import open_log
from hwsearch.training.loop import (
    CHECKPOINTS,
    Judge,
    Progress,
    Run,
    evaluate,
    run_phases,
    summed_loss,
    whole_weights,
)
from hwsearch.training.optimizer import fill, load_optimizer, make_optimizer
from hwsearch.training.plan import device_flops_per_s, device_profile, make_plan
from hwsearch.training.processes import Processes, joined_processes
from hwsearch.training.recipe import Recipe, short_recipe
from hwsearch.training.schedule import Schedule
from hwsearch.training.token_cache import TokenCache, token_cache

# Changing these changes no step, so a run may go on with other values.
NOT_OF_THE_STEPS = {"save_every_seconds", "average"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        steps: finished optimizer steps; fewer than planned after Ctrl-C.
        tokens: real ones, trained on.
        tokens_per_second: over the steps alone.
        judged: whether the judge ended it; no final weights are written then.
        held_out_before, held_out_after: nats per hidden token of the held-out text at 15 %; `after`
            is None after Ctrl-C.
    """

    out: Path
    steps: int
    interrupted: bool
    judged: bool
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
    resume: bool = False,
    start: Path | None = None,
    rates_of: EncoderShape | None = None,
    fsdp: bool = False,
    recompute: bool = False,
    compile: bool = False,
    judge: Judge | None = None,
    bar: bool = False,
    report: Callable[[str], None] = print,
) -> TrainingResult:
    """Train `shape` as a masked language model and leave a folder that transformers loads.

    Writes metrics.jsonl, tensorboard/ and checkpoints/ as it goes; model.safetensors, config.json and the
    tokenizer at the end, each whole. Ctrl-C ends the run after the step in progress with a checkpoint.
    On the CPU the same seed on the same machine gives the same losses, stopped and resumed or not. Under
    torchrun each process takes its rows of every step and rank 0 writes.

    Args:
        shape: a shape that `MaskedLanguageModel` builds.
        data: text files and folders; none means the sources of Python's standard library.
        out: a folder, created if need be; one that holds checkpoints needs `resume`.
        recipe: `short_recipe()` if None.
        tokenizer: a tokenizer.json or its folder; None trains one on the text.
        resume: go on from the newest whole checkpoint, or begin where there is none.
        start: a smaller model's folder, whose weights are tiled into this shape (hwsearch.model.tiling).
        rates_of: the shape that the recipe's learning rates were chosen for; None takes them as they are
            (hwsearch.model.scaling, CompleteP).
        fsdp: shard weights, gradients and optimizer over the processes (FSDP2) instead of copying them.
        recompute: keep each layer's input alone and run layers twice, for less memory.
        compile: run the model through torch.compile.
        judge: is told the step and the held-out loss after every kept step, and ends the run by True.
        bar: a bar on standard error in place of a line now and then.
        report: takes one line at a time.

    Raises HwsearchError for input that does not fit (nothing is written then), for a disk that is full
    and for a loss that is not finite (checkpoints stay, the batch is saved).
    """
    recipe = recipe or short_recipe()
    check_wiring(shape)
    recipe.check_fits(shape)
    with joined_processes() as processes:
        if fsdp and processes.count == 1:
            raise HwsearchError("fsdp: there is one process alone; accepted: several, started by torchrun")
        if not processes.speaks:
            report, bar = _say_nothing, False
        # In a function of its own: the group must outlive the modules that speak through it.
        return _train(
            processes, shape, data, out, recipe, tokenizer=tokenizer, resume=resume, start=start,
            rates_of=rates_of, fsdp=fsdp, recompute=recompute, compile=compile, judge=judge, bar=bar,
            report=report,
        )  # fmt: skip


def _train(
    processes: Processes,
    shape: EncoderShape,
    data: Sequence[Path],
    out: Path,
    recipe: Recipe,
    *,
    tokenizer: Path | None,
    resume: bool,
    start: Path | None,
    rates_of: EncoderShape | None,
    fsdp: bool,
    recompute: bool,
    compile: bool,
    judge: Judge | None,
    bar: bool,
    report: Callable[[str], None],
) -> TrainingResult:
    """`train` in a process of several or alone."""
    schedules = tuple(Schedule.of(phase) for phase in recipe.scaled_phases())
    scales = parameter_scales(shape, rates_of) if rates_of else None
    with ExitStack() as stack:
        wanted = sum(schedule.tokens for schedule in schedules)
        text = token_cache(
            data, vocab_size=shape.vocab_size, tokenizer=tokenizer, tokens=wanted, report=report
        )
        identity = {
            "shape": shape.to_dict(),
            "recipe": recipe.model_dump(mode="json", exclude=NOT_OF_THE_STEPS),
            "text": text.digest,
            "tokenizer": text.tokenizer.digest,
            "start": None if start is None else str(start.resolve()),
            "rates_of": None if rates_of is None else rates_of.to_dict(),
        }
        make_folder(out)
        if processes.speaks:
            stack.enter_context(hold(out / ".lock", f"{out}: another process trains here"))
        checkpoint = processes.agree(
            _where_to_begin(out / CHECKPOINTS, identity, resume, report) if processes.speaks else None
        )

        torch.manual_seed(recipe.seed)
        model = MaskedLanguageModel(shape, recompute=recompute)
        if checkpoint:
            load_weights(model, checkpoint.weights)
        elif start:
            tile_from(model, start)
        elif scales:
            scale_initial_weights(model, scales)
        model.to(processes.device)
        if compile:
            compile_for_all_sizes(model)
        module = processes.spread(model, model.model.layers, fsdp=fsdp)
        optimizer = make_optimizer(model, recipe, scales=scales, sharded=fsdp)
        progress, log_position = Progress(), 0
        if checkpoint:
            tensors = checkpoint.tensors()
            load_optimizer(model, optimizer, tensors)
            torch.set_rng_state(tensors["random"])
            progress = Progress(**checkpoint.position["progress"])
            log_position = checkpoint.position["log"]
            report(f"going on after step {progress.step}, from {checkpoint.folder}")

        gpu = device_profile(processes.device.type == "cuda")
        plan = make_plan(
            shape,
            schedules,
            gpu,
            processes=processes.count,
            runtime="compile" if compile else "eager",
            recompute=recompute,
            seconds_per_flop=lambda: seconds_per_flop(module, model, text, schedules[0]),
        )
        for line in plan.lines():
            report(line)
        log = stack.enter_context(
            open_log(
                out if processes.speaks else None,
                report,
                steps=plan.steps,
                step=progress.step,
                position=log_position,
                bar=bar,
            )
        )
        run = Run(
            recipe=recipe,
            schedules=schedules,
            text=text,
            out=out,
            processes=processes,
            model=model,
            module=module,
            optimizer=optimizer,
            log=log,
            identity=identity,
            flops_per_s=device_flops_per_s(gpu),
            progress=progress,
            judge=judge,
        )
        if not checkpoint:
            log.write(
                kind="start",
                **identity,
                data=text.source,
                device=processes.device.type,
                processes=processes.count,
                threads=torch.get_num_threads(),
                torch=torch.__version__,
                python=platform.python_version(),
            )
        try:
            ending = run_phases(run)
        except torch.OutOfMemoryError as error:
            raise HwsearchError(
                f"step {progress.step + 1}: the GPU's memory is full; accepted: a recipe with a smaller"
                " tokens_per_row, --recompute, or --fsdp on several GPUs"
            ) from error
        if ending == "interrupted":
            report(f"stopped after step {progress.step} of {plan.steps}; --resume goes on from there")
        elif ending == "finished":
            _finish(run)
    return TrainingResult(
        out=out,
        steps=progress.step,
        interrupted=ending == "interrupted",
        judged=ending == "judged",
        parameters=int(masked_lm_parameters(shape)),
        tokens=progress.tokens,
        tokens_per_second=progress.tokens / progress.seconds if progress.seconds else 0.0,
        held_out_before=progress.first_loss,
        held_out_after=None if ending == "interrupted" else progress.last_loss,
    )


def _finish(run: Run) -> None:
    """The last weights, or the mean of the best ones, where transformers looks for them."""
    weights = whole_weights(run.model)
    if run.recipe.average:
        chosen = run.processes.agree(_to_average(run) if run.processes.speaks else None)
        weights = average_weights([checkpoint.weights for checkpoint in chosen])
        for name, weight in run.model.named_parameters():
            fill(weight, weights[name])
        steps = ", ".join(str(checkpoint.position["progress"]["step"]) for checkpoint in chosen)
        run.log.report(f"the mean of the weights after steps {steps}:")
        evaluate(run, run.schedules[-1])
    if run.processes.speaks:
        run.write_texts(run.out)
        write_whole(run.out / WEIGHTS, save(weights, metadata={"format": "pt"}))
    progress = run.progress
    run.log.report(
        f"held-out loss {progress.first_loss:.3f} -> {progress.last_loss:.3f} nats (15 % hidden),"
        f" {progress.tokens / progress.seconds:,.0f} tokens/s; saved in {run.out}"
    )


def _where_to_begin(
    checkpoints: Path, identity: dict[str, Any], resume: bool, report: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to go on from, None to begin. Raises HwsearchError where the user has to decide."""
    if not resume:
        if any(checkpoints.glob(f"{PREFIX}*")):
            raise HwsearchError(
                f"{checkpoints.parent}: holds a run already; accepted: --resume to go on, or another folder"
            )
        return None
    checkpoint = latest_checkpoint(checkpoints, report)
    if checkpoint is None:
        report(f"{checkpoints}: no checkpoint to go on from; beginning")
        return None
    began = checkpoint.position["run"]
    if other := [name for name in identity if began.get(name) != identity[name]]:
        raise HwsearchError(
            f"{checkpoint.folder}: was made with another {other[0]}:"
            f" {_difference(began.get(other[0]), identity[other[0]])}; accepted: the same, or another folder"
        )
    return checkpoint


def _difference(began: Any, now: Any) -> str:
    if isinstance(began, dict) and isinstance(now, dict):
        name = next(key for key in {**began, **now} if began.get(key) != now.get(key))
        return f"{name}: {_difference(began.get(name), now.get(name))}"
    return f"{began} then, {now} now"


def _to_average(run: Run) -> list[Checkpoint]:
    """The last phase's best checkpoints on held-out text, and its last one."""
    last = len(run.schedules) - 1
    evaluated = [
        checkpoint
        for checkpoint in find_checkpoints(run.checkpoints)
        if checkpoint.position["evaluated"] and checkpoint.position["progress"]["phase"] == last
    ]
    before = sorted(evaluated[:-1], key=lambda each: float(each.position["progress"]["last_loss"]))
    return [*before[: run.recipe.average], evaluated[-1]]


def seconds_per_flop(
    module: nn.Module, model: MaskedLanguageModel, text: TokenCache, schedule: Schedule
) -> float:
    """Of a row, forward and backward, the second time; every process of several must call it."""
    phase = schedule.phase
    hidden = evaluation_rows(
        text, sequence_length=phase.sequence_length, tokens_per_row=phase.tokens_per_row
    )[0]
    device = next(model.parameters()).device
    for _ in range(2):
        began = time.perf_counter()
        summed_loss(module, hidden, phase, device).backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - began
        model.zero_grad()
    lengths = np.diff(hidden.row.cu_seqlens).tolist()
    return seconds / count_flops(model.shape, lengths, head_tokens=len(hidden.targets)).training


def _say_nothing(line: str) -> None:
    pass
