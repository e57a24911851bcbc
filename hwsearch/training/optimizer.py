"""StableAdamW (torch-optimi), and its state as named tensors whatever the number of processes.

StableAdamW divides the learning rate of a tensor by max(1, RMS(g / max(sqrt(v), eps))), which stands for
gradient clipping; optimi's own implementation also serves sharded tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from optimi import StableAdamW
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from hwsearch.errors import HwsearchError
from hwsearch.model.scaling import Scale
from hwsearch.training.recipe import Phase, Recipe

# What StableAdamW remembers of each parameter, in the parameter's shape.
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(
    model: nn.Module, recipe: Recipe, *, scales: Mapping[str, Scale] | None = None, sharded: bool = False
) -> StableAdamW:
    """No weight decay on norms and biases, the one-dimensional parameters.

    Args:
        scales: factors on learning rate and eps by parameter's name (hwsearch.model.scaling).
        sharded: the model's tensors are parts of whole ones (FSDP2).
    """
    alike: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        scale = scales[name] if scales else Scale()
        alike.setdefault((weight.dim() > 1, scale.learning_rate, scale.eps), []).append(weight)
    groups = [
        {"params": weights, "decays": decays, "factor": factor, "eps": eps * recipe.eps}
        for (decays, factor, eps), weights in alike.items()
    ]
    with warnings.catch_warnings():
        # It warns of decays from 1e-3 on, which are the recipe's own choice.
        warnings.simplefilter("ignore", UserWarning)
        return StableAdamW(
            groups,
            lr=recipe.phases[0].learning_rate,
            betas=recipe.betas,
            decouple_lr=True,
            # optimi's Triton kernels are quick, but see this process's part of a sharded tensor only.
            triton=next(model.parameters()).is_cuda and not sharded,
        )


def set_rates(optimizer: StableAdamW, phase: Phase, learning_rate: float) -> None:
    """Before a step; moments and the count of steps go on from phase to phase."""
    for group in optimizer.param_groups:
        # The share of `weight_decay` that is taken is the learning rate over its peak in this phase.
        group["lr"], group["max_lr"] = group["factor"] * learning_rate, group["factor"] * phase.learning_rate
        group["weight_decay"] = phase.weight_decay if group["decays"] else 0.0


def optimizer_tensors(model: nn.Module, optimizer: StableAdamW) -> dict[str, Tensor]:
    """The state as whole tensors on the CPU, "NAME/exp_avg" and so on; every process must call it."""
    tensors = {"step": optimizer.param_groups[0]["step"].to(torch.int64).reshape(1)}
    for name, weight in model.named_parameters():
        for moment in MOMENTS:
            tensors[f"{name}/{moment}"] = whole(optimizer.state[weight][moment])
    return tensors


def load_optimizer(model: nn.Module, optimizer: StableAdamW, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. Raises HwsearchError where it does not fit the model."""
    _create_state(optimizer)
    for name, weight in model.named_parameters():
        for moment in MOMENTS:
            saved = tensors.get(f"{name}/{moment}")
            if saved is None or saved.shape != weight.shape:
                found = "nothing" if saved is None else tuple(saved.shape)
                raise HwsearchError(f"{name}/{moment}: found {found}, this model has {tuple(weight.shape)}")
            fill(optimizer.state[weight][moment], saved)
    for group in optimizer.param_groups:
        group["step"].fill_(int(tensors["step"]))


@torch.no_grad()
def _create_state(optimizer: StableAdamW) -> None:
    """A step with gradients of zero at no learning rate: optimi makes its state, no weight changes."""
    before = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    for group, (learning_rate, weight_decay) in zip(optimizer.param_groups, before, strict=True):
        group["lr"], group["weight_decay"] = learning_rate, weight_decay


def whole(tensor: Tensor) -> Tensor:
    """Of all processes, on the CPU; a collective operation for a sharded tensor."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.cpu().contiguous()


@torch.no_grad()
def fill(tensor: Tensor, saved: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over processes."""
    if isinstance(tensor, DTensor):
        saved = distribute_tensor(saved.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(saved)
