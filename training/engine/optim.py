"""The optimiser, its learning rate at each step, and the running averages of the weights."""

import importlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sv_core.errors import InvalidInput

from ..config.schema import OptimConfig


def _library(name: str, optimizer: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise InvalidInput(
            f"optim.optimizer = {optimizer} needs the package {name} ({e}): pip install {name}, or "
            f"use adamw"
        ) from e


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig
) -> torch.optim.Optimizer:
    """AdamW, its 8-bit or its schedule-free form; the learning rate is set at every step.

    [arXiv 1711.05101; 8 bits: 2110.02861; schedule-free: 2405.15682]. Raises InvalidInput when the
    optional package is missing.
    """
    trained = [p for p in parameters if p.requires_grad]
    options = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        return _library("bitsandbytes", config.optimizer).optim.AdamW8bit(trained, **options)
    if config.optimizer == "schedule_free":
        optimizer = _library("schedulefree", config.optimizer).AdamWScheduleFree(trained, **options)
        optimizer.train()
        return optimizer
    return torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)


def lr_at(step: int, config: OptimConfig) -> float:
    """The rate of step 1..steps: linear warm-up to ``lr``, then constant, or a cosine to 0."""
    if step <= config.warmup:
        return config.lr * step / config.warmup
    if config.schedule == "constant":
        return config.lr
    # Half a step back, so that the last step still moves.
    done = (step - config.warmup - 0.5) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


class Average(Protocol):
    """Tensors that follow the trained ones, in their order and in float32 or better."""

    tensors: list[Tensor]

    def update(self, n: int) -> None:
        """Take in the weights after the n-th optimiser step."""


def _start(trained: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone().to(torch.promote_types(p.dtype, torch.float32)) for p in trained]


class Ema:
    """avg <- d avg + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    The ramp lets the average forget the initial weights, which takes long with a high decay alone.
    """

    def __init__(self, trained: Sequence[nn.Parameter], decay: float):
        self.trained, self.decay, self.tensors = trained, decay, _start(trained)

    @torch.no_grad()
    def update(self, n: int) -> None:
        share = 1 - min(self.decay, (1 + n) / (10 + n))
        for average, weight in zip(self.tensors, self.trained, strict=True):
            average.lerp_(weight.to(average.dtype), share)


class ScheduleFreeAverage:
    """Schedule-free's own average x, of which the trained weights are y = b1 x + (1 - b1) z.

    Computed beside the run: converting the optimiser's weights to x and back would round them.
    """

    def __init__(self, trained: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer):
        self.trained, self.optimizer, self.tensors = trained, optimizer, _start(trained)

    @torch.no_grad()
    def update(self, n: int) -> None:
        beta = self.optimizer.param_groups[0]["betas"][0]
        for average, weight in zip(self.tensors, self.trained, strict=True):
            fast = self.optimizer.state.get(weight, {}).get("z")
            average.copy_(weight if fast is None else weight.lerp(fast.to(weight), 1 - 1 / beta))


def build_averages(
    trained: Sequence[nn.Parameter], config: OptimConfig, optimizer: torch.optim.Optimizer
) -> list[Average]:
    """One per decay of ``optim.ema``, or schedule-free's own."""
    if config.optimizer == "schedule_free":
        return [ScheduleFreeAverage(trained, optimizer)]
    return [Ema(trained, decay) for decay in config.ema]


@contextmanager
def lent(trained: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Context manager: the trained parameters hold ``values``; their own return bit for bit.

    So averaged weights need no second copy of a network that is mostly frozen.
    """
    own = [p.detach().clone() for p in trained]

    @torch.no_grad()
    def fill(tensors: Sequence[Tensor]) -> None:
        for parameter, value in zip(trained, tensors, strict=True):
            parameter.copy_(value)

    fill(values)
    try:
        yield
    finally:
        fill(own)
