"""The loss on held-out data at fixed times and fixed noise: comparable between steps and runs."""

import torch
from torch import Generator, Tensor

from sv_core.interpolant import LINEAR
from sv_core.targets import Path, conditional_velocity

from .backbones.base import Backbone
from .data import Dataset

TIMES = torch.linspace(0.0625, 0.9375, 8)
"""The middles of eight equal parts of (0, 1)."""


@torch.inference_mode()
def validate(backbone: Backbone, data: Dataset, chunk: int = 512) -> Tensor:
    """E |v(x_t, t, label) - (eps - x0)|^2 at each of TIMES (8,), mean over elements.

    Always the conditional target, whatever the run is trained on: the same yardstick for all. Its
    least value is not 0 but the variance of that target.
    """
    device = next(backbone.model.parameters()).device
    x0 = data.latent.to_model(data.held_out)
    eps = torch.randn(x0.shape, generator=Generator().manual_seed(0))
    losses = []
    for time in TIMES:
        t = time.expand(len(x0))
        path = Path(x0, eps, LINEAR.x_t(x0, eps, t), t)
        target = conditional_velocity(LINEAR, path)
        error = torch.zeros(())
        parts = zip(
            *(x.split(chunk) for x in (path.x_t, t, data.held_out_labels, target)), strict=True
        )
        for x_t, t_part, labels, wanted in parts:
            v = backbone.velocity(x_t.to(device), t_part.to(device), labels.to(device)).cpu()
            error = error + (v - wanted).square().mean((1, 2, 3)).sum()
        losses.append(error / len(x0))
    return torch.stack(losses)
