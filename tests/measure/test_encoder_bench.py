"""The encoder's own bench, on the CPU; on a GPU where there is one."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure import conditions, memory
from hwsearch.measure.child import Child
from hwsearch.measure.encoder import EncoderTimer, measure_job, open_bench
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.largest_batch import largest_batch
from hwsearch.measure.nvml import Reading, taint, watch_cpu
from hwsearch.shape import parse_shape
from hwsearch.shape.parameters import backbone_parameters
from hwsearch.workload import Workload, parse_workload

torch = pytest.importorskip("torch")
encoder_bench = pytest.importorskip("hwsearch.measure.encoder_bench")
default_backend = encoder_bench.default_backend
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
PATIENCE = 300.0
SHAPE = parse_shape("L3-h64-a2-i96-v512")
JOB = Job(SHAPE, parse_workload("normal:24,8,4..48x6"), "fp32", "inference", "eager", "none")
# Wide enough for five samples on a busy machine.
LOOSE = 100.0


@pytest.fixture
def bench() -> Any:
    return encoder_bench.EncoderBench("cpu", 0)


@pytest.mark.parametrize(
    ("mode", "head", "dtype"),
    [
        ("inference", "none", "fp32"),
        ("inference", "mlm", "bf16"),
        ("training", "mlm", "fp32"),
        ("training", "mlm", "bf16"),
    ],
)
def test_an_encoder_runs_and_is_timed(bench: Any, mode: Any, head: Any, dtype: str) -> None:
    bench.open(replace(JOB, mode=mode, head=head, dtype=dtype))
    found = bench.time(LOOSE, False)
    assert 0 < found["p20_s"] <= found["p50_s"] <= found["p80_s"] and found["n"] >= 5
    backend = default_backend(
        encoder_bench.DTYPES[dtype], 32, 24, training=mode == "training", device=torch.device("cpu")
    )
    assert (found["gpu"], found["backend"]) == ("cpu", {"global": backend, "local": backend})
    assert found["host_s"] is None and found["tuned"] is None and found["joules"] is None
    assert found["versions"]["torch"] == torch.__version__
    assert "not watched" in found["watch"]


def test_what_runs_is_the_encoder_that_was_asked_for(bench: Any) -> None:
    tokens = JOB.workload.tokens
    bench.open(JOB)
    assert bench._call().shape == (tokens, 64)
    bench.open(replace(JOB, head="mlm", dtype="bf16"))
    logits = bench._call()
    assert logits.shape == (tokens, 512) and logits.dtype == torch.bfloat16


def test_a_training_step_changes_the_weights(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    build = encoder_bench.MaskedLanguageModel
    monkeypatch.setattr(encoder_bench, "MaskedLanguageModel", lambda s: made.append(build(s)) or made[-1])
    monkeypatch.setattr(encoder_bench, "LEARNING_RATE", 1e-3)
    bench.open(replace(JOB, mode="training", head="mlm"))
    before = made[0].decoder.weight.clone()
    bench._call()
    assert made[0].training and not torch.equal(before, made[0].decoder.weight)


def test_a_forced_backend_is_the_one_that_runs(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.open(replace(JOB, backend="sdpa"))
    assert bench.time(LOOSE, False)["backend"] == {"global": "sdpa", "local": "sdpa"}
    with pytest.raises(ValueError, match=r"backend: 'efficient'.*accepted here:.* sdpa, cpu"):
        bench.open(replace(JOB, backend="efficient"))
    only_global = replace(JOB, shape=parse_shape("L2-h64-a2-i96-v512-g1"))
    bench.open(only_global)
    backend = default_backend(torch.float32, 32, 24, device=torch.device("cpu"))
    assert bench.time(LOOSE, False)["backend"] == {"global": backend, "local": None}


def test_the_peak_holds_the_weights_and_grows_with_the_batch() -> None:
    if memory.memory_in_use("cpu") is None:
        pytest.skip("no /proc")
    shape = parse_shape("L6-h256-a4-i512-v8192")
    jobs = [replace(JOB, shape=shape, workload=parse_workload(f"fixed:128x{count}")) for count in (1, 64)]
    peaks = []
    for job in jobs:
        # A process of its own, as in real use: what another freed before would serve again, unseen.
        with Child(open_bench, "cpu", 0) as child:
            peaks.append(child.call("peak_of", job, None, timeout=PATIENCE))
    assert peaks[0] > 4 * float(backbone_parameters(shape))
    assert peaks[1] > peaks[0] + 4 * 128 * 63 * 256


ON_LARGE = parse_workload("fixed:128x64")
ON_SMALL = parse_workload("fixed:128x1")


@pytest.mark.parametrize(
    ("first", "second"), [(ON_LARGE, ON_SMALL), (ON_SMALL, ON_LARGE)], ids=["large", "small"]
)
def test_a_second_workloads_peak_is_that_of_a_process_of_its_own(first: Workload, second: Workload) -> None:
    if memory.memory_in_use("cpu") is None:
        pytest.skip("no /proc")
    shared, alone = (
        replace(JOB, shape=parse_shape("L6-h256-a4-i512-v8192"), workload=each) for each in (first, second)
    )
    with EncoderTimer("cpu") as timer:
        assert isinstance(timer.peak_of(shared, None, timeout_s=PATIENCE), int)
        found = timer.peak_of(alone, None, timeout_s=PATIENCE)
        timer.close()
        own = timer.peak_of(alone, None, timeout_s=PATIENCE)
    # The two peaks are some 150 MB apart; a process alone has its own by some 15 either way.
    assert found == pytest.approx(own, abs=60e6)


def test_a_second_workload_is_what_a_process_of_its_own_would_run() -> None:
    one, other = encoder_bench.EncoderBench("cpu", 0), encoder_bench.EncoderBench("cpu", 0)
    short = replace(JOB, workload=parse_workload("fixed:8x2"))
    for mode, head in (("inference", "mlm"), ("training", "mlm")):
        one.open(replace(short, mode=mode, head=head))
        model = one._built.module
        one.open(replace(JOB, mode=mode, head=head))
        other.open(replace(JOB, mode=mode, head=head))
        assert one._built.module is model is not other._built.module
        seen = [seen_by(bench) for bench in (one, other)]
        assert len(seen[0]) >= 3 and all(map(torch.equal, *seen))
    one.open(replace(JOB, shape=parse_shape("L2-h64-a2-i96-v512")))
    assert one._built.module is not model and one._call().shape == (JOB.workload.tokens, 64)


def seen_by(bench: Any) -> list[Any]:
    """What a call hands to the module, as tensors."""
    seen: list[Any] = []
    hook = bench._built.module.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    bench._call()
    hook.remove()
    return [torch.as_tensor(each) for each in seen]


def test_nothing_but_the_model_is_kept_for_the_next_workload(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    alive: list[bool] = []
    build = bench._batch

    def batch(*arguments: Any) -> Any:
        alive.extend(each() is not None for each in made)
        alive.extend(each.grad is not None for each in bench._built.module.parameters())
        tokens, *rest = build(*arguments)
        made.append(weakref.ref(tokens))
        return tokens, *rest

    monkeypatch.setattr(bench, "_batch", batch)
    job = replace(JOB, mode="training", head="mlm")
    for workload in ("fixed:8x2", "fixed:8x3"):
        bench.open(replace(job, workload=parse_workload(workload)))
        bench.time(LOOSE, False)
    assert len(made) == 2 and len(alive) > 20 and not any(alive)


def test_a_model_is_compiled_once_for_all_its_workloads(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU's attention, which does not look at lengths; a CPU's breaks the graph."""
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_in_place(self, backend=backend, **options)
    )
    monkeypatch.setattr(
        "hwsearch.model.encoder.varlen_attention_qkvpacked",
        lambda qkv, *_, rope, **__: qkv[:, 2] + rope[0].sum(),
    )
    torch._dynamo.reset()
    job = replace(JOB, runtime="compile")
    # The settings as they were come back.
    with torch._dynamo.config.patch(specialize_float=False, recompile_limit=8):
        for workload in ("normal:24,8,4..48x6", "fixed:32x4", "normal:12,3,4..48x9", "fixed:128x5"):
            bench.open(replace(job, workload=parse_workload(workload)))
    torch._dynamo.reset()
    assert len(compiled) == 1


def test_the_peak_of_a_graph_is_read_after_its_capture(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(encoder_bench, "graphed", lambda call: log.append("capture") or call)
    monkeypatch.setattr(encoder_bench, "peak_bytes", lambda *_: log.append("peak") or 7)
    assert bench.peak_of(replace(JOB, runtime="graph"), None) == 7
    assert bench.peak_of(JOB, None) == 7
    assert log == ["capture", "peak", "peak"]


def test_launches_count_unless_they_are_one(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_bench, "graphed", lambda call: call)
    real, queued = encoder_bench.measure, []

    def measure(*arguments: Any, **options: Any) -> Any:
        queued.append(options["queued"])
        return real(*arguments, **options)

    monkeypatch.setattr(encoder_bench, "measure", measure)
    for runtime in ("eager", "graph"):
        bench.open(replace(JOB, runtime=runtime))
        bench.capture()
        bench.time(LOOSE, False)
    assert queued == [False, True]


def test_a_device_that_is_not_there_and_dtypes_that_it_lacks() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(HwsearchError, match="cuda:0: this machine has no GPU"):
            encoder_bench.open_bench("cuda", 0)
    with pytest.raises(HwsearchError, match="cuda:99: this machine has"):
        encoder_bench.open_bench("cuda", 99)
    with pytest.raises(HwsearchError, match="a CPU has no tf32"):
        encoder_bench.open_bench("cpu", 0).open(replace(JOB, dtype="tf32"))


def test_cores_that_others_took_taint(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Reading(10.0, waited_s=1.0)
    assert taint(clean, Reading(12.0, waited_s=1.05)) is None
    assert taint(clean, Reading(12.0, waited_s=2.5)) == ("no core was free: threads waited 1.5 s in 2 s")
    assert taint(Reading(10.0), Reading(12.0)) is None  # a kernel that does not tell
    monkeypatch.setattr("hwsearch.measure.nvml.waited_seconds", lambda: None)
    assert "nor whether other processes took its cores" in watch_cpu().note


@pytest.mark.parametrize(("longest", "tries"), [(60.0, 3), (0.0, 1)])
def test_a_cpu_gets_no_time_to_cool_and_long_work_is_done_once(
    longest: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter(range(100))
    monkeypatch.setattr("hwsearch.measure.nvml.waited_seconds", lambda: 1e6 * next(waits))
    monkeypatch.setattr(conditions.time, "sleep", lambda seconds: pytest.fail("it waited"))
    monkeypatch.setattr(conditions, "LONGEST_CPU_SECONDS", longest)
    plan = conditions.Plan(lambda: None, "cpu", 1, 0.0)
    _, found = conditions.undisturbed(plan, watch_cpu(), lambda: None)
    assert found.tries == tries and found.taint is not None


def test_a_container_may_have_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:    4096 kB\n")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_bytes() == 4096 << 10
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 4096 << 10
    (tmp_path / "memory.max").write_text("50000\n")
    assert memory.free_bytes() == 49_000
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 600\n")
    assert memory.free_bytes() == 49_600


def test_a_batch_too_large_for_the_memory_of_a_cpu_is_told_and_the_process_lives_on() -> None:
    """For real: the system refuses memory."""
    larger = replace(JOB, workload=parse_workload("fixed:512x64"), head="mlm")
    with Child(open_bench, "cpu", 0) as child:
        failed = child.call("peak_of", larger, 32 << 20, timeout=PATIENCE)  # its logits alone are 64 MiB
        assert isinstance(failed, Failure) and failed.kind == "out of memory"
        assert isinstance(child.call("peak_of", JOB, None, timeout=PATIENCE), int)


def test_a_job_in_its_own_process_on_the_cpu() -> None:
    asked = replace(JOB, runtime="graph")
    row = measure_job(asked, device="cpu", precision=LOOSE, timeout_s=PATIENCE)
    assert not isinstance(row, Failure)
    assert (row["runtime"], row["key"], row["gpu"]) == ("eager", asked.key, "cpu")
    assert row["note"] == "no CUDA graph, run eagerly: they are for NVIDIA GPUs"
    assert math.isfinite(row["p50_s"]) and row["flops"] > 0


GPU_JOB = Job(
    parse_shape("L4-h256-a4-i512-v4096"), parse_workload("normal:256,64,32..512x16"), "fp16", "inference",
    "graph", "none",
)  # fmt: skip


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runtime", ["eager", "graph", "compile"])
@pytest.mark.parametrize(("mode", "head"), [("inference", "none"), ("inference", "mlm"), ("training", "mlm")])
def test_on_a_gpu_every_way_of_running_is_timed(runtime: Any, mode: Any, head: Any) -> None:
    job = replace(GPU_JOB, runtime=runtime, mode=mode, head=head)
    row = measure_job(job, precision=0.05, energy=True, timeout_s=PATIENCE)
    assert not isinstance(row, Failure), row
    assert (row["runtime"], row["note"]) == (runtime, None)
    assert row["p50_s"] > 0 and row["peak_bytes"] > 0 and row["uuid"]
    again = measure_job(job, precision=0.05, timeout_s=PATIENCE)
    assert not isinstance(again, Failure)
    assert again["p50_s"] == pytest.approx(row["p50_s"], rel=0.2)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_what_reads_lengths_on_the_host_has_no_graph_and_memory_has_an_end() -> None:
    row = measure_job(replace(GPU_JOB, backend="sdpa"), precision=0.1, timeout_s=PATIENCE)
    assert not isinstance(row, Failure), row
    assert row["runtime"] == "eager" and row["note"].startswith("no CUDA graph")
    found = largest_batch(GPU_JOB, device="cuda", memory_bytes=256 << 20, timeout_s=PATIENCE)
    assert found.sequences > 0 and found.next_failure is not None
    assert found.next_failure.kind == "out of memory"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runtime", ["eager", "graph", "compile"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_on_a_gpu_workloads_that_share_a_process_have_the_figures_of_their_own(
    mode: Any, runtime: Any
) -> None:
    job = replace(GPU_JOB, mode=mode, head="mlm", runtime=runtime)
    jobs = [replace(job, workload=parse_workload(f"fixed:256x{count}")) for count in (64, 4, 64)]
    with EncoderTimer() as timer:
        shared = [timer.measure(each, precision=0.02, timeout_s=PATIENCE) for each in jobs]
    own = [measure_job(each, precision=0.02, timeout_s=PATIENCE) for each in jobs[:2]]
    for together, alone in zip(shared, [*own, own[0]], strict=True):
        assert not isinstance(together, Failure) and not isinstance(alone, Failure), (together, alone)
        assert (together["runtime"], together["note"]) == (runtime, None)
        assert together["peak_bytes"] == pytest.approx(alone["peak_bytes"], rel=0.02)
        assert together["reserved_bytes"] == pytest.approx(alone["reserved_bytes"], rel=0.05, abs=64e6)
        assert together["p50_s"] == pytest.approx(alone["p50_s"], rel=0.2)
        assert together["backend"] == alone["backend"]
