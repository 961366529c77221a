"""Training bf16 weights without float32 copies of them: float32 steps, rounded stochastically.

bf16 has 8 bits: a step below 1/512 of a weight is always lost by rounding to the nearest. Rounded
up with a probability proportional to the distance, it is right on average [arXiv 2010.06192].
Moments stay in float32. The other way is float32 weights under bf16 autocast (``run.precision``);
this one takes 4 bytes less for each weight (2 of the weight, 2 of its gradient).

Libraries have it for optimisers of their own, with the global generator; this works for any
optimiser with torch's interface, and a resumed run draws the same numbers.
"""

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributed.tensor import DTensor

from ..rng import generator

_COUNT = "rounded_steps"


def stochastic_round(x: Tensor, draws: Generator | None = None) -> Tensor:
    """float32 -> bf16, one of its two neighbours, with mean x; values that bf16 has stay unchanged.

    A bf16 is the upper half of a float32: add uniform 16 bits to the lower half, cut it off.
    Infinities and NaN pass.
    """
    x = x.float()
    noise = torch.randint(1 << 16, x.shape, generator=draws, device=x.device, dtype=torch.int32)
    rounded = (x.view(torch.int32) + noise).bitwise_and_(-1 << 16).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)


def step_in_float32(optimizer: torch.optim.Optimizer, seed: int) -> torch.optim.Optimizer:
    """Let ``optimizer.step()`` move bf16 weights in float32 and round them stochastically.

    One weight after the other, so that only one is in memory twice; its state (moments) is made
    from the float32 copy, hence float32. Other weights are stepped as usual. The random numbers
    depend on the seed and the count of steps, which is in the optimiser's state_dict: a resumed run
    gets the same. Processes that hold the same weights must pass the same seed.
    """
    for group in optimizer.param_groups:
        group.setdefault(_COUNT, 0)
    exact: dict[int, dict[str, Any]] = {}
    optimizer.step = MethodType(partial(_step, seed), optimizer)
    optimizer.register_load_state_dict_pre_hook(partial(_remember, exact))
    optimizer.register_load_state_dict_post_hook(partial(_restore, exact))
    return optimizer


@torch.no_grad()
def _step(seed: int, self: torch.optim.Optimizer, closure: None = None) -> None:
    """Takes the place of an optimiser's step."""
    groups = self.param_groups
    parameters = [group["params"] for group in groups]
    before = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    # On the weights' device, where they are rounded, but seeded as everywhere.
    seeded = generator(seed, groups[0][_COUNT], "rounding").initial_seed()
    draws: dict[torch.device, Generator] = {}

    def step(chosen: list[list[nn.Parameter]]) -> None:
        # Each weight's step begins with the groups' earlier values (schedule-free counts there).
        for group, values, some in zip(groups, before, chosen, strict=True):
            group.update(values)
            group["params"] = some
        type(self).step(self)
        for group in groups:
            group["params"] = []  # keeps no copy alive

    try:
        step([[p for p in some if p.dtype != torch.bfloat16] for some in parameters])
        for number, some in enumerate(parameters):
            for weight in some:
                if weight.grad is None or weight.dtype != torch.bfloat16:
                    continue
                copy = nn.Parameter(weight.detach().float())
                copy.grad = weight.grad.float()
                if weight in self.state:
                    self.state[copy] = self.state.pop(weight)
                step([[copy] if i == number else [] for i in range(len(groups))])
                if copy in self.state:
                    self.state[weight] = self.state.pop(copy)
                own, exact = _local(weight.detach()), _local(copy.detach())
                device = own.device
                if device not in draws:
                    draws[device] = torch.Generator(device).manual_seed(seeded)
                own.copy_(stochastic_round(exact, draws[device]))
                del copy, exact  # before the next one is made
    finally:
        for group, some in zip(groups, parameters, strict=True):
            group["params"] = some
    for group, values in zip(groups, before, strict=True):
        group[_COUNT] = values[_COUNT] + 1


def _local(x: Tensor) -> Tensor:
    """This process's share of a tensor that is spread over processes."""
    return x.to_local() if isinstance(x, DTensor) else x


def _remember(
    exact: dict[int, dict[str, Any]], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    exact.clear()
    exact.update(state["state"])


def _restore(exact: dict[int, dict[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """torch loads moments in the weight's dtype: load those of bf16 weights in float32."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in exact.items():
        weight = weights[number]
        if weight.dtype == torch.bfloat16:
            for name, value in values.items():
                if isinstance(value, Tensor) and name != "step":
                    optimizer.state[weight][name] = value.to(weight.device, copy=True)
    exact.clear()
