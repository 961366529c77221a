"""One step's computation: from a batch to gradients, and from gradients to new weights."""

from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn

from sv_core.objective import Objective
from sv_core.targets import Path

from . import data
from .backbones.base import Backbone
from .blocks import adapt
from .config import Config
from .objective import describe, references
from .optim import lr_at
from .state import TrainState


class Learner:
    """A run's network, projectors and optimiser at work on this process's share of a batch."""

    def __init__(self, config: Config, state: TrainState, objective: Objective):
        self.config, self.objective = config, objective
        self.processes, self.null = state.processes, state.null
        self.bank, self.alignment = state.bank, state.alignment
        self.rows = self.processes.share(config.data.batch_size, config.optim.accumulate)
        self.parameters = state.parameters
        adapt(state.backbone.blocks, config.run)
        model, *projectors = self.processes.prepare(*state.modules)
        self.model: nn.Module = model
        self.projectors: nn.Module | None = projectors[0] if projectors else None
        (self.optimizer,) = self.processes.prepare(state.optimizer)
        self.backbone: Backbone = state.backbone.on(model)

    def compute(self, batch: data.Batch, step: int, report: bool) -> tuple[Tensor, Tensor, dict]:
        """Leave the gradients in place; (velocity loss per sample, alignment loss, report)."""
        n, parts = self.config.data.batch_size, self.config.optim.accumulate
        device, seed = self.processes.device, self.config.run.seed
        batch = batch._replace(
            x0=batch.x0.to(device), features=tuple(z.to(device) for z in batch.features)
        )
        refs = references(self.bank, batch, self.null)
        drawn = data.generator(seed, step, "path")
        path = self.objective.path(batch.x0, drawn, self.rows, n)
        target = self.objective.target(path, refs)
        said = {"stable": describe(self.objective, path, refs, target)} if report and refs else {}
        # Of the whole batch, which every process can draw: so the shares add up to its loss.
        total = None
        if self.alignment:
            t = self.objective.timesteps(n, data.generator(seed, step, "path"))
            total = self.alignment.weight(t).sum().to(device)
        losses, aligned = [], torch.zeros((), device=device)
        size = len(batch.x0) // parts
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            loss, align = self._part(batch, path, target, rows, total, part == parts - 1)
            losses.append(loss)
            aligned += align
        return torch.cat(losses), aligned, said

    def _part(
        self,
        batch: data.Batch,
        path: Path,
        target: Tensor,
        rows: slice,
        total: Tensor | None,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        processes, alignment = self.processes, self.alignment
        cond = batch.cond[rows].to(processes.device)
        path = Path(*(x[rows] for x in path))
        with ExitStack() as stack:
            for model in (self.model, self.projectors):
                if model is not None:
                    stack.enter_context(processes.synchronising(model, last))
            tokens = stack.enter_context(alignment.watching() if alignment else nullcontext())
            with processes.autocast():
                losses = self.objective.losses(
                    lambda x_t, t: self.backbone.velocity(x_t, t, cond).float(), path, target[rows]
                )
                loss = losses.loss.sum() / self.config.data.batch_size
                align = torch.zeros((), device=processes.device)
                if alignment:
                    projected = self.projectors(tokens[0])
                    align = alignment.loss(
                        projected, [z[rows] for z in batch.features], path.t, total
                    )
            # Gradients are averaged over the processes, and these are shares of a sum.
            processes.backward((loss + align) * processes.count)
        return losses.loss.detach(), align.detach()

    def update(self, step: int) -> tuple[Tensor, bool]:
        """Clip and step; (the gradient's norm, whether fp16 overflowed and nothing moved)."""
        norm = self.processes.clip(self.parameters, self.config.optim.clip)
        if self.config.run.precision != "fp16" and not torch.isfinite(norm):
            return norm, False
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(step, self.config.optim)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, self.optimizer.step_was_skipped
