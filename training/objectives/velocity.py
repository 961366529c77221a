"""Flow matching and StableVM as a run's objective, and a report of what StableVM changes."""

from typing import Any

import torch
from torch import Generator, Tensor

from sv_core.objective import Losses, Objective, References
from sv_core.posterior import effective_size, posterior_weights
from sv_core.targets import Path, conditional_velocity

from ..data.batches import Batch
from ..networks.base import Backbone
from .base import BINS, Aim, bin_of

CHANGED = 0.01
"""A target counts as changed when it moved by more than this share of its own length."""


class Velocity:
    """Flow matching and StableVM: the network predicts the velocity itself."""

    def __init__(self, objective: Objective, n: int):
        """``n`` is the size of a step's whole batch."""
        self.objective, self.n = objective, n

    def times(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        t = self.objective.timesteps(n, generator)
        return t, t

    def aim(
        self, batch: Batch, generator: Generator, rows: slice, report: bool
    ) -> tuple[Aim, dict[str, Any]]:
        path = self.objective.path(batch.x0, generator, rows, self.n)
        v = self.objective.target(path, batch.refs)
        figures = {}
        if report and batch.refs:
            figures["stable"] = describe(self.objective, path, batch.refs, v)
        cond = batch.cond.to(path.t.device)
        return Aim(path, cond, path.t, v, v, torch.ones_like(path.t), batch.mask), figures

    def losses(self, backbone: Backbone, aim: Aim) -> Losses:
        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            return backbone.velocity(x_t, t, aim.cond).float()

        return self.objective.losses(velocity, aim.path, aim.target, aim.mask)


def describe(
    objective: Objective, path: Path, refs: References, target: Tensor
) -> dict[str, list[float | None]]:
    """How StableVM changed a batch's targets, per eighth of t; None where there is no sample.

    ``effective_size``: how many references share a target's weight, on average. 1 below the
    threshold and wherever the target is one reference's. A picture that lies in the bank twice
    counts as two, so it can exceed 1 where nothing changes. ``changed``: the share of samples whose
    target lies further from the conditional one than CHANGED of its length. ``count``: samples.
    """
    sizes = torch.ones_like(path.t)
    for rows, r in refs:
        rows = rows.to(path.t.device)
        rows = rows[path.t[rows] >= objective.threshold]
        if len(rows):
            w = posterior_weights(objective.interpolant, path.x_t[rows], r, path.t[rows])
            sizes[rows] = effective_size(w).to(sizes)
    plain = conditional_velocity(objective.interpolant, path).flatten(1)
    moved = (target.flatten(1) - plain).norm(dim=1) > CHANGED * plain.norm(dim=1)
    where = bin_of(path.t).cpu()
    count = torch.bincount(where, minlength=BINS)

    def mean(values: Tensor) -> list[float | None]:
        sums = torch.zeros(BINS, dtype=torch.float64).index_add_(0, where, values.double().cpu())
        return [float(s / n) if n else None for s, n in zip(sums, count, strict=True)]

    return {"count": count.tolist(), "effective_size": mean(sizes), "changed": mean(moved)}
