"""The training loop: phases of steps, evaluation on held-out text, checkpoints to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from optimi import StableAdamW
from safetensors.torch import save
from torch import Tensor, nn

from hwsearch.errors import HwsearchError
from hwsearch.export import config_beside_weights
from hwsearch.files import write_whole
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.weights import stored_state
from hwsearch.shape.flops import count_flops
from hwsearch.training.batches import DataState, Step, batches, evaluation_rows
from hwsearch.training.checkpoint import prune, write_checkpoint
from hwsearch.training.log import RunLog, StepRecord
from hwsearch.training.masking import MaskedRow
from hwsearch.training.optimizer import optimizer_tensors, set_rates, whole
from hwsearch.training.packing import Row
from hwsearch.training.processes import Processes, gradients_reduced
from hwsearch.training.recipe import Phase, Recipe
from hwsearch.training.schedule import Schedule
from hwsearch.training.token_cache import TokenCache

Judge = Callable[[int, float], bool]
"""Called with the steps done and the held-out loss after every kept step; True ends the run."""
Ending = Literal["finished", "interrupted", "judged"]

CHECKPOINTS = "checkpoints"
# What a process without a row of its own runs, since the others wait for it: two tokens, weighted by 0.
IDLE_ROW = MaskedRow(
    Row(np.zeros(2, np.int64), np.array([0, 2], np.int32)), np.zeros(1, np.int64), np.zeros(1, np.int64)
)


@dataclass
class Progress:
    """Where a run stands, as checkpoints hold it.

    Attributes:
        step: steps done in all phases.
        phase, phase_step: the phase's number, and steps done in it.
        tokens: real ones.
        seconds: spent in steps.
        data: where the phase stands in its data; None at its beginning.
        first_loss, last_loss: on held-out text, before the first step and the last time.
    """

    step: int = 0
    phase: int = 0
    phase_step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data: dict[str, Any] | None = None
    first_loss: float = math.nan
    last_loss: float = math.nan


@dataclass(frozen=True)
class Run:
    """A run in progress.

    Attributes:
        module: the model as this process calls it.
        identity: what a checkpoint must have been made with to go on here; plain data.
        flops_per_s: what one device can do, if known.
        judge: may end the run; nobody asks where it is None.
    """

    recipe: Recipe
    schedules: tuple[Schedule, ...]
    text: TokenCache
    out: Path
    processes: Processes
    model: MaskedLanguageModel
    module: nn.Module
    optimizer: StableAdamW
    log: RunLog
    identity: dict[str, Any]
    flops_per_s: float | None
    progress: Progress
    judge: Judge | None = None

    @property
    def checkpoints(self) -> Path:
        return self.out / CHECKPOINTS

    def write_texts(self, folder: Path) -> None:
        """What transformers reads beside the weights; a shape that it cannot build goes into shape.yaml."""
        shape, tokenizer = self.model.shape, self.text.tokenizer
        tokenizer.save(folder, shape.max_position_embeddings)
        name, text = config_beside_weights(shape, tokenizer.config_ids)
        write_whole(folder / name, text)


def run_phases(run: Run) -> Ending:
    """All steps that are left, unless Ctrl-C or the run's judge ends them."""
    progress = run.progress
    with StopOnInterrupt() as stop:
        for number in range(progress.phase, len(run.schedules)):
            if number > progress.phase:
                progress.phase, progress.phase_step, progress.data = number, 0, None
            if (ending := _run_phase(run, number, stop)) != "finished":
                return ending
    return "finished"


def _run_phase(run: Run, number: int, stop: StopOnInterrupt) -> Ending:
    schedule, progress, processes = run.schedules[number], run.progress, run.processes
    phase = schedule.phase
    if phase.global_rope_theta is not None and run.model.shape.architecture.position == "rope":
        run.model.set_rope_theta(phase.global_rope_theta)
    if progress.step == 0:
        progress.first_loss = evaluate(run, schedule)
    steps = batches(
        run.text,
        sequence_length=phase.sequence_length,
        tokens_per_row=phase.tokens_per_row,
        rows_of_step=schedule.rows_at,
        mask_share=phase.mask_share,
        seed=run.recipe.seed + number,  # two phases of one length do not read the same order again
        state=DataState.from_dict(progress.data) if progress.data else None,
        rank=processes.rank,
        world_size=processes.count,
    )
    saved = time.monotonic()
    following = next(steps) if progress.phase_step < schedule.steps else None
    count = torch.tensor(predictions_of(following), device=processes.device)
    following_predictions = processes.sum(count).item()
    while following:
        began, read, predictions = time.perf_counter(), following, following_predictions
        learning_rate = schedule.learning_rate_at(progress.phase_step)
        set_rates(run.optimizer, phase, learning_rate)
        run.optimizer.zero_grad()
        passes = math.ceil(schedule.rows_at(progress.phase_step) / processes.count)
        total = accumulate(run.module, processes, read, phase, passes, predictions)
        # The next step's rows are made while a GPU is busy with this one's.
        following = next(steps) if progress.phase_step + 1 < schedule.steps else None
        # What rank 0 wants counts for all: the clocks of several processes differ.
        is_time = processes.speaks and time.monotonic() - saved >= run.recipe.save_every_seconds
        mine = total.new_tensor([is_time, stop.requested, predictions_of(following)])
        # The one moment at which the device is waited for.
        sums = processes.sum(torch.cat([total[None], mine])).tolist()
        loss, save_now, stop_now, following_predictions = sums[0] / predictions, *sums[1:]
        if not math.isfinite(loss):
            _give_up(run, read, loss, learning_rate)
        run.optimizer.step()

        seconds = time.perf_counter() - began
        progress.step += 1
        progress.phase_step += 1
        progress.tokens += read.tokens
        progress.seconds += seconds
        progress.data = read.state.to_dict()
        run.log.step(
            StepRecord(
                step=progress.step,
                phase=phase.name,
                loss=loss,
                learning_rate=learning_rate,
                tokens=progress.tokens,
                tokens_per_second=read.tokens / seconds,
                flops_utilisation=run.flops_per_s and _flops(run, read) / seconds / run.flops_per_s,
                seconds=progress.seconds,
            )
        )
        keep = schedule.keeps(progress.phase_step)
        # Asked before the step is saved: what was not told to the judge is done again after a kill.
        if keep and _is_judged(run, evaluate(run, schedule)):
            return "judged"
        if keep or _is_power_of_two(progress.step) or save_now or stop_now:
            _save(run, kept=keep or _is_power_of_two(progress.step), evaluated=keep)
            saved = time.monotonic()
        if stop_now:
            return "interrupted"
    return "finished"


def _is_judged(run: Run, held_out: float) -> bool:
    """Whether the judge ends the run here; one process asks it for all."""
    if run.judge is None:
        return False
    ends = run.judge(run.progress.step, held_out) if run.processes.speaks else None
    return bool(run.processes.agree(ends))


def predictions_of(read: Step | None) -> int:
    """Hidden tokens of this process's rows."""
    return sum(len(hidden.targets) for hidden in read.rows) if read else 0


def accumulate(
    module: nn.Module, processes: Processes, read: Step, phase: Phase, passes: int, predictions: float
) -> Tensor:
    """Gradients of the mean loss over a step's hidden tokens, `predictions` on all processes together.

    Returns this process's summed loss, a float64 scalar on the device.
    """
    device = processes.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for number in range(passes):
        mine = number < len(read.rows)
        with gradients_reduced(module, number == passes - 1):
            loss = summed_loss(module, read.rows[number] if mine else IDLE_ROW, phase, device)
            # DDP and FSDP2 take the mean over processes.
            (loss * (mine * processes.count / predictions)).backward()  # type: ignore[no-untyped-call]
        if mine:
            total += loss.detach()
    return total


def evaluate(run: Run, schedule: Schedule) -> float:
    """Nats per hidden token of the held-out text, 15 % hidden; the same tokens in every call of a phase."""
    phase, processes = schedule.phase, run.processes
    rows = evaluation_rows(
        run.text, sequence_length=phase.sequence_length, tokens_per_row=phase.tokens_per_row
    )
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    with torch.no_grad():
        for first in range(0, len(rows), processes.count):
            mine = first + processes.rank < len(rows)
            hidden = rows[first + processes.rank] if mine else IDLE_ROW
            total += summed_loss(run.module, hidden, phase, processes.device) * mine
    loss = processes.sum(total).item() / sum(len(hidden.targets) for hidden in rows)
    run.log.held_out(run.progress.step, loss, sum(len(hidden.row.tokens) for hidden in rows))
    run.progress.last_loss = loss
    return loss


def summed_loss(module: nn.Module, hidden: MaskedRow, phase: Phase, device: torch.device) -> Tensor:
    """Nats of all hidden tokens of a row. On a GPU products run in bf16, on the CPU all is float32."""
    tokens, offsets, positions, targets = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (hidden.row.tokens, hidden.row.cu_seqlens, hidden.positions, hidden.targets)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        # The longest sequence of any row, not of this one: another number would compile anew.
        loss: Tensor = module(tokens, offsets, phase.sequence_length, positions, targets)
    return loss


def _save(run: Run, *, kept: bool, evaluated: bool) -> None:
    """A checkpoint of this very moment; every process must call it."""
    weights = whole_weights(run.model)
    tensors = optimizer_tensors(run.model, run.optimizer) | {"random": torch.get_rng_state()}
    if run.processes.speaks:
        position = {
            "progress": vars(run.progress),
            "kept": kept,
            "evaluated": evaluated,
            "log": run.log.position,
            "run": run.identity,
        }
        write_checkpoint(run.checkpoints, run.progress.step, weights, tensors, position, run.write_texts)
        prune(run.checkpoints)


def whole_weights(model: MaskedLanguageModel) -> dict[str, Tensor]:
    """Under transformers' names, on the CPU; every process must call it."""
    return {name: whole(tensor) for name, tensor in stored_state(model).items()}


def _flops(run: Run, read: Step) -> int:
    """Forward and backward of this process's rows."""
    return sum(
        count_flops(
            run.model.shape, np.diff(hidden.row.cu_seqlens).tolist(), head_tokens=len(hidden.targets)
        ).training
        for hidden in read.rows
    )


def _is_power_of_two(step: int) -> bool:
    return step & (step - 1) == 0


def _give_up(run: Run, read: Step, loss: float, learning_rate: float) -> NoReturn:
    """Keep what is needed to see why; the weights are those before the step."""
    step = run.progress.step + 1
    name = f"batch-step-{step:07d}" + (f"-rank-{run.processes.rank}" if run.processes.count > 1 else "")
    arrays = {
        f"{number}/{what}": torch.from_numpy(array)
        for number, hidden in enumerate(read.rows)
        for what, array in (
            ("tokens", hidden.row.tokens),
            ("cu_seqlens", hidden.row.cu_seqlens),
            ("positions", hidden.positions),
            ("targets", hidden.targets),
        )
    }
    path = run.out / f"{name}.safetensors"
    write_whole(path, save(arrays))
    kept = "the checkpoints before it are kept"
    if run.progress.step and all(
        bool(torch.isfinite(tensor).all()) for tensor in whole_weights(run.model).values()
    ):
        _save(run, kept=False, evaluated=False)
        kept = "the weights before it are in the last checkpoint"
    raise HwsearchError(
        f"step {step}: the loss is {loss} at learning rate {learning_rate:.2e}; its batch is in {path},"
        f" {kept}; a lower learning rate or a longer warm-up may help"
    )
