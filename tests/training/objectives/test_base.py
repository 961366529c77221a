"""Bins of time and parts of an aim, against the plainest way to compute them."""

import torch

from sv_core.targets import Path
from training.objectives.base import BINS, TIMES, Aim, bin_of


def test_a_bin_is_an_eighth_and_the_last_one_is_closed():
    t = torch.cat([torch.rand(999), torch.arange(9) / 8, torch.tensor([1 - 2.0**-24])])
    expected = [min(next(k for k in range(9) if x < (k + 1) / 8 or k == 8), 7) for x in t.tolist()]
    assert bin_of(t).tolist() == expected
    assert bin_of(TIMES).tolist() == list(range(BINS))


def test_some_of_an_aim_are_those_of_all_of_it():
    n, draw = 6, torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(n, *shape, generator=draw)

    path = Path(*(made(*([] if name == "t" else [2, 3])) for name in Path._fields))
    for mask in (None, made(1, 3)):
        aim = Aim(path, made(), made(), made(2, 3), made(2, 3), made(), mask)
        parts = [aim.at(slice(0, 2)), aim.at(torch.tensor([2, 3, 4, 5]))]
        for whole, some in zip(aim[1:-1], zip(*(p[1:-1] for p in parts), strict=True), strict=True):
            assert torch.equal(torch.cat(some), whole)
        for whole, some in zip(path, zip(*(p.path for p in parts), strict=True), strict=True):
            assert torch.equal(torch.cat(some), whole)
        masks = [part.mask for part in parts]
        assert masks == [None, None] if mask is None else torch.equal(torch.cat(masks), mask)
