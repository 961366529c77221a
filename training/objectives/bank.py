"""StableVM's references: from the memory bank of a run, or for captions from the cache.

In both a sample is among its own references; without that the target would be biased.
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
    """A memory bank with one ring per class and a last ring of all samples, for dropped labels.

    With several processes each has a bank of its own share of every batch, ``batch`` samples a
    step. These are independent draws of the data, so the target stays unbiased. Processes do not
    share their references. Raises InvalidInput for a bank that a step's samples could overflow.
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
    """Where the references of a run come from."""

    @property
    def ahead(self) -> bool:
        """Whether references are read with the batch, while the step before is computed."""
        ...

    def references(self, batch: Batch) -> References:
        """Pairs (rows, references) for the rows of the batch that have references."""
        ...


class FromBank:
    """References from a memory bank, into which each batch goes first."""

    ahead = False

    def __init__(self, bank: MemoryBank, null: int):
        self.bank, self.null = bank, null

    def references(self, batch: Batch) -> References:
        """Add the batch to the bank; then each row's references, those of its condition."""
        self.bank.add(batch.x0, batch.labels)
        self.bank.add(batch.x0, torch.full_like(batch.labels, self.null))
        return [
            (torch.nonzero(batch.cond == key).flatten(), self.bank.refs(key))
            for key in batch.cond.unique().tolist()
        ]


class FromCache:
    """References that are read from a cache, so that none have to be kept in memory.

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
        """At most ``n`` references for each row (b,) that ``wanted(step)`` marks.

        ``first`` is the place of a batch's first row in the whole batch of its step, so that a row
        has the same references in whichever process.
        """
        self.cache, self.n, self.wanted, self.seed, self.first = cache, n, wanted, seed, first

    def references(self, batch: Batch) -> References:
        """The items of a row's condition and shape; of any condition where it was dropped."""
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
