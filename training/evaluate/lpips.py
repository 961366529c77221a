"""Perceptual distance of two pictures. [Zhang et al. 2018, arXiv 1801.03924], version 0.1, AlexNet

LPIPS(a, b) = sum_l mean_hw w_l . (y_l(a) - y_l(b))^2, with y_l the features of layer l, of length 1
in every pixel. The weights are not ours to ship: a folder holds both files under the names that
their authors gave them, ``alexnet-owt-7be5be79.pth`` (torchvision) and ``alex.pth`` (the package
lpips, in lpips/weights/v0.1).
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sv_core.errors import InvalidInput

from ..files import read_weights

NETWORK, WEIGHTS = "alexnet-owt-7be5be79.pth", "alex.pth"
CONVOLUTIONS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
"""Of AlexNet's layers with a convolution: number, stride, padding."""
POOLED_BEFORE = (3, 6)
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pictures in [-1, 1]."""
SMALLEST = 32
"""Pixels: below, the last layers have nothing left."""


class Distance:
    """Calling it with two pictures (1, 3, h, w) in [0, 1] returns their distance, (1,)."""

    def __init__(self, network: dict[str, Tensor], weights: dict[str, Tensor]):
        self._network, self._weights = network, weights

    def _features(self, x: Tensor) -> list[Tensor]:
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        x, found = (2 * x - 1 - mean) / std, []
        for number, stride, padding in CONVOLUTIONS:
            if number in POOLED_BEFORE:
                x = F.max_pool2d(x, 3, 2)
            kernel = self._network[f"features.{number}.weight"]
            bias = self._network[f"features.{number}.bias"]
            x = F.conv2d(x, kernel, bias, stride, padding).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[2:]) < SMALLEST:
            raise InvalidInput(f"LPIPS needs pictures of {SMALLEST} pixels or more; leave it out")
        total = a.new_zeros(a.shape[0])
        for i, (x, y) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            weight = self._weights[f"lin{i}.model.1.weight"]
            total = total + F.conv2d((x - y).square(), weight).mean((1, 2, 3))
        return total


def load_lpips(folder: Path) -> Distance:
    """Raises InvalidInput when a file is missing or is something else."""
    network, _ = read_weights(folder / NETWORK)
    weights, _ = read_weights(folder / WEIGHTS)
    needed = [f"features.{n}.{part}" for n, *_ in CONVOLUTIONS for part in ("weight", "bias")]
    lacking = [name for name in needed if name not in network]
    lacking += [
        f"lin{i}.model.1.weight" for i in range(5) if f"lin{i}.model.1.weight" not in weights
    ]
    if lacking:
        raise InvalidInput(f"{folder} does not hold LPIPS's AlexNet: {lacking[0]} is missing")
    return Distance(network, weights)
