"""What a layer runs, counted by hand for known wirings."""

from __future__ import annotations

import pytest

from hwsearch.cost.layer import Attention, Gemm, count_kernels, layer_operators
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.shape.architecture import ARCHITECTURES, BERT, MODERNBERT


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.name)
def test_every_layer_multiplies_four_matrices_and_attends_once(architecture, runtime) -> None:
    operators = layer_operators(architecture, RUNTIMES[runtime])
    plain = [o for o in operators if isinstance(o, Gemm) and o.name != "disentangled attention"]
    assert [(o.outputs, o.inputs) for o in plain] == [
        ("qkv", "hidden"), ("hidden", "query"), ("fused", "hidden"), ("hidden", "intermediate")
    ]  # fmt: skip
    assert sum(isinstance(operator, Attention) for operator in operators) == 1


@pytest.mark.parametrize(
    ("architecture", "runtime", "kernels"),
    [
        (BERT, "eager", 5 + 4 + 1),
        (BERT, "tensorrt", 5 + 2),
        (MODERNBERT, "eager", 5 + 1 + 4 + 2),
        (MODERNBERT, "compile", 5 + 1 + 2 + 1),
    ],
)
def test_launches_of_a_layer(architecture, runtime, kernels) -> None:
    assert count_kernels(layer_operators(architecture, RUNTIMES[runtime])) == kernels
