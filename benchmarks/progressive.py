"""Coarse First beside fewer steps and the published method, on flows exact at every size.

    python dev.py bench progressive

The published method (Spectral Progressive Diffusion, arXiv 2605.18736) is written anew from the
paper: a run of its own at the small size over the same sigmas, down to the first below a threshold,
then the state is lifted to the noise level that it has at full size and goes on there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from sv_core.progressive import (
    Plan,
    Stage,
    coarse_denoised,
    coarse_size,
    full_size_calls,
    gain,
    last_level,
    missing_power,
)
from sv_core.sampling import sample_forecast
from sv_core.schedules import shift, uniform_grid
from sv_core.spectrum import Size, cosine, fractions, inverse_cosine, lift, low

from .progressive_flows import SIDE, Bed, beds

FULL: Size = (SIDE, SIDE)
EDGES = (0.0, 0.06, 0.25, 0.5, 0.75, 1.0)
"""Of the bands of Nyquist fractions."""


@dataclass
class Run:
    """One bed's noise and grid, and the sizes of the calls made."""

    bed: Bed
    x: Tensor
    grid: Tensor
    sizes: list[Size] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._network = self.bed.network()

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """Counted."""
        self.sizes.append((x.shape[-2], x.shape[-1]))
        return self._network(x, t)


Method = Callable[[Run], Tensor]


def euler(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, grid: Tensor) -> Tensor:
    for t, s in pairwise(grid):
        x = x + (s - t) * (x - denoise(x, t)) / t
    return x


def plain(steps: int | None = None, factor: float = 3.0) -> Method:
    """Full size, in as many steps as the run has or in fewer."""

    def method(run: Run) -> Tensor:
        grid = run.grid if steps is None else shift(uniform_grid(steps), factor)
        return euler(run.network, run.x, grid)

    return method


def coarse(
    until: float, share: float, *, begin: float = 1.0, quarter: float = 0.0, calls: int = 0
) -> Method:
    """Ours; ``quarter`` is the level down to which the size is a quarter, ``calls`` forecasts."""

    def method(run: Run) -> Tensor:
        stages = [Stage(4.0, quarter)] if quarter else []
        plan = Plan((*stages, Stage(2.0, until)), begin, last_level(run.grid.tolist(), 2))

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            size = coarse_size(FULL, plan.ratio_at(float(t)))
            if size == FULL:
                return run.network(x, t)
            power = missing_power(run.bed.law, FULL, size, share) if share else None
            return coarse_denoised(run.network, x, t, size, power)

        if not calls:
            return euler(denoise, run.x, run.grid)
        return sample_forecast(lambda x, t: (x - denoise(x, t)) / t, run.x, run.grid, calls=calls)

    return method


def published(threshold: float, fresh: bool) -> Method:
    """A second run at full size from where the small one ends, its missing details from noise."""

    def method(run: Run) -> Tensor:
        half = (SIDE // 2, SIDE // 2)
        first = next(i for i, t in enumerate(run.grid.tolist()) if t < threshold)
        seed = torch.Generator().manual_seed(99)
        drawn = torch.randn(run.x.shape, generator=seed, dtype=torch.float64)
        noise = drawn if fresh else run.x
        start = low(drawn if fresh else run.x, half)
        small = euler(run.network, start, run.grid[: first + 1])
        t = shift(run.grid[first], 2.0)
        details = noise - lift(low(noise, half), FULL)
        x = lift(gain(t, 2.0) * small, FULL) + t * details
        return euler(run.network, x, torch.cat([t[None], run.grid[first + 1 :]]))

    return method


THIRTY: dict[str, Method] = {
    "30 steps": plain(),
    "20 steps": plain(20),
    "15 steps": plain(15),
    "ours .75, noise": coarse(0.75, 0),
    "ours .75, half the prior": coarse(0.75, 0.5),
    "ours .6, noise": coarse(0.6, 0),
    "ours .6, half the prior": coarse(0.6, 0.5),
    "ours .6, whole prior": coarse(0.6, 1),
    "ours .5, half the prior": coarse(0.5, 0.5),
    "ours quarter to .9, half to .6": coarse(0.6, 0.5, quarter=0.9),
    "ours layout to .93, then .6": coarse(0.6, 0.5, begin=0.93),
    "ours layout to .9, then .6": coarse(0.6, 0.5, begin=0.9),
    "published .853, same noise": published(0.853, fresh=False),
    "published .718, same noise": published(0.718, fresh=False),
    "published .718, fresh noise": published(0.718, fresh=True),
    "published .5, same noise": published(0.5, fresh=False),
    "14 calls": coarse(1.0, 0, begin=0.0, calls=14),
    "14 calls, ours .6": coarse(0.6, 0.5, calls=14),
    "14 calls, layout to .9, then .6": coarse(0.6, 0.5, begin=0.9, calls=14),
    "12 calls, layout to .9, then .6": coarse(0.6, 0.5, begin=0.9, calls=12),
}
EIGHT: dict[str, Method] = {
    "8 steps": plain(),
    "5 steps": plain(5),
    "ours .75, half the prior": coarse(0.75, 0.5),
    "ours .6, half the prior": coarse(0.6, 0.5),
    "published .718, same noise": published(0.718, fresh=False),
}
FOUR: dict[str, Method] = {
    "4 steps": plain(),
    "3 steps": plain(3, 1.0),
    "ours .7, half the prior": coarse(0.7, 0.5),
    "published .718, same noise": published(0.718, fresh=False),
}
COUNTS = ((30, 3.0, THIRTY), (8, 3.0, EIGHT), (4, 1.0, FOUR))
"""Steps, their shift, and what is run."""


def decibels(x: Tensor, truth: Tensor) -> float:
    """Of the error's mean square over the variance of the truth."""
    error = (x - truth).square().mean() / truth.square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-20)))


def by_bands(ratio: Tensor) -> list[float]:
    """The error of the standard deviation in each band, in %, from variances over the truth."""
    q = fractions(FULL)
    pairs = pairwise(EDGES)
    return [100 * (float(ratio[(q >= a) & (q < b)].mean().sqrt()) - 1) for a, b in pairs]


def of_a_gaussian(bed: Bed, made: Tensor) -> tuple[str, list[float]]:
    """W2 to the data over its standard deviation: the run multiplied every coefficient by one."""
    found, std = cosine(made)[0, 0].abs(), bed.variance.sqrt()
    distance = float(((found - std).square().sum() / bed.variance.sum()).sqrt())
    return f"{100 * distance:.1f} %", by_bands(found.square() / bed.variance)


def of_a_mixture(bed: Bed, made: Tensor, truth: Tensor) -> tuple[str, list[float]]:
    """Samples that end in another mode than at full size."""
    flips = float((bed.modes(made) != bed.modes(truth)).double().mean())
    return f"{100 * flips:.0f} %", by_bands(bed.residual(made))


def noise_for(bed: Bed, seed: int) -> Tensor:
    """White noise, or for a Gaussian ones in every coefficient, whose multipliers are then read."""
    if len(bed.labels) == 1:
        return inverse_cosine(torch.ones(1, 1, *FULL, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    shape = (bed.batch, bed.means.shape[1], *FULL)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rows(bed: Bed, steps: int, factor: float, methods: dict[str, Method]) -> list[str]:
    """One bed at one number of steps, as lines of a table."""
    x, grid = noise_for(bed, 1), shift(uniform_grid(steps), factor)
    gauss, truth, lines = len(bed.labels) == 1, None, []
    for name, method in methods.items():
        if gauss and "fresh" in name:
            continue  # multipliers know one noise only
        run = Run(bed, x, grid)
        made = method(run)
        truth = made if truth is None else truth
        even, squared = (full_size_calls(run.sizes, FULL, a) for a in (False, True))
        apart, bands = of_a_gaussian(bed, made) if gauss else of_a_mixture(bed, made, truth)
        near = "-" if made is truth else f"{decibels(made, truth):.1f}"
        errors = " ".join(f"{b:+.1f}" for b in bands)
        lines.append(f"| {name} | {even:.2f} / {squared:.2f} | {near} | {apart} | {errors} |")
    return lines


def main() -> None:
    """Print every table."""
    torch.set_num_threads(1)
    for steps, factor, methods in COUNTS:
        for bed in beds():
            apart = "W2 to the data" if len(bed.labels) == 1 else "flips"
            print(f"\n### {bed.name}, {steps} steps, shift {factor:g}\n")
            print(f"| | calls (1/r^2 / 1/r^4) | dB to {steps} steps | {apart} | std by band, % |")
            print("|---|---|---|---|---|", flush=True)
            print("\n".join(rows(bed, steps, factor, methods)), flush=True)


if __name__ == "__main__":
    main()
