"""How near one picture is to another. Images (b, c, h, w) in [0, 1]; one number per image (b,)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """-10 log10 mean (a - b)^2, in dB for a data range of 1; infinite for equal images."""
    return -10 * torch.log10((a - b).square().flatten(1).mean(1))


def _blur(x: Tensor, window: Tensor) -> Tensor:
    channels, size = x.shape[1], len(window)
    for shape in ((1, 1, size, 1), (1, 1, 1, size)):
        x = F.conv2d(x, window.view(shape).expand(channels, -1, -1, -1), groups=channels)
    return x


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, mean over the picture; 1 for equal images. [Wang et al. 2004]

    Gaussian windows of 11 pixels, standard deviation 1.5, K1 = 0.01, K2 = 0.03, data range 1,
    only windows that lie wholly inside. Images must be at least 11 pixels wide and high.
    """
    offsets = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    window = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = window / window.sum()
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    cov = _blur(a * b, window) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    score = score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.flatten(1).mean(1)
