"""One step's computation: from a batch to gradients, and from gradients to new weights."""

from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn

from sv_core.bank import MemoryBank
from sv_core.objective import Objective

from .. import rng
from ..config.schema import Config, needs_references
from ..data import batches
from ..data.cache import LatentCache
from ..engine.compile import adapt
from ..engine.optim import lr_at
from ..networks.base import Backbone
from ..objectives.bank import FromBank, FromCache, Source
from ..objectives.base import Aim, Setup
from ..objectives.build import build_criterion
from .state import TrainState


class Learner:
    """Trains a run's network and projectors on this process's share of each batch."""

    def __init__(self, config: Config, state: TrainState, objective: Objective):
        self.data, self.optim, self.run = config.data, config.optim, config.run
        self.objective, self.dataset = objective, state.dataset
        self.processes, self.null = state.processes, state.null
        self.alignment = state.alignment
        self.rows = self.processes.share(config.data.batch_size, config.optim.accumulate)
        self.parameters = state.parameters
        self.draws = config.lora.dropout > 0
        adapt(state.backbone.blocks, config.run, random=self.draws)
        setup = Setup(
            config.data.batch_size,
            config.optim.accumulate,
            config.run.compile,
            thousandths=config.comfy.checkpoint is not None,
        )
        kind = config.objective.kind
        self.criterion = build_criterion(kind, config.meanflow, objective, state, setup)
        self.source: Source | None = None
        if needs_references(config.objective, config.meanflow):
            self.source = self._source(state.bank, config.objective.bank)
        model, *projectors = self.processes.prepare(*state.modules)
        self.model: nn.Module = model
        self.projectors: nn.Module | None = projectors[0] if projectors else None
        (self.optimizer,) = self.processes.prepare(state.optimizer)
        self.backbone: Backbone = state.backbone.on(model)

    def fetch(self, step: int) -> batches.Batch:
        """Read this process's share of the step's batch, and references that are read ahead."""
        batch = batches.batch(self.dataset, self.data, self.run.seed, step, self.rows)
        return self._referred(batch, ahead=True)

    def _source(self, bank: MemoryBank | None, n: int) -> Source:
        """Where references come from: the bank, or else the cache, at most ``n`` for each row."""
        if bank is not None:
            return FromBank(bank, self.null)
        assert isinstance(self.dataset, LatentCache)  # only a cache has text

        def wanted(step: int) -> Tensor:
            return self.times(step)[1][self.rows] >= self.objective.threshold

        return FromCache(self.dataset, n, wanted, self.run.seed, self.rows.start)

    def _referred(self, batch: batches.Batch, ahead: bool) -> batches.Batch:
        """Add references to the batch, if now is the time: ahead of the step or in it."""
        if self.source is None or self.source.ahead != ahead:
            return batch
        return batch._replace(refs=self.source.references(batch))

    def compute(self, batch: batches.Batch, step: int, report: bool) -> tuple[Tensor, Tensor, dict]:
        """Compute the gradients; returns (squared error per sample, alignment loss, report)."""
        parts = self.optim.accumulate
        device, seed = self.processes.device, self.run.seed
        batch = batch._replace(
            x0=batch.x0.to(device),
            features=tuple(z.to(device) for z in batch.features),
            mask=None if batch.mask is None else batch.mask.to(device),
        )
        if self.draws:  # nothing else draws from torch's own generator
            own = f"dropout/{self.processes.index}"
            torch.manual_seed(rng.generator(seed, step, own).initial_seed())
        batch = self._referred(batch, ahead=False)
        drawn = rng.generator(seed, step, "path")
        aim, figures = self.criterion.aim(batch, drawn, self.rows, report)
        # Of the whole batch, which every process can draw: so the shares' losses add up.
        total = None
        if self.alignment:
            total = self.alignment.weight(self.times(step)[1]).sum().to(device)
        losses, aligned = [], torch.zeros((), device=device)
        size = len(batch.x0) // parts
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            features = [z[rows] for z in batch.features]
            loss, align = self._part(aim.at(rows), features, total, part == parts - 1)
            losses.append(loss)
            aligned += align
        return torch.cat(losses), aligned, figures

    def times(self, step: int) -> tuple[Tensor, Tensor]:
        """r <= t (n,) of all samples of a step, those of other processes included."""
        drawn = rng.generator(self.run.seed, step, "path")
        return self.criterion.times(self.data.batch_size, drawn)

    def _part(
        self, aim: Aim, features: list[Tensor], total: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        processes, alignment = self.processes, self.alignment
        with ExitStack() as stack:
            for model in (self.model, self.projectors):
                if model is not None:
                    stack.enter_context(processes.synchronising(model, last))
            tokens = stack.enter_context(alignment.watching() if alignment else nullcontext())
            with processes.autocast():
                losses = self.criterion.losses(self.backbone, aim)
                loss = losses.loss.sum() / self.data.batch_size
                align = torch.zeros((), device=processes.device)
                if alignment:
                    assert self.projectors is not None and tokens is not None and total is not None
                    projected = self.projectors(tokens[0])
                    align = alignment.loss(projected, features, aim.path.t, total)
            # Gradients are averaged over the processes, and these are shares of a sum.
            processes.backward((loss + align) * processes.count)
        return losses.error, align.detach()

    def update(self, step: int) -> tuple[Tensor, bool]:
        """Clip and step; returns (the gradient's norm, whether fp16 overflowed: no step)."""
        norm = self.processes.clip(self.parameters, self.optim.clip)
        if self.run.precision != "fp16" and not torch.isfinite(norm):
            return norm, False
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(step, self.optim)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, self.optimizer.step_was_skipped
