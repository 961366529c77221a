"""Which control variate MeanFlow wants: ``python -m training.toy.meanflow [PICTURE.png]``.

Trains a small network on each of six 2-D sets with every kind of tangent, from the same starts,
data, times and noise, and measures what one call makes of noise: the sliced Wasserstein distance to
fresh data. Prints a table and writes one picture, in about seven minutes on one CPU core;
``--quick`` only shows that it runs. Short training: the methods are compared, none is converged.

The loss is the plain square: the adaptive weight of MeanFlow follows each sample's own error, which
in two dimensions is mostly its noise, and would pull the target from its mean towards its mode.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path as File

import torch
from torch import Generator, Tensor

from sv_core.bank import MemoryBank
from sv_core.interpolant import LINEAR
from sv_core.meanflow import CAP, control_coefficient, mean_velocity_target, sample_meanflow
from sv_core.objective import Objective
from sv_core.targets import Path
from sv_core.timesteps import time_pairs, uniform

from .command import run_command
from .models import Parameters, initial, mean_and_error, network
from .sets import SETS, Draw, sliced_wasserstein

POINTS = 4096


@dataclass(frozen=True)
class Method:
    """How the noisy velocity enters: the share of v_hat in the tangent, and the kind of v."""

    name: str
    beta: float | None = 0.0
    """None: the signed estimate of every batch, at most ``CAP``."""
    bank: int | None = None
    """References of the stable velocity in target and tangent; without, the conditional one."""


METHODS = (
    Method("beta 0"),
    Method("beta 0.25", 0.25),
    Method("beta 0.5", 0.5),
    Method("beta 1", 1.0),
    Method("auto", None),
    Method("stable", bank=256),
)


@dataclass(frozen=True)
class Run:
    """What training with one method gives."""

    samples: Tensor
    """(seeds, n, 2), each from one call."""
    distance: Tensor
    """(seeds,): sliced Wasserstein distance to as many fresh points."""
    beta: Tensor
    """(seeds,): the mean beta of all steps."""


def stack(parameters: Parameters, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """u(x, r, t) of k networks, for rows (k b, 2) in the order of the networks."""
    k = len(parameters[0])
    x, r, t = x.view(k, -1, 2), r.view(k, -1), t.view(k, -1)
    return network(parameters, x, t, t - r).flatten(0, 1)


def coefficient(
    parameters: Parameters, x: Tensor, r: Tensor, t: Tensor, v: Tensor, v_hat: Tensor
) -> Tensor:
    """The capped signed estimate of one network of the stack, from its own rows."""

    def u(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return network(parameters, x, t, t - r)

    return control_coefficient(u, x, r, t, v, v_hat).clamp_max(CAP)


class _Stack:
    """The networks of all methods and seeds in one stack, their averages and their optimiser."""

    def __init__(self, seeds: int, steps: int, lr: float, generator: Generator):
        self.parameters = [
            p.detach().repeat(len(METHODS), 1, 1).requires_grad_()
            for p in initial(seeds, generator, times=2)
        ]
        self.average = [p.detach().clone() for p in self.parameters]
        self._optimizer = torch.optim.Adam(self.parameters, lr=lr)
        self._decay = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def u(self, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The average velocities of all networks, rows in their order."""
        return stack(self.parameters, x, r, t)

    def update(self, loss: Tensor, step: int) -> None:
        """One step down the loss, and of the average, which is quick at first."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._decay.step()
        keep = min(0.998, (1 + step) / (10 + step))  # the start is worth nothing
        for a, p in zip(self.average, self.parameters, strict=True):
            a.lerp_(p.detach(), 1 - keep)


def train(
    draw: Draw, seeds: int = 3, steps: int = 2000, batch: int = 192, lr: float = 5e-3
) -> dict[str, Run]:
    """Equal training for every method, all networks in one stack: methods, then seeds.

    Half of the times have r = t. Samples come from an average of the weights, as v_hat does.
    """
    generator = Generator().manual_seed(1)
    nets, rows = len(METHODS) * seeds, seeds * batch
    networks = _Stack(seeds, steps, lr, generator)
    objective = Objective()
    banks = {i: MemoryBank(seeds, m.bank, (2,)) for i, m in enumerate(METHODS) if m.bank}
    labels = torch.arange(seeds).repeat_interleave(batch)
    own = torch.arange(nets * batch).view(len(METHODS), seeds, batch)
    beta = torch.tensor([m.beta or 0.0 for m in METHODS]).repeat_interleave(seeds)
    total = torch.zeros(nets)
    for step in range(steps):
        # The seeds share their times, so that each network has as many rows with r < t.
        r, t = (a.repeat(nets) for a in time_pairs(batch, generator, draw=uniform, equal=0.5))
        # The methods share their data and noise, so that their differences are paired.
        x0 = draw(rows, generator)
        eps = torch.randn(rows, 2, generator=generator)
        refs = []
        for i, bank in banks.items():
            bank.add(x0, labels)
            refs += [(own[i, k], bank.refs(k)) for k in range(seeds)]
        x0, eps = x0.repeat(len(METHODS), 1), eps.repeat(len(METHODS), 1)
        path = Path(x0, eps, LINEAR.x_t(x0, eps, t), t)
        target = objective.target(path, refs)
        inside = torch.nonzero(r < t).flatten()
        x, r_in, t_in, v = path.x_t[inside], r[inside], t[inside], target[inside]
        v_hat = stack(networks.average, x, t_in, t_in)
        _estimate(beta, networks.parameters, (x, r_in, t_in, v, v_hat), seeds)
        total += beta
        share = beta.repeat_interleave(len(inside) // nets)[:, None]
        target[inside] = mean_velocity_target(networks.u, x, r_in, t_in, v, v_hat=v_hat, beta=share)
        # A sum over the networks: each sees the mean over its own batch.
        loss = (networks.u(path.x_t, r, t) - target).square().sum() / (2 * batch)
        networks.update(loss, step)
    return _measured(one_call(networks.average, nets, seeds), total / steps, draw, seeds)


def _estimate(beta: Tensor, parameters: Parameters, rows: tuple[Tensor, ...], seeds: int) -> None:
    """Write the estimated coefficient of every network whose method leaves it open, in place."""
    count = len(rows[0]) // len(beta)
    for i in range(len(beta)):
        if METHODS[i // seeds].beta is None:
            mine = (a[i * count : (i + 1) * count] for a in rows)
            beta[i] = coefficient([p[i] for p in parameters], *mine)


def _measured(samples: Tensor, beta: Tensor, draw: Draw, seeds: int) -> dict[str, Run]:
    """Each method's samples, their distance to fresh data, and its mean coefficient."""
    means = beta.view(-1, seeds)
    fresh = draw(seeds * POINTS, Generator().manual_seed(3)).view(seeds, POINTS, 2)
    return {
        m.name: Run(
            samples[i],
            torch.stack([sliced_wasserstein(a, b) for a, b in zip(samples[i], fresh, strict=True)]),
            means[i],
        )
        for i, m in enumerate(METHODS)
    }


def one_call(parameters: Parameters, nets: int, seeds: int) -> Tensor:
    """(methods, seeds, POINTS, 2) from the same noise for every method."""
    noise = torch.randn(seeds * POINTS, 2, generator=Generator().manual_seed(2))

    def u(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return stack(parameters, x, r.expand(len(x)), t.expand(len(x)))

    out = sample_meanflow(u, noise.repeat(nets // seeds, 1), torch.tensor([1.0, 0.0]))
    return out.view(-1, seeds, POINTS, 2)


def floor(draw: Draw, seeds: int) -> Tensor:
    """(seeds,): the distance between two draws of the data, which no model can better."""
    x, y = draw(2 * seeds * POINTS, Generator().manual_seed(4)).view(2, seeds, POINTS, 2)
    return torch.stack([sliced_wasserstein(a, b) for a, b in zip(x, y, strict=True)])


def table(results: dict[str, dict[str, Run]]) -> str:
    """Sliced Wasserstein distances of one-call samples, and what ``auto`` chose."""
    lines = [
        f"{'':>14}" + "".join(f"{m.name:>19}" for m in METHODS) + f"{'data':>10}{'auto took':>12}"
    ]
    for name, runs in results.items():
        cells = ["{:.4f} +- {:.4f}".format(*mean_and_error(run.distance)) for run in runs.values()]
        seeds = len(runs["auto"].beta)
        end = f"{floor(SETS[name], seeds).mean():>10.4f}{runs['auto'].beta.mean():>12.3f}"
        lines.append(f"{name:>14}" + "".join(f"{c:>19}" for c in cells) + end)
    lines += ["", "difference to beta 0, by pairs of seeds"]
    for name, runs in results.items():
        deltas = [run.distance - runs["beta 0"].distance for run in runs.values()]
        cells = ["{:+.4f} +- {:.4f}".format(*mean_and_error(d)) for d in deltas]
        lines.append(f"{name:>14}" + "".join(f"{c:>19}" for c in cells))
    return "\n".join(lines)


def picture(results: dict[str, dict[str, Run]], file: File) -> None:
    """One row per set: the data, then the first seed's one-call samples of every method."""
    import matplotlib

    matplotlib.use("Agg")  # a file, with or without a display
    import matplotlib.pyplot as plt

    size = (2 * (1 + len(METHODS)), 2.15 * len(results))
    figure, rows = plt.subplots(len(results), 1 + len(METHODS), figsize=size, squeeze=False)
    for (name, runs), row in zip(results.items(), rows, strict=True):
        data = SETS[name](POINTS, Generator().manual_seed(3))
        clouds = {name: data} | {method: run.samples[0] for method, run in runs.items()}
        for (title, points), axes in zip(clouds.items(), row, strict=True):
            colour = "#444444" if title == name else "#1f5f99"
            axes.scatter(*points.T, s=1.2, color=colour, alpha=0.5, linewidths=0)
            axes.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[])
            if title in runs:
                title = f"{title}: {runs[title].distance.mean():.3f}"
            axes.set_title(title, fontsize=9)
            for spine in axes.spines.values():
                spine.set_color("#cccccc")
    figure.suptitle("One call of MeanFlow, and its mean sliced Wasserstein distance", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(file, dpi=130)
    plt.close(figure)


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables, write the picture."""
    torch.set_num_threads(1)  # too small to share
    results = {}
    for name, draw in SETS.items():
        results[name] = train(draw, steps=5) if options.quick else train(draw)
        print(f"{name}: done", file=sys.stderr)
    print("one call, sliced Wasserstein distance, +- standard error over seeds")
    print(table(results))
    picture(results, options.picture)
    print(f"The picture is {options.picture}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    return run_command(
        run,
        "training.toy.meanflow",
        "Compare MeanFlow's control variates on six 2-D sets: a table and a PNG.",
        "toy_meanflow.png",
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
