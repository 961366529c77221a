"""The noise of training targets and what it costs, measured against exact velocities.

In two dimensions the posterior over a bank is spread at most t. With the dimension that share
shrinks, towards t = 1 only: what is measured here is the mechanism, not a promise for images.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.func import grad, vmap

from sv_core.bank import MemoryBank
from sv_core.interpolant import LINEAR
from sv_core.objective import Objective
from sv_core.targets import Path, conditional_velocity, stable_velocity

from .models import Mixture, Parameters, initial, mean_and_error, network

BANKS = (8, 64, 256, 1024)
BATCH = 64
TIMES = torch.linspace(0.05, 1, 20)


def targets(
    mixture: Mixture, t: Tensor, bank: int | None, samples: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """x_t and its target from one fresh bank; without a bank, flow matching's target.

    t (n,) -> ((n, samples, d), (n, samples, d)).
    """
    at, refs = t.repeat_interleave(samples), None
    if bank is None:
        x0 = mixture.sample(len(at), generator)
    else:
        refs = mixture.sample(bank, generator)
        x0 = refs[torch.randint(bank, at.shape, generator=generator)]
    eps = torch.randn(x0.shape, generator=generator)
    path = Path(x0, eps, LINEAR.x_t(x0, eps, at), at)
    if refs is None:
        target = conditional_velocity(LINEAR, path)
    else:
        target = stable_velocity(LINEAR, path.x_t, refs, at)
    return path.x_t.view(len(t), samples, -1), target.view(len(t), samples, -1)


def target_variance(
    mixture: Mixture,
    t: Tensor,
    bank: int | None,
    generator: Generator,
    banks: int = 128,
    samples: int = 32,
) -> tuple[Tensor, Tensor]:
    """E |target - v(x_t, t)|^2 per coordinate and its standard error over banks, at each t (n,)."""
    at = t.repeat_interleave(samples)
    means = []
    for _ in range(banks):
        x_t, target = targets(mixture, t, bank, samples, generator)
        error = target.flatten(0, 1) - mixture.velocity(x_t.flatten(0, 1), at)
        means.append(error.square().view(len(t), -1).mean(1))
    return mean_and_error(torch.stack(means, 1))


def gradient_variance(
    mixture: Mixture,
    parameters: Parameters,
    t: Tensor,
    bank: int | None,
    generator: Generator,
    batches: int = 96,
    samples: int = BATCH,
) -> tuple[Tensor, Tensor]:
    """Tr Cov of the loss gradient over fresh batches and banks, and its error, at each t (n,).

    One network; the square error is a mean over the batch and coordinates, as in training.
    """
    drawn = [targets(mixture, t, bank, samples, generator) for _ in range(batches)]
    x_t, target = (torch.stack(part, 1) for part in zip(*drawn, strict=True))  # (n, batches, b, 2)

    def loss(parameters: Parameters, x: Tensor, at: Tensor, target: Tensor) -> Tensor:
        return (network(parameters, x, at) - target).square().mean()

    each = vmap(grad(loss), in_dims=(None, 0, None, 0))
    spread = []
    for i, at in enumerate(t):
        g = each(parameters, x_t[i], at.expand(samples), target[i])
        g = torch.cat([p.flatten(1) for p in g], 1)  # (batches, parameters)
        spread.append((g - g.mean(0)).square().sum(1) * batches / (batches - 1))
    return mean_and_error(torch.stack(spread))


@dataclass(frozen=True)
class Method:
    """A kind of target: what it is called, its bank, and the t from which the bank is used."""

    name: str
    bank: int | None = None
    threshold: float = 0.5
    exact: bool = False
    """The marginal velocity itself, which no target can better."""


METHODS = (
    Method("CFM"),
    Method("StableVM 64", 64),
    Method("StableVM 256", 256),
    Method("StableVM 256, t > 0.1", 256, threshold=0.1),
    Method("exact velocity", exact=True),
)


@dataclass(frozen=True)
class Run:
    """Training with one method on one mixture: the networks, and their errors on the way."""

    steps: list[int]
    error: Tensor
    """E |v_theta - v|^2 per coordinate after each of ``steps``, at each of ``TIMES``, per seed."""
    parameters: Parameters

    @property
    def velocity(self) -> Tensor:
        """Mean error over all t: (evaluations, seeds)."""
        return self.error.mean(1)

    @property
    def late(self) -> Tensor:
        """Mean error over t >= 0.8: (evaluations, seeds)."""
        return self.error[:, TIMES >= 0.8].mean(1)

    @property
    def fisher(self) -> Tensor:
        """Mean Fisher divergence over t >= 0.1: (evaluations, seeds)."""
        return fisher_divergence(self.error, TIMES[:, None])[:, TIMES >= 0.1].mean(1)


def fisher_divergence(error: Tensor, t: Tensor, dimension: int = 2) -> Tensor:
    """E |score_theta - score|^2 from the velocity's error per coordinate at t.

    On the linear path score = -(x_t + (1 - t) v) / t.
    """
    return dimension * (LINEAR.alpha(t) / LINEAR.sigma(t)) ** 2 * error


def errors(mixture: Mixture, parameters: Parameters, x_t: Tensor, t: Tensor) -> Tensor:
    """E |v_theta - v|^2 per coordinate at each t: x_t (n, b, 2), t (n,) -> (n, seeds)."""
    at = t.repeat_interleave(x_t.shape[1])
    points = x_t.flatten(0, 1)
    with torch.no_grad():
        k = len(parameters[0])
        v = network(parameters, points.expand(k, -1, -1), at.expand(k, -1))  # (k, n b, 2)
    error = (v - mixture.velocity(points, at)).square().mean(-1)
    return error.view(len(error), len(t), -1).mean(-1).T


def train(
    mixture: Mixture,
    method: Method,
    seeds: int = 8,
    steps: int = 1500,
    batch: int = BATCH,
    lr: float = 2e-3,
    evaluations: int = 8,
) -> Run:
    """Equal training for every method: the same starts, data, times, noise and steps.

    The bank is the trainer's: a ring that each batch enters before it is used.
    """
    generator = Generator().manual_seed(1)
    parameters = initial(seeds, generator)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    objective = Objective(threshold=method.threshold)
    labels = torch.arange(seeds).repeat_interleave(batch)
    rows = list(torch.arange(seeds * batch).view(seeds, batch))
    bank = MemoryBank(seeds, method.bank, (2,)) if method.bank else None
    held_out, _ = targets(mixture, TIMES, None, 512, Generator().manual_seed(2))
    marks = torch.logspace(math.log10(steps) / 2, math.log10(steps), evaluations)
    marks = sorted(set(marks.round().int().tolist()))
    measured = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return network(parameters, x.view(seeds, batch, 2), t.view(seeds, batch)).flatten(0, 1)

    for step in range(1, steps + 1):
        path = objective.path(mixture.sample(seeds * batch, generator), generator)
        refs = []
        if bank is not None:
            bank.add(path.x0, labels)
            refs = [(rows[k], bank.refs(k)) for k in range(seeds)]
        if method.exact:
            target = mixture.velocity(path.x_t, path.t)
        else:
            target = objective.target(path, refs)
        # A sum over the networks: each sees the mean over its own batch.
        loss = objective.losses(velocity, path, target).loss.sum() / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in marks:
            measured.append(errors(mixture, parameters, held_out, TIMES))
    return Run(marks, torch.stack(measured), [p.detach() for p in parameters])


@dataclass(frozen=True)
class Result:
    """Everything measured on one mixture; variances by bank size (None: CFM), runs by method."""

    mixture: Mixture
    target: dict[int | None, tuple[Tensor, Tensor]]
    gradient: dict[int | None, tuple[Tensor, Tensor]]
    runs: dict[Method, Run]


GRADIENT_TIMES = TIMES[1::2]


def measure(mixture: Mixture, seeds: int = 8, steps: int = 1500, banks: int = 128) -> Result:
    """Train with every method; then measure variances, the gradient's at CFM's first network."""
    generator = Generator().manual_seed(0)
    runs = {method: train(mixture, method, seeds, steps) for method in METHODS}
    first = [p[0] for p in runs[METHODS[0]].parameters]
    sizes = (None, *BANKS)
    return Result(
        mixture,
        {n: target_variance(mixture, TIMES, n, generator, banks) for n in sizes},
        {n: gradient_variance(mixture, first, GRADIENT_TIMES, n, generator, banks) for n in sizes},
        runs,
    )
