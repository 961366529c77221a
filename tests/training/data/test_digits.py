"""The built-in digits: one split, the same for all."""

import torch

from training.data import digits


def test_the_digits_split_is_fixed_disjoint_and_fair():
    train, held_out = digits.load()
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert train.images.min() == 0 and train.images.max() == 1
    shares = [torch.bincount(part.labels).double() / len(part.labels) for part in (train, held_out)]
    assert (shares[0] - shares[1]).abs().max() < 0.003
    again = digits.load()[1]
    assert torch.equal(held_out.images, again.images)
