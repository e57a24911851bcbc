import os

import pytest

from hwsearch.cost.attention import attention_seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.stream import bytes_seconds, stream_seconds
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.facts import gpu_facts


def test_the_machine_at_hand_behaves_as_a_gpu() -> None:
    cpu = load_gpu("cpu")
    assert cpu.default_dtype == "fp32"
    assert 1 <= cpu.sms <= (os.cpu_count() or 1)
    assert 1e9 < cpu.dense_flops_per_s["fp32"] < 1e14
    assert 1e8 < cpu.bandwidth_bytes_per_s < 1e13
    assert cpu.memory_bytes > 2**28
    assert any("measured on this machine" in fact.source for fact in gpu_facts(cpu))
    # A product of the size that was timed must come out near its measured rate.
    seconds = float(gemm_seconds(cpu, "fp32", 1024, 1024, 1024))
    assert 0.5 < 2 * 1024**3 / cpu.dense_flops_per_s["fp32"] / seconds <= 1.0
    assert float(attention_seconds(cpu, "fp32", [256], [1], 4, 64)) > 0
    assert float(bytes_seconds(cpu, 2**30)) > 2**30 / 1e13
    norm = float(stream_seconds(cpu, "fp32", 4096, 1024, "layernorm"))
    assert norm == pytest.approx(float(stream_seconds(cpu, "fp32", 4096, 1024)))


def test_it_is_measured_once() -> None:
    assert load_gpu("cpu") is load_gpu("cpu")
