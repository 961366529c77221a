"""Batches: each a pure function of (seed, step), with the references that it asks for."""

from typing import NamedTuple

import torch
from torch import Tensor

from sv_core.objective import References

from ..config.schema import DataConfig
from ..rng import generator
from .cache import LatentCache
from .dataset import Dataset


class Batch(NamedTuple):
    """x0 (b, c, h, w) in model space, labels, the same where some were dropped, features.

    ``mask`` (b, 1, h, w) says how much each cell counts, None that all count alike; ``refs`` are
    the references that come with the data. ``items`` are the indices of it all.
    """

    x0: Tensor
    labels: Tensor
    cond: Tensor
    features: tuple[Tensor, ...]
    mask: Tensor | None = None
    refs: References = ()
    items: Tensor | None = None


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
    )


def with_companions(
    batch: Batch, data: LatentCache, n: int, wanted: Tensor, seed: int, step: int, first: int
) -> Batch:
    """The batch with at most ``n`` references for each row (b,) that ``wanted`` marks.

    Those of its condition and shape, itself among them; where the condition was dropped, any of its
    shape. Read from the cache, so there is nothing to keep; ``first`` is the place of its first row
    in the step's whole batch, for a row's references are the same whoever computes it. [our
    extension of arXiv 2602.05435 to text]
    """
    assert batch.items is not None
    refs = []
    for row in torch.nonzero(wanted).flatten().tolist():
        drawn = generator(seed, step, f"references/{first + row}")
        item, cond = int(batch.items[row]), int(batch.cond[row])
        if cond == data.num_classes:
            chosen = data.pool(item, n, drawn)
        else:
            chosen = data.companions(item, n, drawn, cond)
        if len(chosen) > 1:
            refs.append((torch.tensor([row]), data.latent.to_model(data.gather(chosen)[0])))
    return batch._replace(refs=refs)
