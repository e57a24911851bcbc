"""Numbers of the paper and of its authors' files (arXiv 2412.13663; FlexBERT's schedulers)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.training import find_recipe, read_recipe, recipe_of
from hwsearch.training.recipe import scale_phase, short_recipe
from hwsearch.training.schedule import Schedule, learning_rate_share
from tests.training.recipes import PHASE

BASE = read_recipe(find_recipe("modernbert"))
PRETRAINING, EXTENSION, DECAY = BASE.phases


def test_phases_are_the_papers():
    assert [phase.tokens for phase in BASE.phases] == [1_719_000_000_000, 250_000_000_000, 50_000_000_000]
    assert [phase.sequence_length for phase in BASE.phases] == [1024, 8192, 8192]
    assert [phase.tokens_per_step // phase.sequence_length for phase in BASE.phases] == [4608, 576, 576]
    assert [phase.tokens_per_row // phase.sequence_length for phase in BASE.phases] == [96, 12, 12]
    assert [phase.learning_rate for phase in BASE.phases] == [8e-4, 3e-4, 3e-4]
    assert [phase.global_rope_theta for phase in BASE.phases] == [10_000, 160_000, 160_000]
    assert {phase.weight_decay for phase in BASE.phases} == {1e-5}
    assert BASE.betas == (0.9, 0.98) and BASE.eps == 1e-6


def test_batch_warmup_is_flexberts():
    """768, 1536 ... 4608 sequences from 0, 3.33, 10, 20, 33.3 and 50 B tokens on, some 4,238 steps each."""
    schedule = Schedule.of(PRETRAINING)
    sequences = [stretch.rows * 96 for stretch in schedule.stretches]
    assert sequences == [768, 1536, 2304, 3072, 3840, 4608]
    billions = [stretch.first_token / 1e9 for stretch in schedule.stretches]
    assert billions == pytest.approx([0, 50 / 15, 10, 20, 500 / 15, 50], abs=0.004)
    firsts = [stretch.first_step for stretch in schedule.stretches]
    steps = [later - first for first, later in pairwise(firsts)]
    assert all(abs(count - 50e9 / 15 / (768 * 1024)) < 1 for count in steps)
    # 50.0 B tokens in steps of 576 x 8192 are 10,597 with full rows; the authors' run took 10,598.
    assert Schedule.of(DECAY).steps == 10_597


def test_batch_warmup_of_the_large_model():
    """448 to 4,928 sequences over 10 B tokens, in 11 sizes of one to eleven micro-batches a GPU."""
    large = PRETRAINING.model_copy(
        update={
            "tokens_per_step": 4928 * 1024,
            "tokens_per_row": 56 * 1024,
            "batch_warmup": PRETRAINING.batch_warmup.model_copy(
                update={"from_tokens_per_step": 448 * 1024, "tokens": 10_000_000_000}
            ),
        }
    )
    schedule = Schedule.of(large)
    assert [stretch.rows for stretch in schedule.stretches] == [8 * size for size in range(1, 12)]
    assert schedule.stretches[-1].first_token == pytest.approx(10e9, rel=1e-3)


def test_learning_rate_rises_over_3_billion_tokens_and_stays():
    share = learning_rate_share
    assert share(PRETRAINING, 0) == 1e-10
    assert share(PRETRAINING, 750_000_000) == pytest.approx(0.25)
    assert {share(PRETRAINING, tokens) for tokens in (3 * 10**9, 10**12, 1719 * 10**9)} == {1.0}
    assert {share(EXTENSION, tokens) for tokens in (0, 10**9, 250 * 10**9)} == {1.0}


def test_decay_is_one_minus_sqrt_down_to_a_thousandth():
    for done, expected in ((0, 1.0), (0.25, 0.5), (0.81, 0.1), (1.0, 0.0)):
        share = learning_rate_share(DECAY, round(done * 50e9))
        assert share == pytest.approx(0.001 + 0.999 * expected)


def test_warmup_stable_decay_within_one_phase():
    phase = short_recipe(steps=100, tokens_per_step=512, learning_rate=1.0).phases[0]
    schedule = Schedule.of(phase)
    assert schedule.steps == 100
    rates = [schedule.learning_rate_at(step) for step in range(100)]
    assert rates[:11] == pytest.approx([1e-10, *(step / 10 for step in range(1, 11))])
    assert rates[10:51] == [1.0] * 41
    assert rates[75] == pytest.approx(1 - math.sqrt(0.5))
    assert rates[99] == pytest.approx(1 - math.sqrt(49 / 50))


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_scale(scale):
    for phase in BASE.phases:
        scaled = scale_phase(phase, scale)
        assert scaled.tokens == pytest.approx(phase.tokens * scale)
        assert scaled.warmup_tokens == pytest.approx(phase.warmup_tokens * scale, abs=1)
        assert scaled.decay_tokens == pytest.approx(phase.decay_tokens * scale, abs=1)
        least = phase.sequence_length  # at least one row, and that holds at least one sequence
        wanted = max(least, phase.tokens_per_step * math.sqrt(scale))
        schedule = Schedule.of(scaled)
        size = schedule.rows_at(schedule.steps - 1) * scaled.tokens_per_row
        assert size == pytest.approx(wanted, rel=0.5 * scaled.tokens_per_row / wanted + 1e-3)
        assert (scaled.sequence_length, scaled.learning_rate) == (phase.sequence_length, phase.learning_rate)
    assert BASE.model_copy(update={"scale": scale}).scaled_phases()[1] == scale_phase(EXTENSION, scale)


def test_scale_one_changes_nothing():
    assert BASE.scaled_phases() == BASE.phases


def test_small_scales_keep_the_batch_warmup():
    schedule = Schedule.of(scale_phase(PRETRAINING, 1e-6))
    assert [stretch.rows for stretch in schedule.stretches] == [1, 2, 3, 4, 5]


@given(
    tokens=st.integers(1, 100_000),
    rows=st.integers(2, 12),
    first=st.integers(1, 6),
    warmup=st.integers(1, 50_000),
)
def test_steps_add_up(tokens, rows, first, warmup):
    phase = recipe_of(
        {
            "phases": [
                {
                    **PHASE,
                    "name": "phase",
                    "tokens": tokens,
                    "tokens_per_step": rows * 256,
                    "batch_warmup": {"from_tokens_per_step": min(first, rows - 1) * 256, "tokens": warmup},
                }
            ]
        }
    ).phases[0]
    schedule = Schedule.of(phase)
    sizes = [schedule.rows_at(step) for step in range(schedule.steps)]
    assert sizes == sorted(sizes) and sizes[-1] <= rows
    before = [sum(sizes[:step]) * 256 for step in range(len(sizes))]
    assert before == [schedule.tokens_before(step) for step in range(schedule.steps)]
    assert before[-1] < tokens <= schedule.tokens == sum(sizes) * 256
    assert schedule.passes(3) == sum(math.ceil(size / 3) for size in sizes)
