"""What a run is going to do and to need, said before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwsearch.cost.prediction import predict_shape
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape import EncoderShape
from hwsearch.shape.flops import count_flops
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.training.recipe import Phase
from hwsearch.training.schedule import Schedule
from hwsearch.workload import Workload, parse_workload

HEADER = "phase                 steps             tokens  length  tokens/step  peak rate  masked    theta"


@dataclass(frozen=True)
class Plan:
    """Expectations of a whole run.

    Attributes:
        seconds: of all steps on all processes; None where nothing could tell.
        source: of `seconds`.
        memory_bytes: one process's peak, by the cost model; None without a profile of the device.
    """

    shape: EncoderShape
    schedules: tuple[Schedule, ...]
    seconds: float | None
    source: str
    memory_bytes: float | None

    @property
    def steps(self) -> int:
        return sum(schedule.steps for schedule in self.schedules)

    def lines(self) -> list[str]:
        total = sum(schedule.tokens for schedule in self.schedules)
        need = [f"{int(masked_lm_parameters(self.shape)):,} parameters", f"{self.steps:,} steps"]
        need.append(f"{total:,} tokens")
        if self.seconds is not None:
            need.append(f"about {duration(self.seconds)} ({self.source})")
        if self.memory_bytes is not None:
            need.append(f"{self.memory_bytes / 2**30:.2f} GiB of memory (cost model)")
        return [f"{self.shape}: {', '.join(need)}", HEADER, *map(_phase_line, self.schedules)]


def _phase_line(schedule: Schedule) -> str:
    phase = schedule.phase
    first, last = schedule.rows_at(0), schedule.rows_at(schedule.steps - 1)
    size = f"{last * phase.tokens_per_row:,}"
    theta = "" if phase.global_rope_theta is None else f"{phase.global_rope_theta:9,.0f}"
    line = (
        f"{phase.name:17.17}{schedule.steps:10,}{schedule.tokens:19,}{phase.sequence_length:8,}"
        f"{size:>13}{phase.learning_rate:11.1e}{phase.mask_share:8.0%}{theta}"
    )
    return line if first == last else f"{line}   from {first * phase.tokens_per_row:,} tokens/step on"


def make_plan(
    shape: EncoderShape,
    schedules: Sequence[Schedule],
    gpu: Gpu | None,
    *,
    processes: int,
    runtime: RuntimeName,
    recompute: bool,
    seconds_per_flop: Callable[[], float] | None,
) -> Plan:
    """Time and memory of a run.

    Args:
        gpu: the device's profile, if there is one.
        seconds_per_flop: times the model itself, forward and backward; asked on a CPU, whose operators
            the cost model does not know.
    """
    on_cpu = gpu is not None and gpu.name == CPU
    memory, seconds, source = None, None, ""
    if gpu is not None:
        predictions = [
            predict_shape(
                shape,
                gpu,
                row_workload(schedule.phase),
                mode="training",
                runtime=runtime,
                recompute=recompute,
            )
            for schedule in schedules
        ]
        memory = max(each.peak_bytes for each in predictions)
        # A process with fewer rows than another waits for it.
        passes = [schedule.passes(processes) for schedule in schedules]
        seconds = sum(each.latency_s * count for each, count in zip(predictions, passes, strict=True))
        source = f"predicted for {gpu.name}, {gpu.calibration.kind}"
    if on_cpu and seconds_per_flop is not None:
        per_flop = seconds_per_flop()
        flops = sum(row_flops(shape, each.phase) * each.passes(processes) for each in schedules)
        seconds = per_flop * flops
        source = "by the time of one row"
    return Plan(shape, tuple(schedules), seconds, source, memory)


def row_workload(phase: Phase) -> Workload:
    """A full row of the longest sequences."""
    return parse_workload(f"fixed:{phase.sequence_length}x{phase.tokens_per_row // phase.sequence_length}")


def row_flops(shape: EncoderShape, phase: Phase) -> int:
    """Of such a row, forward and backward."""
    workload = row_workload(phase)
    predicted = round(phase.mask_share * workload.tokens)
    return count_flops(shape, workload.lengths, head_tokens=predicted).training


def device_profile(on_gpu: bool) -> Gpu | None:
    """Of the machine at hand; None for a GPU that has none."""
    from hwsearch.gpu.catalog import load_gpu
    from hwsearch.gpu.detect import detect

    if not on_gpu:
        return load_gpu(CPU)
    try:
        return detect()[0].gpu
    except HwsearchError:
        return None


def device_flops_per_s(gpu: Gpu | None) -> float | None:
    """In the dtype of training: bf16 on a GPU, float32 on a CPU."""
    if gpu is None:
        return None
    return gpu.dense_flops_per_s.get("fp32" if gpu.name == CPU else "bf16")


def duration(seconds: float) -> str:
    for size, name in ((86400 * 2, "days"), (3600 * 2, "hours"), (120, "minutes")):
        if seconds >= size:
            unit = {"days": 86400, "hours": 3600, "minutes": 60}[name]
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} seconds"
