"""The optimiser, its learning rate at each step, and the running average of the weights."""

import copy
import math

import torch
from torch import nn

from .config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what requires a gradient; the learning rate is set at every step."""
    trained = [p for p in model.parameters() if p.requires_grad]
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


class Ema:
    """avg <- d avg + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    The ramp lets the average leave the initial weights, which long decays would keep for ages.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, n: int) -> None:
        """Take in the weights after the n-th optimiser step."""
        share = 1 - min(self.decay, (1 + n) / (10 + n))
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, share)
