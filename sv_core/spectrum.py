"""Cosine coefficients of latents, and the power law that they follow.

The orthonormal DCT-II over the last two axes: it keeps white noise white, and the lowest h x w
coefficients are a smaller picture. Coefficient (i, j) of an H x W picture has the Nyquist fraction
q = sqrt((i / H)^2 + (j / W)^2), which means the same detail at every size.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .errors import InvalidInput

Size = tuple[int, int]
"""Height and width."""


@lru_cache(maxsize=32)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II as a matrix: (n, n), a coefficient in each row."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def cosine(x: Tensor) -> Tensor:
    """The coefficients of (..., H, W), of the same shape: in float32, or float64 for float64."""
    x = _precise(x)
    rows, columns = (_cosines(n, x.dtype, x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


def inverse_cosine(coefficients: Tensor) -> Tensor:
    """The inverse of ``cosine``, which is its transpose."""
    c = _precise(coefficients)
    rows, columns = (_cosines(n, c.dtype, c.device) for n in c.shape[-2:])
    return rows.T @ c @ columns


def low(x: Tensor, size: Size) -> Tensor:
    """The h x w lowest coefficients of (..., H, W) as a picture (..., h, w)."""
    h, w = size
    return inverse_cosine(cosine(x)[..., :h, :w])


def lift(y: Tensor, size: Size) -> Tensor:
    """A picture (..., h, w) as the lowest coefficients of one of ``size``: low(lift(y)) is y."""
    h, w = y.shape[-2:]
    return inverse_cosine(torch.nn.functional.pad(cosine(y), (0, size[1] - w, 0, size[0] - h)))


def fractions(size: Size, device: torch.device | str = "cpu") -> Tensor:
    """The Nyquist fraction of every coefficient: (H, W), 0 for the mean."""
    rows, columns = (torch.arange(n, device=device, dtype=torch.float64) / n for n in size)
    return torch.hypot(rows[:, None], columns[None])


@dataclass(frozen=True)
class PowerLaw:
    """The mean square of clean data's coefficients, P(q) = amplitude q^-exponent; noise has 1."""

    amplitude: float
    exponent: float

    def __post_init__(self) -> None:
        """Raises InvalidInput for what no data has."""
        if not (0 < self.amplitude < math.inf and 0 <= self.exponent < math.inf):
            raise InvalidInput(
                f"a spectrum needs an amplitude above 0 and an exponent of at least 0, not "
                f"{self.amplitude} and {self.exponent}"
            )

    def power(self, q: Tensor) -> Tensor:
        """P(q); it has no value at q = 0, the mean."""
        return self.amplitude * q**-self.exponent

    def power_at(self, q: float) -> float:
        """P at one Nyquist fraction."""
        return self.amplitude * q**-self.exponent


FLUX_SPECTRUM = PowerLaw(0.0706, 1.915)
"""Of Flux.1's latents: 0.267 at half the Nyquist frequency of any size. [arXiv 2605.18736]"""

WAN_SPECTRUM = PowerLaw(0.0217, 2.42)
"""Of Wan2.1's latents of 720p videos: 0.116 at half the Nyquist frequency. [the same]"""


def band_powers(latents: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The mean square of the coefficients of (n, c, ..., H, W) in bands of q, for each channel.

    Returns powers (c, bands) and counts (bands,) of the coefficients in a picture; bands without
    any have power 0. ``edges`` (bands + 1,) ascend.
    """
    q = fractions((latents.shape[-2], latents.shape[-1]), latents.device)
    inner = edges[1:-1].to(q)
    inside = (q >= edges[0]) & (q < edges[-1]) & (q > 0)
    band = torch.bucketize(q, inner, right=True)[inside]
    squares = cosine(latents).double().square()
    kept = [i for i in range(squares.ndim) if i not in (1, squares.ndim - 2, squares.ndim - 1)]
    mean = squares.mean(kept)[:, inside]
    counts = torch.bincount(band, minlength=len(edges) - 1)
    sums = mean.new_zeros(len(mean), len(counts)).index_add_(1, band, mean)
    return sums / counts.clamp(min=1), counts


def fit_power_law(latents: Tensor, lowest: float = 0.1, bands: int = 12) -> PowerLaw:
    """The power law nearest to latents (n, c, ..., H, W), as the network has them.

    Least squares of log P over log q in bands of equal ratio between ``lowest`` and 1, each weighed
    by its coefficients. Raises InvalidInput for latents without power there or too small for two
    bands.
    """
    edges = torch.logspace(math.log10(lowest), 0, bands + 1, dtype=torch.float64)
    powers, counts = band_powers(latents, edges)
    mean, used = powers.mean(0).cpu(), counts.cpu() > 0
    if int(used.sum()) < 2 or not bool((mean[used] > 0).all()):
        raise InvalidInput(
            "these latents have no spectrum to fit: use pictures that are not of one colour, and "
            "of 128 pixels or more"
        )
    weight = counts.cpu()[used].double().sqrt()
    at = (edges[:-1] * edges[1:]).sqrt()[used].log()
    sides = torch.stack([torch.ones_like(at), at], 1) * weight[:, None]
    found = torch.linalg.lstsq(sides, (mean[used].log() * weight)[:, None]).solution[:, 0]
    return PowerLaw(float(found[0].exp()), max(0.0, -float(found[1])))


def amplitude_ratio(full: Tensor, smaller: Tensor) -> float:
    """rms of the low block of ``full`` over that of ``smaller``, latents of the same pictures.

    It is r, the ratio of the sizes, if the VAE treats pictures of both sizes alike. Raises
    InvalidInput for latents that are not of the same pictures by their shape.
    """
    if full.shape[:-2] != smaller.shape[:-2] or any(
        a < b for a, b in zip(full.shape[-2:], smaller.shape[-2:], strict=True)
    ):
        raise InvalidInput(
            f"latents of shape {tuple(smaller.shape)} are not the same pictures as "
            f"{tuple(full.shape)} at a smaller size: encode the same batch, made smaller"
        )
    size = (smaller.shape[-2], smaller.shape[-1])
    kept, own = cosine(low(full, size)), cosine(smaller)
    for block in (kept, own):
        block[..., 0, 0] = 0  # the mean says nothing of detail
    if float(own.square().mean()) == 0:
        raise InvalidInput("the smaller latents are of one colour: encode pictures")
    return float((kept.square().mean() / own.square().mean()).sqrt())
