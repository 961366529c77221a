"""Which items may be references of an item in StableVM: those of its condition.

A group holds each item in proportion to its chance of being drawn with that condition: mostly
once; where pictures are repeated, or have different numbers of captions, with as many copies as
make the proportions whole numbers. References that are drawn from it without replacement, the item
itself first, are exchangeable draws of p(x0 | condition), which keeps the target unbiased.
"""

import math

import torch
from torch import Generator, Tensor


class Conditions:
    """The conditions of each item: its picture's first one, and the further captions of it."""

    def __init__(self, first: list[int], others: list[list[int]], picture: Tensor):
        """Two columns of a cache's index, and the picture of each item."""
        flat, counts = first, torch.ones(len(first), dtype=torch.long)
        if others:
            flat = [c for a, b in zip(first, others, strict=True) for c in (a, *b)]
            counts += torch.tensor([len(b) for b in others])
        self._flat = torch.tensor(flat, dtype=torch.long)
        self.counts = counts[picture]
        self._start = (counts.cumsum(0) - counts)[picture]

    def of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """(item, condition) for every condition of these items."""
        counts = self.counts[items]
        place = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(
            counts
        )
        return (
            items.repeat_interleave(counts),
            self._flat[self._start[items].repeat_interleave(counts) + place],
        )

    def pick(self, items: Tensor, generator: Generator) -> Tensor:
        """One condition of each item, each of its conditions with the same chance."""
        share = torch.rand(len(items), generator=generator, dtype=torch.float64)
        return self._flat[self._start[items] + (share * self.counts[items]).long()]


class Companions:
    """Groups of items by bucket, and by bucket and condition."""

    def __init__(self, items: Tensor, bucket: Tensor, repeats: Tensor, conditions: Conditions):
        """``items``, ascending, take part; the rest has an entry for each item of the cache.

        That is its bucket, how often it counts, its conditions.
        """
        self.bucket, self.repeats, self.counts = bucket, repeats, conditions.counts
        self.even = bool((repeats == 1).all() and (self.counts == 1).all())
        owner, named = conditions.of(items)
        self.width = 1 + int(named.max())
        self._known: dict[tuple[int, int | None], Tensor] = {}
        self._pools = _Sorted(bucket[items], items)
        self._groups = _Sorted(bucket[owner] * self.width + named, owner)

    def group(self, bucket: int, condition: int | None) -> Tensor:
        """The items (with copies) of a bucket that have a condition, or all of the bucket."""
        if condition is None:
            items = self._pools[bucket]
        elif condition < self.width:
            items = self._groups[bucket * self.width + condition]
        else:
            items = torch.empty(0, dtype=torch.long)
        if self.even or not len(items):
            return items
        if (bucket, condition) not in self._known:
            self._known[bucket, condition] = self._copied(items, condition is None)
        return self._known[bucket, condition]

    def _copied(self, items: Tensor, whole: bool) -> Tensor:
        """The items, each with the fewest copies that give it its share."""
        copies = self.repeats[items]
        if not whole:  # an item with m captions is drawn with one of them in 1 of m cases
            counts = self.counts[items]
            copies = copies * (math.lcm(*counts.unique().tolist()) // counts)
        return items.repeat_interleave(copies // math.gcd(*copies.unique().tolist()))

    def choose(self, i: int, n: int, generator: Generator, condition: int | None) -> Tensor:
        """``i``, then a uniformly random subset of the others of its group, n items at most."""
        group = self.group(int(self.bucket[i]), condition)
        own = int(torch.searchsorted(group, i))
        inside = own < len(group) and int(group[own]) == i
        others = subset(len(group) - inside, n - 1, generator)
        if inside:
            others = others + (others >= own)
        return torch.cat([torch.tensor([i]), group[others]])


class _Sorted:
    """Values by their keys, stored in one tensor with the values of a key side by side."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, order = torch.sort(keys, stable=True)
        self.values = values[order]

    def __getitem__(self, key: int) -> Tensor:
        first = int(torch.searchsorted(self.keys, key))
        return self.values[first : int(torch.searchsorted(self.keys, key, right=True))]


def subset(total: int, size: int, generator: Generator) -> Tensor:
    """A uniformly random subset of 0 .. total-1 without replacement; all when ``size`` is more.

    In time that depends on its size alone. [Floyd's algorithm, CACM 30(9), 1987]
    """
    size = max(min(size, total), 0)
    tops = torch.arange(total - size, total)
    # 53 random bits: an upper end of 10^6 is off evenness by 10^-10.
    drawn = (torch.rand(size, generator=generator, dtype=torch.float64) * (tops + 1)).long()
    chosen: dict[int, None] = {}
    for top, pick in zip(tops.tolist(), drawn.tolist(), strict=True):
        chosen[top if pick in chosen else pick] = None
    return torch.tensor(list(chosen), dtype=torch.long)
