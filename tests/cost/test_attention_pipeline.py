"""The pipeline model: what it must never say, whatever its constants."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.cost.attention_pipeline import Calls, KernelCode, flops_per_cycle, kernel_time, moving_seconds
from hwsearch.cost.attention_tiles import stretches, visited_tiles
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.triton_attention.instructions import Instructions, Mix

STEP = Mix(issued=300, fma=110, alu=80, mufu=18, tensor_flops=131_072, shared_bytes=13_000, barriers=2)
CODE = KernelCode(
    "forward", 64, 32, 4, 3, 64, 128, 24_576, 0, Instructions((STEP, STEP), Mix(issued=800, barriers=5))
)
CALLS = Calls(np.array([2048, 1024]), np.array([8, 16]), -1, 12)


@pytest.fixture(scope="module")
def gpu():
    return load_gpu("a100-sxm-80")


def test_more_work_takes_longer(gpu):
    base = kernel_time(gpu, "bf16", CODE, CALLS).seconds
    assert kernel_time(gpu, "bf16", CODE, replace(CALLS, heads=24)).seconds > base
    assert kernel_time(gpu, "bf16", CODE, replace(CALLS, lengths=2 * CALLS.lengths)).seconds > base
    assert kernel_time(gpu, "bf16", CODE, replace(CALLS, window=64)).seconds < base


@pytest.mark.parametrize("unit", ["issued", "mufu", "tensor_flops", "shared_bytes", "barriers"])
def test_a_step_that_issues_more_takes_longer(gpu, unit):
    more = replace(STEP, **{unit: 8 * getattr(STEP, unit)})
    slower = replace(CODE, instructions=replace(CODE.instructions, loops=(more, more)))
    assert kernel_time(gpu, "bf16", slower, CALLS).seconds > kernel_time(gpu, "bf16", CODE, CALLS).seconds


def test_loads_that_are_not_ahead_are_waited_for(gpu):
    late = kernel_time(gpu, "bf16", replace(CODE, stages=1), CALLS)
    assert late.waits > kernel_time(gpu, "bf16", CODE, CALLS).waits


def test_blocks_that_fit_together_hide_each_others_waits(gpu):
    alone = replace(CODE, shared_bytes=120_000)
    assert kernel_time(gpu, "bf16", alone, CALLS).resident == 1
    assert kernel_time(gpu, "bf16", alone, CALLS).seconds > kernel_time(gpu, "bf16", CODE, CALLS).seconds


def test_what_does_not_fit_never_runs(gpu):
    assert kernel_time(gpu, "bf16", replace(CODE, shared_bytes=200_000), CALLS).seconds == np.inf


def test_no_kernel_beats_the_tensor_cores_or_the_memory(gpu):
    seconds = kernel_time(gpu, "bf16", CODE, CALLS).seconds
    flops = 4 * 64 * CALLS.heads * int((CALLS.lengths**2 * CALLS.counts).sum())
    assert flops / seconds < gpu.dense_flops_per_s["bf16"]
    moved = 4 * 2 * 64 * CALLS.heads * CALLS.tokens
    assert moved / moving_seconds(gpu, "bf16", "rotate", CALLS, 64) < 4 * gpu.bandwidth_bytes_per_s
    assert flops_per_cycle(load_gpu("h100-sxm"), "bf16") == 4096


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([16, 32, 64, 128]),
    st.lists(st.integers(1, 700), min_size=1, max_size=3, unique=True),
    st.sampled_from([-1, 0, 5, 64, 300]),
)
def test_stretches_are_those_of_the_device_code(rows, columns, lengths, window):
    walked = stretches(rows, columns, np.array(lengths), np.ones(len(lengths), dtype=np.int64), window)
    before = full = after = blocks = longest = 0
    for length in lengths:
        for first in range(0, length, rows):
            start, full_start, full_stop, stop = _other_side(first, length, window, rows, columns)
            steps = [len(range(a, b, columns)) for a, b in ((start, full_start), (full_start, full_stop))]
            steps.append(len(range(full_stop, stop, columns)))
            before, full, after = before + steps[0], full + steps[1], after + steps[2]
            blocks, longest = blocks + 1, max(longest, sum(steps))
    assert (walked.blocks, walked.before, walked.full, walked.after) == (blocks, before, full, after)
    assert walked.longest == longest
    if window < 0:
        counts = np.ones(len(lengths), dtype=np.int64)
        visited = visited_tiles(rows, columns, np.array(lengths), counts, window, causal=False)
        assert visited == (walked.blocks, walked.steps, walked.longest)


def _other_side(first, length, window, rows, block):
    """As in kernels/src/triton_attention/tiles.py."""
    last, start, stop, all_from, all_to = first + rows - 1, 0, length, 0, length - 1
    if window >= 0:
        start, stop = max(0, first - window), min(length, last + 1 + window)
        all_from, all_to = last - window, min(first + window, length - 1)
    full_start = start + -(-max(all_from - start, 0) // block) * block
    full_stop = start + max(all_to + 1 - start, 0) // block * block
    full_start = min(full_start, stop)
    return start, full_start, max(full_start, full_stop), stop
