"""What a run's network should say where, and the memory bank that StableVM's references are in."""

import functools
import inspect
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput
from sv_core.objective import Losses, Objective, References
from sv_core.posterior import effective_size, posterior_weights
from sv_core.targets import Path, conditional_velocity
from sv_core.timesteps import TIMESTEPS, within

from .backbones.base import Backbone
from .config import Config, ObjectiveConfig
from .data import Batch, Dataset
from .validate import BINS, bin_of

CHANGED = 0.01
"""A target counts as changed when it moved by more than this share of its own length."""


def build_objective(config: ObjectiveConfig, backbone: Backbone) -> Objective:
    """Where the configuration says nothing, the times are those of the backbone's own schedule.

    Raises InvalidInput for a parameter that the named timesteps do not have.
    """
    name, params = config.timesteps, config.timestep_params
    if name == "auto" and config.kind == "meanflow":
        name, params = "logit_normal", params or {"mean": -0.4}  # its paper's
    elif name == "auto":
        name = "uniform" if backbone.shift == 1 else "shifted"
        params = params or ({} if backbone.shift == 1 else {"shift": backbone.shift})
    draw = TIMESTEPS[name]
    known = list(inspect.signature(draw).parameters)[2:]  # after n and the generator
    for key in params:
        if key not in known:
            raise InvalidInput(
                f"unknown config key 'objective.timestep_params.{key}' for timesteps "
                f"{name!r} (have: {', '.join(known) or 'none'})"
            )
    draw = functools.partial(draw, **params)
    low, high = config.span or backbone.span
    if (low, high) != (0.0, 1.0):
        draw = functools.partial(within, draw=draw, low=low, high=high)
    return Objective(timesteps=draw, threshold=config.threshold)


class Aim(NamedTuple):
    """Where a batch's samples are on their paths, and what the network should say there.

    It is asked for the average velocity over [r, t] (b,), which is the velocity where r = t.
    ``v`` is the velocity that ``target`` (b, ...) was made of, ``weight`` (b,) is the loss's,
    ``mask`` (b, 1, ...) says which cells count.
    """

    path: Path
    cond: Tensor
    r: Tensor
    v: Tensor
    target: Tensor
    weight: Tensor
    mask: Tensor | None = None

    def at(self, rows: slice | Tensor) -> "Aim":
        """Some of the samples."""
        path, *rest = self[:-1]
        mask = None if self.mask is None else self.mask[rows]
        return Aim(Path(*(x[rows] for x in path)), *(x[rows] for x in rest), mask=mask)


class Criterion(Protocol):
    """What a kind of objective computes in a step; everything else is the same for all."""

    def times(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """r <= t, each (n,), of a whole batch: what ``aim`` draws first."""
        ...

    def aim(
        self, batch: Batch, refs: References, generator: Generator, rows: slice, report: bool
    ) -> tuple[Aim, dict[str, Any]]:
        """For a batch that is those ``rows`` of the step's; with a report when it is asked for."""
        ...

    def losses(self, backbone: Backbone, aim: Aim) -> Losses:
        """With a graph, from one part of the batch."""
        ...


class Velocity:
    """Flow matching and StableVM: the velocity itself."""

    def __init__(self, config: Config, objective: Objective):
        self.n, self.objective = config.data.batch_size, objective

    def times(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        t = self.objective.timesteps(n, generator)
        return t, t

    def aim(
        self, batch: Batch, refs: References, generator: Generator, rows: slice, report: bool
    ) -> tuple[Aim, dict[str, Any]]:
        path = self.objective.path(batch.x0, generator, rows, self.n)
        v = self.objective.target(path, refs)
        said = {"stable": describe(self.objective, path, refs, v)} if report and refs else {}
        cond = batch.cond.to(path.t.device)
        return Aim(path, cond, path.t, v, v, torch.ones_like(path.t), batch.mask), said

    def losses(self, backbone: Backbone, aim: Aim) -> Losses:
        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            return backbone.velocity(x_t, t, aim.cond).float()

        return self.objective.losses(velocity, aim.path, aim.target, aim.mask)


def needs_references(config: Config) -> bool:
    """Whether velocities are averaged over a bank of references."""
    kind = config.objective.kind
    return kind == "stablevm" or (kind == "meanflow" and config.meanflow.velocity == "stable")


def build_bank(
    config: ObjectiveConfig, data: Dataset, device: torch.device | str, batch: int
) -> MemoryBank:
    """One ring per class and a last one, the pool of all, for dropped labels.

    With several processes each has its own, of its own share of every batch, ``batch`` samples a
    step. These are independent draws of the data like any others, so the target stays unbiased;
    what one process knows, the others do without. Raises InvalidInput for a bank that a step's
    samples could overflow.
    """
    if config.bank < batch:
        raise InvalidInput(
            f"objective.bank is {config.bank}, less than the {batch} samples of a step in one "
            f"process: every sample must stay among its own references, so make the bank at least "
            f"as large"
        )
    dtype = getattr(torch, config.bank_dtype)
    return MemoryBank(data.num_classes + 1, config.bank, data.shape, dtype, device)


def references(bank: MemoryBank | None, batch: Batch, null: int) -> References:
    """Take the batch in, then give each row the references of its condition.

    In this order, because a sample that is not among its own references would bias the target.
    """
    if bank is None:
        return ()
    bank.add(batch.x0, batch.labels)
    bank.add(batch.x0, torch.full_like(batch.labels, null))
    return [
        (torch.nonzero(batch.cond == key).flatten(), bank.refs(key))
        for key in batch.cond.unique().tolist()
    ]


def describe(
    objective: Objective, path: Path, refs: References, target: Tensor
) -> dict[str, list[float | None]]:
    """What StableVM did to a batch, per eighth of t; None where the batch has no sample.

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
