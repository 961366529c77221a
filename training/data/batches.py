"""Batches: each a pure function of (seed, step)."""

from typing import NamedTuple

import torch
from torch import Tensor

from sv_core.objective import References

from ..config.schema import DataConfig
from ..rng import generator
from .dataset import Dataset


class Batch(NamedTuple):
    """x0 (b, c, h, w) in model space, labels, the same where some were dropped, features.

    ``mask`` (b, 1, h, w) says how much each cell counts, None that all count alike; ``refs`` are
    StableVM's references, once they are added (objectives/bank.py). ``items`` are the samples'
    indices in the data, ``step`` is the batch's step.
    """

    x0: Tensor
    labels: Tensor
    cond: Tensor
    features: tuple[Tensor, ...]
    mask: Tensor | None = None
    refs: References = ()
    items: Tensor | None = None
    step: int = 0


def batch(
    data: Dataset, config: DataConfig, seed: int, step: int, part: slice = slice(None)
) -> Batch:
    """The global batch of a step, or that ``part`` of it; only these items are read."""
    n = config.batch_size
    items = data.draw(n, generator(seed, step, "data"))
    labels = data.draw_labels(items, generator(seed, step, "labels"))[part]
    dropped = torch.rand(n, generator=generator(seed, step, "dropout")) < config.label_dropout
    latents, _, features = data.gather(items[part])
    return Batch(
        x0=data.latent.to_model(latents),
        labels=labels,
        cond=torch.where(dropped[part], data.num_classes, labels),
        features=features,
        mask=data.masks(items[part]),
        items=items[part],
        step=step,
    )
