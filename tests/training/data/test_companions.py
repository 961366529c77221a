"""References of one condition: who may be chosen, and each as often as it should be."""

from collections import Counter
from itertools import combinations

import pytest
import torch
from torch import Generator

from training.data.companions import Companions, Conditions, subset


def draws(times, choose):
    """How often each outcome of ``choose(generator)`` occurs."""
    counts = Counter()
    for seed in range(times):
        counts[tuple(choose(Generator().manual_seed(seed)).tolist())] += 1
    return counts


def chi_square(counts, expected):
    """Per degree of freedom: 1 when the counts are what chance makes of the expectation."""
    assert counts.keys() <= expected.keys()
    terms = [(counts[k] - e) ** 2 / e for k, e in expected.items()]
    return sum(terms) / (len(terms) - 1)


@pytest.mark.parametrize("total, size", [(5, 2), (6, 3), (4, 1)])
def test_every_subset_has_the_same_chance(total, size):
    found = Counter()
    for drawn, count in draws(6000, lambda g: subset(total, size, g)).items():
        assert len(set(drawn)) == size
        found[tuple(sorted(drawn))] += count
    sets = list(combinations(range(total), size))
    assert chi_square(found, {s: 6000 / len(sets) for s in sets}) < 2.5


def test_a_subset_as_large_as_the_whole_is_the_whole():
    for size in (4, 9):
        assert sorted(subset(4, size, Generator()).tolist()) == [0, 1, 2, 3]
    assert len(subset(0, 3, Generator())) == len(subset(5, 0, Generator())) == 0


def make(labels, bucket=None, repeats=None, others=None, items=None):
    n = len(labels)
    return Companions(
        torch.arange(n) if items is None else torch.tensor(items),
        torch.tensor(bucket or [0] * n),
        torch.tensor(repeats or [1] * n),
        Conditions(labels, others or [], torch.arange(n)),
    )


def test_only_items_of_the_condition_and_the_bucket_and_of_training():
    #       item: 0  1  2  3  4  5  6  7
    labels = [0, 1, 0, 0, 1, 0, 0, 2]
    bucket = [0, 0, 0, 1, 0, 0, 0, 0]
    some = make(labels, bucket, items=[0, 1, 2, 3, 4, 5, 7])  # 6 is held out
    for seed in range(50):
        g = Generator().manual_seed(seed)
        first, *rest = some.choose(2, 2, g, 0).tolist()
        assert first == 2 and len(rest) == 1 and rest[0] in (0, 5)
    assert set(some.choose(0, 99, Generator(), 0).tolist()) == {0, 2, 5}
    assert some.choose(3, 99, Generator(), 0).tolist() == [3]  # alone in its bucket
    assert some.choose(7, 99, Generator(), 2).tolist() == [7]
    assert set(some.choose(1, 99, Generator(), None).tolist()) == {0, 1, 2, 4, 5, 7}
    assert some.choose(1, 1, Generator(), 1).tolist() == [1]
    assert some.choose(6, 99, Generator(), 9).tolist() == [6]  # of a condition that nobody has
    assert set(some.choose(6, 99, Generator(), 0).tolist()) == {6, 0, 2, 5}


def test_the_others_are_in_it_with_equal_frequency():
    some = make([0] * 7)
    counts = Counter()
    for drawn, times in draws(7000, lambda g: some.choose(3, 4, g, 0)).items():
        assert drawn[0] == 3 and len(set(drawn)) == 4
        counts.update({i: times for i in drawn[1:]})
    # Each of the six others is one of three: 7000 / 2, give or take 4 standard deviations.
    assert set(counts) == {0, 1, 2, 4, 5, 6}
    assert all(abs(c - 3500) < 4 * (7000 / 4) ** 0.5 for c in counts.values())


def test_the_draw_is_a_function_of_the_generator():
    some = make([0] * 100)
    one, again, other = (
        some.choose(5, 20, Generator().manual_seed(s), 0).tolist() for s in (1, 1, 2)
    )
    assert one == again != other


def test_repeated_items_are_chosen_in_proportion_and_no_oftener_than_needed():
    same = make([0] * 4, repeats=[10] * 4)
    assert sorted(same.choose(0, 99, Generator(), 0).tolist()) == [0, 1, 2, 3]
    some = make([0, 0, 0], repeats=[2, 2, 6])
    assert sorted(some.group(0, 0).tolist()) == [0, 1, 2, 2, 2]
    # Beside 0 are left 1 and three of 2.
    counts = draws(4000, lambda g: some.choose(0, 2, g, 0)[1:])
    assert chi_square(counts, {(1,): 1000, (2,): 3000}) < 6


def test_an_item_with_several_captions_counts_as_often_as_it_is_drawn_with_one():
    # 0 always has caption 7; 1 has it in one of two cases, 2 in one of three.
    some = make([7, 7, 5], others=[[], [8], [7, 6]])
    assert Counter(some.group(0, 7).tolist()) == {0: 6, 1: 3, 2: 2}
    assert some.group(0, 8).tolist() == [1] and some.group(0, 6).tolist() == [2]
    assert sorted(some.group(0, None).tolist()) == [0, 1, 2]


def test_captions_are_picked_evenly():
    conditions = Conditions([7, 7, 5], [[], [8], [7, 6]], torch.tensor([0, 0, 1, 1, 2]))
    assert conditions.counts.tolist() == [1, 1, 2, 2, 3]
    owner, named = conditions.of(torch.tensor([4, 0, 2]))
    assert owner.tolist() == [4, 4, 4, 0, 2, 2] and named.tolist() == [5, 7, 6, 7, 7, 8]
    items = torch.tensor([4, 1] * 3000)
    picked = conditions.pick(items, Generator().manual_seed(0))
    assert (picked[1::2] == 7).all()
    assert chi_square(Counter(picked[::2].tolist()), {5: 1000, 7: 1000, 6: 1000}) < 4
