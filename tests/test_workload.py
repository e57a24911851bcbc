"""Workloads: the lengths behind each spec."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.workload import parse_workload


def test_fixed() -> None:
    workload = parse_workload("fixed:512x64")
    assert (workload.tokens, workload.batch_size, workload.padded_length) == (32768, 64, 512)


def test_the_papers_variable_set_has_the_papers_totals() -> None:
    """ModernBERT's notebooks: 2,096,510 and 33,604,913 tokens, lengths 32..476 and 171..7624."""
    short = parse_workload("normal:256,64,32..512x8192")
    assert (short.tokens, min(short.lengths), max(short.lengths)) == (2_096_510, 32, 476)
    long = parse_workload("normal:4096,1024,32..8192x8192")
    assert (long.tokens, min(long.lengths), max(long.lengths)) == (33_604_913, 171, 7624)
    assert short.padded_length == 512


def test_unpadding_models_compute_real_tokens_only() -> None:
    workload = parse_workload("normal:256,64,32..512x100")
    lengths, counts = workload.computed_lengths(unpads=True)
    assert int((lengths * counts).sum()) == workload.tokens < 100 * 512
    lengths, counts = workload.computed_lengths(unpads=False)
    assert lengths.tolist() == [512] and counts.tolist() == [100]


def test_a_file_of_lengths(tmp_path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\n5\n\n3\n")
    workload = parse_workload(str(path))
    assert workload.lengths == (3, 5, 3) and workload.padded_length == 5
    lengths, counts = workload.computed_lengths(unpads=True)
    assert np.array_equal(lengths, [3, 5]) and np.array_equal(counts, [2, 1])
    path.write_text("3\nfive\n")
    with pytest.raises(HwsearchError, match=r"lengths\.txt:2: 'five' is not a length"):
        parse_workload(str(path))
    path.write_text("\n")
    with pytest.raises(HwsearchError, match="no lengths"):
        parse_workload(str(path))


@pytest.mark.parametrize(
    "spec", ["fixed:0x4", "fixed:4x0", "fixed:4", "normal:256,64,512..32x8", "uniform:3x4", "missing.txt", ""]
)
def test_what_is_not_a_workload_says_so(spec: str) -> None:
    with pytest.raises(HwsearchError, match="workload"):
        parse_workload(spec)
