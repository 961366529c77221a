"""StableVM where conditions are texts: references that are read from the cache."""

from dataclasses import replace

import pytest
import torch

from sv_core.objective import Objective
from tests.training.picture_files import DIGITS, write_digits
from training.caching.encode import prepare
from training.config.schema import DataConfig
from training.data import batches
from training.data.cache import LatentCache
from training.data.format import CacheFolder
from training.data.text import write_text
from training.objectives.bank import FromCache

BANK = 4


@pytest.fixture
def cache(tmp_path) -> LatentCache:
    """A hundred digits, ten of each, with a stand-in text for each class."""
    path = tmp_path / "cache"
    prepare(write_digits(tmp_path / "digits"), path, DIGITS)
    texts = torch.randn(11, 2, 4, generator=torch.Generator().manual_seed(0))
    write_text(CacheFolder.open(path), [{"context": text} for text in texts])
    return LatentCache(path)


def read(cache, step=1, size=24, part=slice(None), dropout=0.25, wanted=None):
    batch = batches.batch(cache, DataConfig(batch_size=size, label_dropout=dropout), 0, step, part)
    wanted = torch.ones(len(batch.x0), dtype=torch.bool) if wanted is None else wanted
    source = FromCache(cache, BANK, lambda step: wanted, first=part.start or 0)
    return batch._replace(refs=source.references(batch))


def test_a_row_is_among_its_references_and_they_are_of_its_condition(cache):
    batch = read(cache)
    assert [int(rows) for rows, _ in batch.refs] == list(range(24))
    known = {cache.latent.to_model(cache[i].latent): cache.labels[i] for i in range(len(cache))}
    pools = 0
    for rows, refs in batch.refs:
        assert len(refs) == BANK and torch.equal(refs[0], batch.x0[int(rows)])
        labels = {int(label) for x, label in known.items() for r in refs if torch.equal(x, r)}
        if batch.cond[rows] == cache.num_classes:
            pools += len(labels) > 1
        else:
            assert labels == {int(batch.cond[rows])}
    assert pools  # a dropped caption's references are of any condition


def test_a_rows_references_do_not_depend_on_who_computes_it(cache):
    whole = read(cache).refs
    halves = [*read(cache, part=slice(0, 12)).refs, *read(cache, part=slice(12, 24)).refs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, halves, strict=True))
    again = read(cache, step=2).refs
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, again, strict=True))


def test_nothing_is_read_for_rows_that_do_not_want_it(cache):
    wanted = torch.arange(24) % 3 == 0
    assert [int(rows) for rows, _ in read(cache, wanted=wanted).refs] == list(range(0, 24, 3))


@pytest.mark.parametrize("own", [True, False], ids=["with itself", "without itself"])
def test_the_target_is_unbiased_because_a_row_is_among_its_own_references(cache, own):
    """E <v* - v_c, x_t> = 0; references that lack the row's own item fail this."""
    objective = Objective(timesteps=lambda n, generator: torch.full((n,), 0.6), threshold=0.5)
    found = []
    for step in range(40):
        batch = read(cache, step, 64, dropout=0.0)
        refs = batch.refs
        if not own:
            refs = [(rows, x[1:]) for rows, x in refs]
        path = objective.path(batch.x0, torch.Generator().manual_seed(step))
        moved = objective.target(path, refs) - objective.target(path)
        found.append((moved * path.x_t).flatten(1).sum(1))
    values = torch.cat(found).double()
    error = values.mean().abs() / (values.std() / len(values) ** 0.5)
    assert (error < 4) if own else (error > 8)


def test_masked_cells_do_not_count(tiny, cache):
    batch = batches.batch(cache, replace(tiny.data, batch_size=4), 0, 1)
    objective = Objective()
    path = objective.path(batch.x0, torch.Generator().manual_seed(0))
    target = objective.target(path)
    mask = torch.zeros(4, 1, 8, 8)
    mask[:3, :, :2] = 1
    mask[2] *= 0.5

    def velocity(x_t, t):
        wrong = torch.zeros_like(x_t)
        wrong[:, :, :2] = 3.0
        wrong[:, :, 2:] = 100.0
        return target + wrong

    errors = objective.losses(velocity, path, target, mask).error
    assert errors.tolist() == pytest.approx([9.0, 9.0, 9.0, 0.0], rel=1e-5)
