"""What every objective has: an aim (inputs and targets of a batch), its losses, bins of time."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from sv_core.objective import Losses
from sv_core.targets import Path

from ..data.batches import Batch
from ..engine.distributed import Processes
from ..networks.base import Backbone

BINS = 8


class Aim(NamedTuple):
    """The inputs of a batch and the network's targets at them.

    A target is the average velocity over [r, t] (b,), which is the velocity where r = t.
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


class Setup(NamedTuple):
    """How the steps of a run are computed, as far as an objective must know it.

    A step's whole batch has ``n`` samples, of which a process computes its share in ``parts``, by a
    network that may be ``compiled`` and may count time in ``thousandths``.
    """

    n: int
    parts: int = 1
    compiled: bool = False
    thousandths: bool = False


class Trained(Protocol):
    """What an objective asks of the run that it is the objective of."""

    @property
    def backbone(self) -> Backbone:
        """The network, before it is wrapped for several processes or half precision."""
        ...

    @property
    def model(self) -> nn.Module:
        """The backbone's module."""
        ...

    @property
    def processes(self) -> Processes:
        """Those that share its steps."""
        ...

    @property
    def null(self) -> int:
        """The number of the condition that stands for none."""
        ...

    def averaged(self) -> AbstractContextManager[Backbone]:
        """Context manager: the backbone with the averaged weights."""
        ...


class Criterion(Protocol):
    """What differs between kinds of objectives in a step."""

    def times(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw r <= t, each (n,), for a whole batch; ``aim`` draws the same ones first."""
        ...

    def aim(
        self, batch: Batch, generator: Generator, rows: slice, report: bool
    ) -> tuple[Aim, dict[str, Any]]:
        """Inputs and targets of the step's ``rows``, and with ``report`` figures of them."""
        ...

    def losses(self, backbone: Backbone, aim: Aim) -> Losses:
        """The losses of one part of the batch, with a graph."""
        ...


TIMES = (torch.arange(BINS) + 0.5) / BINS
"""The middles of eight equal parts of (0, 1)."""


def bin_of(t: Tensor) -> Tensor:
    """The number of the eighth of (0, 1) that a time is in: (b,) -> (b,)."""
    return (t * BINS).long().clamp_max(BINS - 1)
