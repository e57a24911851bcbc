"""StableAdamW as the paper's appendix has it, against plain float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.errors import HwsearchError
from hwsearch.training.optimizer import load_optimizer, make_optimizer, optimizer_tensors, set_rates
from tests.training.recipes import two_phases

RECIPE = two_phases()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.matrix = nn.Parameter(torch.randn(5, 3, generator=generator))
        self.norm = nn.Parameter(torch.ones(4))


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    size = 10.0 if step == 3 else 1.0  # a spike, which the update's RMS must hold down
    return {
        "matrix": size * torch.randn(5, 3, generator=generator),
        "norm": torch.randn(4, generator=generator),
    }


def advance(model, optimizer, steps, rates=None):
    phase = RECIPE.phases[0].model_copy(update={"weight_decay": 0.01, "learning_rate": 0.1})
    for step in steps:
        set_rates(optimizer, phase, 0.05 if rates is None else rates[step])
        for name, weight in model.named_parameters():
            weight.grad = gradients(step)[name]
        optimizer.step()
        optimizer.zero_grad()


def test_steps_are_the_formula():
    model = Two()
    expected = {name: weight.detach().double().numpy().copy() for name, weight in model.named_parameters()}
    rates = [0.1, 0.05, 0.025, 0.1, 0.1]
    advance(model, make_optimizer(model, RECIPE), range(5), rates)
    b1, b2, eps = *RECIPE.betas, RECIPE.eps
    for name, weight in expected.items():
        m, v = np.zeros_like(weight), np.zeros_like(weight)
        for step in range(5):
            g = gradients(step)[name].double().numpy()
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            m_hat, v_hat = m / (1 - b1 ** (step + 1)), v / (1 - b2 ** (step + 1))
            rms = np.sqrt(np.mean(g * g / np.maximum(v_hat, eps**2)))
            rate = rates[step] / max(1.0, rms)
            if name == "matrix":  # fully decoupled: a share of the peak, 0.1; and not on norms
                weight *= 1 - 0.01 * rate / 0.1
            weight -= rate * m_hat / (np.sqrt(v_hat) + eps)
        found = dict(model.named_parameters())[name].detach().double().numpy()
        assert np.abs(found - weight).max() < 1e-5


def test_state_goes_on_bit_for_bit():
    whole, stopped = Two(), Two()
    advance(whole, make_optimizer(whole, RECIPE), range(6))
    first = make_optimizer(stopped, RECIPE)
    advance(stopped, first, range(3))
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(stopped, first).items()}
    again = Two()
    again.load_state_dict(stopped.state_dict())
    second = make_optimizer(again, RECIPE)
    load_optimizer(again, second, tensors)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), stopped.parameters(), strict=True))
    advance(again, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("change", ["missing", "size"])
def test_state_of_another_model(change):
    model = Two()
    optimizer = make_optimizer(model, RECIPE)
    advance(model, optimizer, range(1))
    tensors = optimizer_tensors(model, optimizer)
    if change == "missing":
        del tensors["matrix/exp_avg"]
    else:
        tensors["matrix/exp_avg"] = torch.zeros(5, 4)
    with pytest.raises(HwsearchError, match=r"matrix/exp_avg: found .* this model has \(5, 3\)"):
        load_optimizer(Two(), make_optimizer(Two(), RECIPE), tensors)
