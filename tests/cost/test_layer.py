"""What a layer runs, counted by hand for known wirings."""

from __future__ import annotations

import pytest

from hwsearch.cost.layer import Attention, Gemm, count_kernels, layer_operators
from hwsearch.cost.runtime import RUNTIMES, Kernels
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape.architecture import ARCHITECTURES, BERT, MODERNBERT, Architecture

SEPARATE = Kernels((3,), 2, 2, (), (3, 3), (2, 3), (2,), (2, 2, 2), (2, 2, 2, 2))
JOINED = Kernels((), 3, 4, (), (2,), (3,), (), (2,), (6, 2))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_every_layer_multiplies_four_matrices_and_attends(
    architecture: Architecture, runtime: RuntimeName, dtype: str
) -> None:
    operators = layer_operators(architecture, RUNTIMES[runtime].kernels(load_gpu("l4"), dtype))
    plain = [o for o in operators if isinstance(o, Gemm) and o.name != "disentangled attention"]
    assert [(o.outputs, o.inputs) for o in plain] == [
        ("qkv", "hidden"), ("hidden", "query"), ("fused", "hidden"), ("hidden", "intermediate")
    ]  # fmt: skip
    assert "attention" in [operator.name for operator in operators]
    assert sum(isinstance(operator, Attention) for operator in operators) <= 1


@pytest.mark.parametrize(
    ("architecture", "kernels", "count"),
    [
        (BERT, SEPARATE, 5 + 4 + 1),
        (BERT, JOINED, 5 + 2),
        (MODERNBERT, SEPARATE, 5 + 1 + 4 + 2),
        (MODERNBERT, JOINED, 5 + 1 + 2 + 1),
    ],
)
def test_launches_of_a_layer(architecture: Architecture, kernels: Kernels, count: int) -> None:
    assert count_kernels(layer_operators(architecture, kernels)) == count
