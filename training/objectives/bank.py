"""StableVM's references: from the memory bank of a run, or read from the cache where there is text.

Both ways a sample is among its own references, without which the target would be biased.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput
from sv_core.objective import References

from ..config.schema import ObjectiveConfig
from ..data.batches import Batch
from ..data.cache import LatentCache
from ..data.dataset import Dataset
from ..rng import generator


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


class Source(Protocol):
    """Where the references of a run are from."""

    @property
    def ahead(self) -> bool:
        """Whether they are read with the batch, while the step before it is computed."""
        ...

    def references(self, batch: Batch) -> References:
        """(rows, references) of those rows of the batch that have some."""
        ...


class FromBank:
    """What a memory bank holds of each condition, and what the batch brings into it."""

    ahead = False

    def __init__(self, bank: MemoryBank, null: int):
        self.bank, self.null = bank, null

    def references(self, batch: Batch) -> References:
        """Take the batch in, then give each row the references of its condition, in this order."""
        self.bank.add(batch.x0, batch.labels)
        self.bank.add(batch.x0, torch.full_like(batch.labels, self.null))
        return [
            (torch.nonzero(batch.cond == key).flatten(), self.bank.refs(key))
            for key in batch.cond.unique().tolist()
        ]


class FromCache:
    """What is read from a cache: there is nothing to keep, however many captions it has.

    [our extension of arXiv 2602.05435 to text]
    """

    ahead = True

    def __init__(
        self,
        cache: LatentCache,
        n: int,
        wanted: Callable[[int], Tensor],
        seed: int = 0,
        first: int = 0,
    ):
        """At most ``n`` for each row (b,) that ``wanted(step)`` marks.

        ``first`` is the place of a batch's first row in the whole batch of its step, for a row's
        references are the same whichever process computes it.
        """
        self.cache, self.n, self.wanted, self.seed, self.first = cache, n, wanted, seed, first

    def references(self, batch: Batch) -> References:
        """Those of a row's condition and shape; where that was dropped, any of its shape."""
        assert batch.items is not None
        cache, found = self.cache, []
        for row in torch.nonzero(self.wanted(batch.step)).flatten().tolist():
            drawn = generator(self.seed, batch.step, f"references/{self.first + row}")
            item, cond = int(batch.items[row]), int(batch.cond[row])
            if cond == cache.num_classes:
                chosen = cache.pool(item, self.n, drawn)
            else:
                chosen = cache.companions(item, self.n, drawn, cond)
            if len(chosen) > 1:
                latents = cache.latent.to_model(cache.gather(chosen)[0])
                found.append((torch.tensor([row]), latents))
        return found
