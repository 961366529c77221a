"""MeanFlow as a run's objective: pairs of times, targets by the network's own derivative, reports.

The mathematics is sv_core.meanflow's. Targets are made without a graph, part by part as the loss
is, with dropout off and in the run's precision, but central differences always in float32. The
network's own velocity, v_hat = u(x_t, t, t), is that of the averaged weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from sv_core.errors import InvalidInput
from sv_core.meanflow import (
    CAP,
    DERIVATIVES,
    AverageVelocityFn,
    adaptive_weight,
    anchor_error,
    control_coefficient,
    guided_velocity,
    hutchinson_trace,
    mean_velocity_target,
    trace_weight,
)
from sv_core.objective import Losses, Objective, mean_square
from sv_core.timesteps import time_pairs

from ..config.schema import MeanFlowConfig
from ..data.batches import Batch
from ..networks.base import Backbone
from .base import Aim, Setup, Trained
from .velocity import describe


class MeanFlow:
    """|u(x_t, r, t) - sg[v - (t - r) D u along ((1 - beta) v + beta v_hat, 0, 1)]|^2, weighed.

    [arXiv 2605.09235, Eq. (4) and sec. 3.2]
    """

    def __init__(self, config: MeanFlowConfig, objective: Objective, state: Trained, setup: Setup):
        """Call it before ``state``'s network is wrapped for several processes or half precision."""
        self.config, self.n = config, setup.n
        self.parts, self.compiled = setup.parts, setup.compiled
        self.objective, self.state, self.processes = objective, state, state.processes
        # Spread weights come together by the hooks of a whole call, all others without wrappers:
        # those would turn autocast on, in differences as well.
        sharded = state.processes.sharded
        self.plain = state.backbone if sharded else state.backbone.on(state.model.forward)
        way = self.config.derivative
        if way == "available" and setup.thousandths:
            way = "exact"  # which was checked when the network was loaded; differences are wrong
        self.way = DERIVATIVES[way]

    def times(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        return time_pairs(n, generator, self.objective.timesteps, self.config.equal)

    def aim(
        self, batch: Batch, generator: Generator, rows: slice, report: bool
    ) -> tuple[Aim, dict[str, Any]]:
        if self.config.anchor and batch.mask is not None:
            raise InvalidInput("meanflow.anchor knows no masks: leave it out, or the masks")
        r, t = self.times(self.n, generator)
        objective = replace(self.objective, timesteps=lambda n, _: t)
        path = objective.path(batch.x0, generator, rows, self.n)
        r, cond = r[rows].to(path.t), batch.cond.to(path.t.device)
        v = objective.target(path, batch.refs)
        reported: dict[str, Any] = {}
        if report and batch.refs:
            reported["stable"] = describe(objective, path, batch.refs, v)
        whole = Aim(path, cond, r, v, v, torch.ones_like(r), batch.mask)
        size = len(r) // self.parts
        aims = [whole.at(slice(i, i + size)) for i in range(0, len(r), size)]
        with self._steady():
            aims, own = self._own(aims, report)
            with self.processes.autocast():
                suggested, beta = None, self.config.beta
                used = [v_hat for v_hat in own if v_hat is not None]
                if report or beta == "auto":
                    suggested = self._suggest(aims, used)
                if isinstance(beta, str):
                    assert suggested is not None  # "auto"
                    beta = min(CAP, suggested)
                aims = [self._aimed(a, o, beta, generator) for a, o in zip(aims, own, strict=True)]
                if report:  # last: its random draws must not change the training
                    figures = self._figures(aims, used, beta, generator)
                    reported["meanflow"] = {"beta": beta, "suggested": suggested} | figures
        made = zip(*((a.v, a.target, a.weight) for a in aims), strict=True)
        v, target, weight = (torch.cat(parts) for parts in made)
        return whole._replace(v=v, target=target, weight=weight), reported

    def losses(self, backbone: Backbone, aim: Aim) -> Losses:
        x_t, t = aim.path.x_t, aim.path.t
        u = _of(backbone, aim.cond)
        error = mean_square(u(x_t, aim.r, t) - aim.target, aim.mask)
        loss = aim.weight * adaptive_weight(error, self.config.power) * error
        if self.config.anchor:
            loss = loss + self.config.anchor * anchor_error(u, x_t, t, aim.v)
        return Losses(loss, error.detach(), t)

    def derivative(self, *point: Any) -> Tensor:
        """The ``Derivative`` of sv_core.meanflow that the configuration chooses."""
        with self.state.backbone.forward_mode():
            return self.way(*point)

    @contextmanager
    def _steady(self) -> Iterator[None]:
        """Context manager: no graph, no dropout, no compiled code (it has no forward mode)."""
        model = self.state.model
        training = model.training
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            model.eval()
            try:
                yield
            finally:
                model.train(training)

    def _own(self, aims: Sequence[Aim], report: bool) -> tuple[list[Aim], list[Tensor | None]]:
        """By the averaged weights: v with guidance, and v_hat where r < t if it is used."""
        scale, mix = self.config.guidance, self.config.mix
        use = report or self.config.beta != 0
        if not use and scale == 1:
            return list(aims), [None] * len(aims)
        guided, own = [], []
        # Autocast caches the rounded weights: it must end before the trained weights come back.
        with self.state.averaged() as backbone, self.processes.autocast():
            for aim in aims:
                if scale != 1:
                    null = torch.full_like(aim.cond, self.state.null)
                    v_null = _velocity(backbone, aim._replace(cond=null))
                    v_cond = _velocity(backbone, aim) if mix else v_null
                    v = guided_velocity(aim.v, v_cond, v_null, scale, mix)
                    named = (aim.cond != self.state.null).view(-1, *[1] * (v.ndim - 1))
                    aim = aim._replace(v=torch.where(named, v, aim.v))
                guided.append(aim)
                own.append(_velocity(backbone, aim.at(_inside(aim))) if use else None)
        return guided, own

    def _aimed(self, aim: Aim, v_hat: Tensor | None, beta: float, generator: Generator) -> Aim:
        """The aim with its targets, infinite for rows beyond ``limit``, and its weights."""
        rows = _inside(aim)
        inner = aim.at(rows)
        u, (_, _, x_t, t) = _of(self.plain, inner.cond), inner.path
        made = mean_velocity_target(
            u, x_t, inner.r, t, inner.v, v_hat=v_hat, beta=beta, derivative=self.derivative
        )
        ratio = made.flatten(1).norm(dim=1) / inner.v.flatten(1).norm(dim=1)
        # NaN is not below the limit either.
        fine = (ratio <= self.config.limit).view(-1, *[1] * (made.ndim - 1))
        target = aim.v.clone()
        target[rows] = torch.where(fine, made, math.inf)
        weight = aim.weight
        if self.config.trace_weight:
            trace = torch.ones_like(weight)  # where r = t, J = -1
            trace[rows] = hutchinson_trace(
                u, x_t, inner.r, t, generator, derivative=self.derivative
            )
            weight = trace_weight(trace, aim.path.t)
        return aim._replace(target=target, weight=weight)

    def _suggest(self, aims: Sequence[Aim], own: Sequence[Tensor]) -> float:
        """The signed estimate of the best beta: a mean over parts and processes, by their rows."""
        sums = torch.zeros(2, device=self.processes.device)
        for aim, v_hat in zip(aims, own, strict=True):
            inner = aim.at(_inside(aim))
            u, (_, _, x_t, t) = _of(self.plain, inner.cond), inner.path
            beta = control_coefficient(
                u, x_t, inner.r, t, inner.v, v_hat, derivative=self.derivative
            )
            count = (inner.r < t).sum()
            sums += torch.stack([beta * count, count])
        weighed, count = self.processes.sum(sums).tolist()
        return weighed / max(1.0, count)

    def _figures(
        self, aims: Sequence[Aim], own: Sequence[Tensor], beta: float, generator: Generator
    ) -> dict[str, float | None]:
        """Figures of all rows with r < t: ``trace`` is Tr(J J^T) / d, from one probe for each row.

        ``variance`` is that of the target about its mean at (x_t, r, t), per element. The mean is
        estimated by the target that v_hat gives in place of v, so an error of v_hat counts as
        noise.
        """
        sums = torch.zeros(3, device=self.processes.device)
        for aim, v_hat in zip(aims, own, strict=True):
            inner = aim.at(_inside(aim))
            u, (_, _, x_t, t) = _of(self.plain, inner.cond), inner.path
            point, way = (u, x_t, inner.r, t), self.derivative
            trace = hutchinson_trace(*point, generator, derivative=way)
            noisy = mean_velocity_target(*point, inner.v, v_hat=v_hat, beta=beta, derivative=way)
            noise = noisy - mean_velocity_target(*point, v_hat, derivative=way)
            each = torch.stack([trace, mean_square(noise, inner.mask), torch.ones_like(t)])
            sums += each[:, inner.r < t].sum(1)
        *sums, count = self.processes.sum(sums).tolist()
        trace, variance = (x / count if count else None for x in sums)
        return {"trace": trace, "variance": variance}


def _of(backbone: Backbone, cond: Tensor) -> AverageVelocityFn:
    return lambda x, r, t: backbone.average_velocity(x, r, t, cond).float()


def _velocity(backbone: Backbone, aim: Aim) -> Tensor:
    return backbone.velocity(aim.path.x_t, aim.path.t, aim.cond).float()


def _inside(aim: Aim) -> Tensor:
    """The rows with r < t; without any the first row, so that all processes make equal calls."""
    rows = torch.nonzero(aim.r < aim.path.t).flatten()
    return rows if len(rows) else rows.new_zeros(1)
