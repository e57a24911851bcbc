"""What lives in the child process that runs one encoder: it is built, warmed up, captured, timed.

Jobs that differ in the workload alone may follow each other. The model stays, with its compiled code and its
optimizer's state, and nothing else does: figures are those of a process of the job's own, but for three
things. Code that serves all sizes was chosen by inductor at those of the first workload. A model in training
has taken the steps in which the workloads before were timed, at a learning rate of 1e-6. And on a CPU glibc
raises its thresholds (mallopt(3), M_MMAP_THRESHOLD) with the tensors that are freed, and never lowers them: a
smaller batch after a larger one has fewer page faults than alone.

Inference runs in the asked dtype throughout, without gradients. Training runs as hwsearch.training does it:
float32 weights, 16-bit products under autocast, the masked tokens' loss, a step of StableAdamW after every
backward pass. Weights, tokens and masks are random, the same in every process.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from hwsearch.errors import HwsearchError
from hwsearch.kernels import tuned_state
from hwsearch.kernels.attention import default_backend
from hwsearch.measure.device import CPU, CUDA, synchronize
from hwsearch.measure.job import Job
from hwsearch.measure.memory import forget_peak, limit_memory, memory_in_use, peak_bytes, reserved_bytes
from hwsearch.measure.nvml import watch_cpu, watch_cuda
from hwsearch.measure.row import Row, versions
from hwsearch.measure.sample import measure
from hwsearch.measure.timing import Call, forget_l2_buffer, graphed
from hwsearch.measure.watched_profile import profile_name
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.compiling import compile_for_all_sizes
from hwsearch.model.encoder import Attention
from hwsearch.settings import MASKED_SHARE
from hwsearch.shape import EncoderShape
from hwsearch.workload import Workload

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Of random targets nothing is to be learnt; the arithmetic is the same.
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Built:
    """A model on the device: what it was built for (`Job.model`), and what makes a call of a workload."""

    model: tuple[object, ...]
    module: nn.Module
    call_of: Callable[[Workload], Call]


class EncoderBench:
    """One device, and on it one model at most, which runs one workload at a time."""

    def __init__(self, device: str, index: int) -> None:
        """Raises HwsearchError where there is no such device."""
        self._device, self._where = device, torch.device(device)
        if device == CUDA:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if index >= count:
                found = f"{count} GPUs" if count else "no GPU, or a torch without CUDA"
                raise HwsearchError(f"device: cuda:{index}: this machine has {found}")
            torch.cuda.set_device(index)
            self._where = torch.device(device, index)
            synchronize(device)  # makes the context: where that fails, no job is to blame
        self._watch = watch_cuda() if device == CUDA else watch_cpu()
        self._limited = False
        self._built: Built | None = None
        self._call: Call | None = None

    def open(self, job: Job) -> None:
        """Build `job`, of which the model may be here already, and warm it up.

        Raises HwsearchError for what this device cannot run, and what building and running raise.
        """
        job.check()
        self._check_dtype(job.dtype)
        self._job = job
        if self._built is not None and self._built.model != job.model:
            self._built = None
        self._drop_workload()
        if self._built is None:
            self._before = memory_in_use(self._device)
            torch.manual_seed(0)
            torch.set_float32_matmul_precision("high" if job.dtype == "tf32" else "highest")
            self._built = self._training(job) if job.mode == "training" else self._inference(job)
        torch.manual_seed(0)  # anew: the same batch whether or not a model was built before it
        self._call = self._built.call_of(job.workload)
        if job.runtime == "compile":
            self._call()  # compiling takes memory of its own, with which no later call is burdened
        forget_peak(self._device)
        for _ in range(2 if job.mode == "training" else 1):  # the first step makes the optimizer's state
            self._call()
        synchronize(self._device)

    def _drop_workload(self) -> None:
        """Free what the last workload left: inputs, gradients, its graph and the memory that they lay in."""
        self._call = None
        if self._built is not None:
            self._built.module.zero_grad()  # else gradients hold on to the memory of a graph
        forget_l2_buffer()
        forget_peak(self._device)

    def capture(self) -> None:
        """Make what is open a CUDA graph. After an exception the process is of no more use."""
        assert self._call is not None
        # The eager runs' memory would count as taken beside the graph's own.
        forget_peak(self._device)
        self._call = graphed(self._call)

    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        """Peak bytes of `job`, None where the system does not tell.

        The first call's `memory_bytes` are what tensors get in this process; None is all there is. Raises
        what `open` and `capture` raise.
        """
        if memory_bytes is not None and not self._limited:
            limit_memory(self._device, memory_bytes)
            self._limited = True
        self.open(job)
        if job.runtime == "graph":
            self.capture()
        return peak_bytes(self._device, self._before)

    def describe(self) -> tuple[str | None, str | None, str]:
        """The GPU's profile, if it has one, what its maker calls it, and the dtype it is served with."""
        dtype = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
        return profile_name(self._watch), self._product(), dtype

    def time(self, precision: float, energy: bool) -> Row:
        """The device's part of a row (hwsearch.measure.row) for what is open."""
        assert self._call is not None
        job = self._job
        # Ahead of timing, whose buffer for the L2 is not the encoder's.
        peak, reserved = peak_bytes(self._device, self._before), reserved_bytes(self._device)
        with _collector_at_rest():  # the host's pace may be what is timed
            found = measure(
                self._call,
                self._device,
                self._watch,
                precision=precision,
                energy=energy,
                # A graph is one launch; those of the other runtimes are part of what they cost.
                queued=job.runtime == "graph",
            )
        figures = found.row()
        # On a CPU the host is the device; in a step that reads the loss it is busy with waiting.
        waits = self._device == CPU or (job.mode == "training" and job.runtime != "graph")
        return {
            "gpu": profile_name(self._watch),
            "device": self._product(),
            "uuid": self._watch.uuid,
            "backend": self._by_layer(self._backend),
            "tuned": self._tuned(),
            "p50_s": figures.pop("seconds"),
            "p20_s": figures.pop("p20"),
            "p80_s": figures.pop("p80"),
            "host_s": None if waits else figures.pop("host"),
            "peak_bytes": peak,
            "reserved_bytes": reserved,
            "threads": torch.get_num_threads() if self._device == CPU else None,
            **{name: value for name, value in figures.items() if name != "host"},
            "watch": self._watch.note or None,
            "versions": versions(torch.version.cuda, self._watch.driver),
        }

    def _product(self) -> str | None:
        return torch.cuda.get_device_name() if self._device == CUDA else self._watch.name

    def _check_dtype(self, dtype: str) -> None:
        if self._device == CPU and dtype == "tf32":
            raise HwsearchError("dtype: a CPU has no tf32; accepted: fp32, bf16, fp16")
        if self._device == CUDA and dtype in ("bf16", "tf32") and torch.cuda.get_device_capability() < (8, 0):
            # torch computes bf16 there all the same, many times slower.
            raise HwsearchError(f"dtype: {torch.cuda.get_device_name()} has no {dtype}; accepted: fp16, fp32")

    def _inference(self, job: Job) -> Built:
        model = self._model(job)
        module: nn.Module = model if job.head == "mlm" else model.model
        del model
        module.to(DTYPES[job.dtype]).eval()
        if job.runtime == "compile":
            compile_for_all_sizes(module)

        def call_of(workload: Workload) -> Call:
            batch = self._batch(job.shape, workload)

            @torch.inference_mode()
            def infer() -> Tensor:
                out: Tensor = module(*batch)
                return out

            return infer

        return Built(job.model, module, call_of)

    def _training(self, job: Job) -> Built:
        # Not for inference: the packages that training needs besides torch.
        from hwsearch.training.optimizer import make_optimizer, set_rates
        from hwsearch.training.recipe import short_recipe

        model = self._model(job).train()
        if job.runtime == "compile":
            compile_for_all_sizes(model)
        recipe = short_recipe(learning_rate=LEARNING_RATE)
        optimizer = make_optimizer(model, recipe)
        set_rates(optimizer, recipe.phases[0], LEARNING_RATE)
        casts = job.dtype in ("fp16", "bf16")

        def call_of(workload: Workload) -> Call:
            batch = self._batch(job.shape, workload)
            count = max(1, round(MASKED_SHARE * workload.tokens))
            positions = torch.randperm(workload.tokens)[:count].sort().values.to(self._where)
            targets = torch.randint(job.shape.vocab_size, (count,)).to(self._where)

            def step() -> None:
                optimizer.zero_grad()
                with torch.autocast(self._device, DTYPES[job.dtype] if casts else None, enabled=casts):
                    loss = model(*batch, positions, targets) / count
                loss.backward()
                if job.runtime != "graph":
                    loss.item()  # the loop, too, looks at it before it takes the step
                optimizer.step()

            return step

        return Built(job.model, model, call_of)

    def _model(self, job: Job) -> MaskedLanguageModel:
        with self._where:
            model = MaskedLanguageModel(job.shape)
        for module in model.modules():
            if isinstance(module, Attention):
                module.backend = job.backend
        return model

    def _batch(self, shape: EncoderShape, workload: Workload) -> tuple[Tensor, Tensor, int]:
        lengths = workload.lengths
        tokens = torch.randint(shape.vocab_size, (sum(lengths),))
        offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return tokens.to(self._where), offsets.to(self._where), max(lengths)

    def _by_layer(self, of: Callable[[int | None], object]) -> dict[str, object]:
        """`of` the window of each kind of layer; None for a kind that the shape lacks."""
        shape = self._job.shape
        has_local = shape.num_global_layers < shape.num_hidden_layers
        return {"global": of(None), "local": of(shape.window) if has_local else None}

    def _backend(self, window: int | None) -> str:
        job = self._job
        return job.backend or default_backend(
            DTYPES[job.dtype],
            job.shape.head_size,
            max(job.workload.lengths),
            window=window,
            training=job.mode == "training",
            device=self._where,
        )

    def _tuned(self) -> dict[str, object] | None:
        """What the tuned tables say of the Triton kernels' tiles; None where others serve all layers."""
        kernels = ["attention_forward"] + ["attention_backward"] * (self._job.mode == "training")

        def entries(window: int | None) -> dict[str, object] | None:
            if self._backend(window) != "triton":
                return None
            return {kernel: self._entry(kernel, window) for kernel in kernels}

        found = self._by_layer(entries)
        return found if any(found.values()) else None

    def _entry(self, kernel: str, window: int | None) -> dict[str, object]:
        found = tuned_state(
            kernel,
            max(self._job.workload.lengths),
            DTYPES[self._job.dtype],
            self._job.shape.head_size,
            window,
            device=self._where,
        )
        config = None if found.row is None else dict(found.row.config)
        return {"state": found.state, "gpu": found.gpu, "config": config}


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """What exists by now is not looked through again, as whenever many objects come and go."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def open_bench(device: str, index: int) -> EncoderBench:
    if device == CUDA:
        # CUDA then counts GPUs as NVML and nvidia-smi do; read as its first context is made.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return EncoderBench(device, index)
