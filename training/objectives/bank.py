"""StableVM's references: the memory bank of a run, and what a batch takes from it."""

import torch

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput
from sv_core.objective import References

from ..config.schema import ObjectiveConfig
from ..data.batches import Batch
from ..data.dataset import Dataset


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
