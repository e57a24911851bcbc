"""transformers' own Trainer, one optimizer step a call, on the model and batches of `training_sides`.

Trainer needs accelerate, which is in the dev extra for this alone (3 MB with psutil).
"""

from __future__ import annotations

import tempfile
from threading import Semaphore, Thread
from typing import Any

import torch
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
        self._tokens = torch.zeros((), dtype=torch.int64, device=task.device)
        self._thread = Thread(target=self._train, args=(task, setting), daemon=True)
        self._thread.start()

    def __call__(self) -> int:
        """Real tokens of the step."""
        self._tokens.zero_()
        self._go.release()
        self._done.acquire()
        if self._error:
            raise self._error
        return int(self._tokens)

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
        model = transformers_model(task, setting)
        model.register_forward_pre_hook(self._count, with_kwargs=True)
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
        trainer = _TrainerOnBatches(model, arguments, callbacks=[_Paces(self)])
        trainer.remove_callback(PrinterCallback)
        trainer.batches = transformers_loader(task, setting)
        return trainer

    def _count(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        self._tokens += real_tokens(inputs)


class _TrainerOnBatches(Trainer):
    batches: DataLoader[Any]

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.batches


class _Paces(TrainerCallback):
    def __init__(self, step: TrainerStep) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = not self._step.pause()
