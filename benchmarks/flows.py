"""Flows whose exact velocity is known: Gaussian mixtures in 2 to 16,384 dimensions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from sv_core.guidance import guided
from sv_core.sampling import VelocityFn


@dataclass(frozen=True)
class Mixture:
    """Data sum_k w_k N(mean_k, diag(variance)): means (m, d), variance (d,), float64."""

    means: Tensor
    variance: Tensor
    weights: Tensor

    @property
    def std(self) -> float:
        """Root mean square distance of one coordinate from its mean."""
        mean = self.weights @ self.means
        between = self.weights @ (self.means - mean).square()
        return float((between + self.variance).mean().sqrt())

    def responsibilities(self, x: Tensor, t: Tensor) -> Tensor:
        """p(component | x_t): x (b, d) -> (b, m)."""
        a = 1 - t
        precision = 1 / (a**2 * self.variance + t**2)
        linear = a * (x * precision) @ self.means.T
        constant = 0.5 * a**2 * (self.means.square() @ precision)
        return (linear - constant + self.weights.log()).softmax(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[eps - x0 | x_t]: per component (t - a s^2) / (a^2 s^2 + t^2) (x - a mean) - mean."""
        a = 1 - t
        slope = (t - a * self.variance) / (a**2 * self.variance + t**2)
        mean = self.responsibilities(x, t) @ self.means
        return slope * (x - a * mean) - mean

    def only(self, chosen: Tensor) -> "Mixture":
        """The components of one class."""
        weights = self.weights[chosen]
        return Mixture(self.means[chosen], self.variance, weights / weights.sum())


@dataclass(frozen=True)
class Flow:
    """An exact velocity; ``modes`` names the mode of finished samples, (b, d) -> (b,)."""

    name: str
    size: int
    batch: int
    std: float
    velocity: VelocityFn
    modes: Callable[[Tensor], Tensor]
    guidance: tuple[VelocityFn, VelocityFn] | None = None
    """cond and uncond, of a guided one: two evaluations a call."""
    picture: Callable[[Tensor], Tensor] | None = None
    """Samples (b, d) as pictures (b, c, h, w), where they are any."""

    @property
    def guided(self) -> bool:
        return self.guidance is not None


def flow_of(
    name: str,
    mixture: Mixture,
    batch: int,
    labels: Tensor | None = None,
    chosen: int | None = None,
    scale: float = 1.0,
    guidance: tuple[Mixture, float] | None = None,
    picture: Callable[[Tensor], Tensor] | None = None,
) -> Flow:
    """``labels`` groups components into modes; with ``chosen``, guidance towards that label.

    ``guidance``: the unconditional data and the scale, for a mixture that is the prompt's own.
    """
    labels = torch.arange(len(mixture.means)) if labels is None else labels
    target = mixture
    if chosen is not None:
        target, guidance = mixture.only(labels == chosen), (mixture, scale)
        labels = torch.arange(len(target.means))
    velocity, pair = target.velocity, None
    if guidance is not None:
        pair = velocity, guidance[0].velocity
        velocity = guided(*pair, guidance[1])
    zero = torch.zeros((), dtype=torch.float64)

    def modes(x: Tensor) -> Tensor:
        return labels[target.responsibilities(x, zero).argmax(1)]

    return Flow(name, mixture.means.shape[1], batch, target.std, velocity, modes, pair, picture)


def even(means: Tensor, std: float) -> Mixture:
    m, d = means.shape
    means = means.double()
    return Mixture(means, torch.full((d,), std**2).double(), torch.full((m,), 1 / m).double())


def tree(branches: tuple[int, ...], scales: tuple[float, ...], d: int, g: Generator) -> Tensor:
    """Leaves of a random tree: every level adds a Gaussian offset of its own scale, (leaves, d)."""
    nodes = torch.zeros(1, d, dtype=torch.float64)
    for count, scale in zip(branches, scales, strict=True):
        offsets = torch.randn(len(nodes), count, d, generator=g, dtype=torch.float64)
        nodes = (nodes[:, None] + scale * offsets).flatten(0, 1)
    return nodes


def pixels(channels: int, side: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.view(-1, side, side, channels).movedim(3, 1)


def cosines(channels: int, side: int) -> Callable[[Tensor], Tensor]:
    """Pictures whose orthonormal cosine coefficients the samples are."""
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(torch.pi * k[:, None] * (k + 0.5) / side) * (2 / side) ** 0.5
    basis[0] /= 2**0.5

    def picture(x: Tensor) -> Tensor:
        return basis.T @ x.view(-1, channels, side, side).double() @ basis

    return picture


def ring(g: Generator) -> Flow:
    """Eight well separated modes in the plane."""
    angle = torch.arange(8) * (2 * np.pi / 8) + 0.2
    return flow_of("ring, 2-D", even(torch.stack([angle.cos(), angle.sin()], 1) * 1.5, 0.12), 512)


def spiral(g: Generator) -> Flow:
    """A curved, thin manifold: 200 overlapping components along a spiral; arms are the modes."""
    s = torch.linspace(0.15, 1, 200)
    points = torch.stack([(9 * s).cos() * s, (9 * s).sin() * s], 1) * 2
    return flow_of("spiral, 2-D", even(points, 0.08), 512, labels=torch.arange(200) // 25)


def overlapping(g: Generator) -> Flow:
    """Twelve broad modes in 16 dimensions that run into each other."""
    return flow_of("overlapping, 16-D", even(torch.randn(12, 16, generator=g) * 0.6, 0.5), 256)


TREE = ((4, 4, 4), (0.9, 0.35, 0.15), 64)


def hierarchy(g: Generator) -> Flow:
    """64 leaves of a tree in 64 dimensions: decisions at three levels of noise."""
    return flow_of("hierarchy, 64-D", even(tree(*TREE, g), 0.08), 256)


def hierarchy_guided(g: Generator) -> Flow:
    """The same kind of tree, guidance 3 towards one of its four main branches."""
    labels = torch.arange(64) // 16
    return flow_of("hierarchy guided, 64-D", even(tree(*TREE, g), 0.08), 256, labels, 1, 3.0)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.data / 8 - 1), torch.from_numpy(digits.target)


def digits(g: Generator) -> Flow:
    """Kernel-smoothed 8 x 8 digits, all classes; the class is the mode."""
    images, labels = _digits()
    return flow_of("digits, 64-D", even(images, 0.15), 96, labels, picture=pixels(1, 8))


def digits_guided(g: Generator) -> Flow:
    """Kernel-smoothed digits, guidance 4 towards the threes; the nearest three is the mode."""
    images, labels = _digits()
    mixture, picture = even(images, 0.2), pixels(1, 8)
    return flow_of("digits guided, 64-D", mixture, 96, labels, 3, 4.0, picture=picture)


def _patches(side: int, count: int, g: Generator) -> tuple[Tensor, Tensor]:
    """Random squares of scikit-learn's two photographs in [-1, 1], and which photograph."""
    from sklearn.datasets import load_sample_image

    found, labels = [], []
    for label, name in enumerate(("china.jpg", "flower.jpg")):
        photo = torch.from_numpy(load_sample_image(name) / 127.5 - 1)
        rows = torch.randint(photo.shape[0] - side, (count,), generator=g)
        columns = torch.randint(photo.shape[1] - side, (count,), generator=g)
        found += [
            photo[i : i + side, j : j + side].flatten()
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        labels += [label] * count
    return torch.stack(found), torch.tensor(labels)


def patches(g: Generator) -> Flow:
    """Kernel-smoothed 16 x 16 colour patches; the nearest patch is the mode."""
    images, _ = _patches(16, 200, g)
    return flow_of("patches, 768-D", even(images, 0.1), 48, picture=pixels(3, 16))


def patches_guided(g: Generator) -> Flow:
    """Kernel-smoothed 32 x 32 colour patches, guidance 2 towards one photograph."""
    images, labels = _patches(32, 100, g)
    mixture, picture = even(images, 0.1), pixels(3, 32)
    return flow_of("patches guided, 3072-D", mixture, 32, labels, 1, 2.0, picture=picture)


def power_law(side: int, channels: int, exponent: float) -> Tensor:
    """Variances of an image's cosine coefficients, falling with frequency; mean 1."""
    f = torch.arange(side, dtype=torch.float64)
    radius = (f[:, None] ** 2 + f[None, :] ** 2).sqrt() + 1
    return (radius**-exponent / (radius**-exponent).mean()).flatten().repeat(channels)


def fields(g: Generator) -> Flow:
    """A 16 x 32 x 32 latent in its cosine basis: 48 modes, image-like spectrum within each."""
    spectrum = power_law(32, 16, 2.0)
    means = torch.randn(48, len(spectrum), generator=g).double() * spectrum.sqrt() * 0.8
    mixture = Mixture(means, 0.36 * spectrum, torch.full((48,), 1 / 48).double())
    return flow_of("fields, 16384-D", mixture, 16, picture=cosines(16, 32))


def fields_guided(g: Generator) -> Flow:
    """A tree of 4 x 12 image-like modes in 4 x 32 x 32, guidance 3.5 towards one branch."""
    spectrum = power_law(32, 4, 2.0)
    means = tree((4, 12), (0.7, 0.4), len(spectrum), g) * spectrum.sqrt()
    mixture = Mixture(means, 0.36 * spectrum, torch.full((48,), 1 / 48).double())
    labels, picture = torch.arange(48) // 12, cosines(4, 32)
    return flow_of("fields guided, 4096-D", mixture, 32, labels, 2, 3.5, picture=picture)


FLOWS = (
    ring,
    spiral,
    overlapping,
    hierarchy,
    hierarchy_guided,
    digits,
    digits_guided,
    patches,
    patches_guided,
    fields_guided,
    fields,
)


def build(index: int, seed: int = 1) -> Flow:
    """One of ``FLOWS``; another seed draws other modes, patches and trees."""
    return FLOWS[index](torch.Generator().manual_seed(1000 * seed + index))
