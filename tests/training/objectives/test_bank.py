"""A bank's references in training: a sample is among its own, and the target stays unbiased."""

import math
from dataclasses import replace

import pytest
import torch

from sv_core.objective import Objective
from training import rng
from training.data import batches
from training.data import dataset as datasets
from training.objectives.bank import FromBank, build_bank


def test_each_sample_is_among_its_own_references(tiny):
    dataset = datasets.load(tiny.data)
    bank = build_bank(tiny.objective, dataset, "cpu", 8)
    half = replace(tiny.data, label_dropout=0.5)
    for step in range(1, 6):
        batch = batches.batch(dataset, half, 0, step)
        seen = []
        for rows, refs in FromBank(bank, dataset.num_classes).references(batch):
            seen += rows.tolist()
            for row in rows:
                assert (refs == batch.x0[row]).flatten(1).all(1).any()
        assert sorted(seen) == list(range(8))


@pytest.mark.parametrize("processes", [1, 2])
def test_stablevm_is_unbiased_through_the_bank(tiny, processes):
    """Over many steps the mean of (stable - conditional target) times any fixed function of
    (x_t, t, label) is 0: so is the difference of the expected gradients. Several processes have a
    bank each, of their own share of the batch."""
    dataset = datasets.load(tiny.data)
    objective = Objective(threshold=0.5)
    share = 8 // processes
    parts = [slice(i * share, (i + 1) * share) for i in range(processes)]
    options = replace(tiny.objective, bank=16)
    banks = [build_bank(options, dataset, "cpu", share) for _ in parts]
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(4, 64, 64, generator=generator) / 8
    sums = []
    for step in range(1, 1501):
        means = []
        for part, bank in zip(parts, banks, strict=True):
            batch = batches.batch(dataset, tiny.data, 0, step, part)
            refs = FromBank(bank, dataset.num_classes).references(batch)
            path = objective.path(batch.x0, rng.generator(0, step, "path"), part, 8)
            difference = objective.target(path, refs) - objective.target(path)
            feature = torch.einsum("kij,bj->bki", probe, path.x_t.flatten(1)).tanh()
            means.append(torch.einsum("bki,bi->bk", feature, difference.flatten(1)).mean(0))
        sums.append(torch.stack(means).mean(0))
    sums = torch.stack(sums)
    error = sums.std(0) / math.sqrt(len(sums))
    assert sums.abs().mean() > 0.05  # the targets do differ
    assert (sums.mean(0).abs() < 4 * error).all()


def test_sixteen_bits_of_a_reference_are_enough(tiny):
    """The targets differ by less than a hundredth of what averaging changes in them."""
    dataset = datasets.load(tiny.data)
    targets = []
    for dtype in ("float32", "float16"):
        options = replace(tiny.objective, bank=64, bank_dtype=dtype)
        bank = build_bank(options, dataset, "cpu", 64)
        batch = batches.batch(dataset, replace(tiny.data, batch_size=64), 0, 1)
        refs = FromBank(bank, dataset.num_classes).references(batch)
        assert bank.items.dtype == getattr(torch, dtype)
        path = Objective().path(batch.x0, rng.generator(0, 1, "path"))
        targets.append(Objective().target(path, refs))
    plain = Objective().target(path)
    assert (targets[0] - targets[1]).norm() < 0.01 * (targets[0] - plain).norm()
    assert targets[1].dtype == torch.float32
