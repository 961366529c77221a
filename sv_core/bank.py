"""Recent latents per condition: the references of StableVM."""

import torch
from torch import Tensor

from .errors import InvalidInput


class MemoryBank:
    """A first-in-first-out ring of ``capacity`` tensors for each of ``keys`` conditions.

    One preallocated (keys, capacity, *shape) tensor; ``add`` is one indexed copy, O(batch).
    [arXiv 2602.05435, StableVM: 256 per class, and one global pool for dropped labels]
    """

    def __init__(
        self,
        keys: int,
        capacity: int,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.items = torch.zeros(keys, capacity, *shape, dtype=dtype, device=device)
        self.total = torch.zeros(keys, dtype=torch.long)
        """How many items each key has ever received; the ring's head is total % capacity."""

    @property
    def capacity(self) -> int:
        return self.items.shape[1]

    def add(self, x: Tensor, keys: Tensor) -> None:
        """Store x (b, *shape) under keys (b,), in place of the oldest items where a key is full.

        Raises InvalidInput when one key receives more items at once than it can hold.
        """
        keys = keys.cpu()
        # The n-th item of a key within this batch goes n places behind the key's head.
        order = torch.argsort(keys, stable=True)
        counts = torch.bincount(keys, minlength=len(self.total))
        if counts.max() > self.capacity:
            raise InvalidInput(
                f"a batch brings {int(counts.max())} items of one condition to a memory bank that "
                f"holds {self.capacity}: use a larger bank or a smaller batch"
            )
        start = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(keys)) - start[keys[order]]
        slot = (self.total[keys[order]] + rank) % self.capacity
        device = self.items.device
        self.items[keys[order].to(device), slot.to(device)] = x[order.to(x.device)].to(self.items)
        self.total += counts

    def count(self, key: int) -> int:
        """How many items a key holds now."""
        return min(int(self.total[key]), self.capacity)

    def refs(self, key: int) -> Tensor:
        """The items of a key, (m, *shape), as a view in no particular order.

        Raises ValueError for a key without items, over which there is no mean.
        """
        count = self.count(key)
        if count == 0:
            raise ValueError(f"the memory bank has no item for condition {key} yet")
        return self.items[key, :count]

    def state_dict(self) -> dict[str, Tensor]:
        """What is needed to continue exactly from this point."""
        return {"items": self.items, "total": self.total}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore ``state_dict``. Raises InvalidInput when the sizes differ."""
        if state["items"].shape != self.items.shape:
            raise InvalidInput(
                f"the saved memory bank is {tuple(state['items'].shape)}, this run's is "
                f"{tuple(self.items.shape)}: resume with the bank and data the run began with"
            )
        self.items.copy_(state["items"])
        self.total.copy_(state["total"])
