"""transformers' own Trainer, one optimizer step a call, on the model and batches of `training_sides`.

Trainer needs accelerate, which is in the dev extra for this alone: with psutil 0.6 MB to download and 4.5 MB
installed.
"""

from __future__ import annotations

import tempfile
from threading import Semaphore, Thread
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from training_sides import (
    LEARNING_RATE,
    Setting,
    Task,
    passes_of,
    real_tokens,
    transformers_loader,
    transformers_model,
)
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments


class TrainerStep:
    """`Trainer.train()` in a thread of its own, which waits after each step for the next call."""

    def __init__(self, task: Task, setting: Setting) -> None:
        self._go, self._done = Semaphore(0), Semaphore(0)
        self._is_closed = False
        self._error: BaseException | None = None
        self.tokens = 0
        self._thread = Thread(target=self._train, args=(task, setting), daemon=True)
        self._thread.start()

    def __call__(self) -> int:
        """Real tokens of the step. Raises what training raised."""
        self.tokens = 0
        if not self._error:
            self._go.release()
            self._done.acquire()
        if self._error:
            raise self._error
        return self.tokens

    def close(self) -> None:
        """Ends the training."""
        self._is_closed = True
        self._go.release()
        self._thread.join()

    def pause(self) -> bool:
        """Between two steps; whether training goes on."""
        self._done.release()
        self._go.acquire()
        return not self._is_closed

    def _train(self, task: Task, setting: Setting) -> None:
        self._go.acquire()
        if self._is_closed:
            return
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._trainer(task, setting, folder).train()
        except BaseException as error:  # goes to the thread that waits
            self._error = error
            self._done.release()

    def _trainer(self, task: Task, setting: Setting, folder: str) -> Trainer:
        on_gpu = task.device.type == "cuda"
        arguments = TrainingArguments(
            folder,
            max_steps=1_000_000,
            gradient_accumulation_steps=passes_of(task, setting),
            learning_rate=LEARNING_RATE,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        if setting.at_best:
            arguments.max_grad_norm = 0.0
        trainer = _TrainerOnBatches(transformers_model(task, setting), arguments, callbacks=[_Paces(self)])
        trainer.remove_callback(PrinterCallback)
        trainer.batches, trainer.step = transformers_loader(task, setting), self
        return trainer


class _TrainerOnBatches(Trainer):
    batches: DataLoader[Any]
    step: TrainerStep

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.batches

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        self.step.tokens += int(real_tokens(inputs))  # still on the host
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss


class _Paces(TrainerCallback):
    def __init__(self, step: TrainerStep) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = not self._step.pause()
