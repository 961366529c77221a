"""The table of a sampler says what its function does, or there is none."""

import itertools

import pytest
import torch

from sv_core.sampler_levels import find_levels
from sv_core.sampler_weights import TooMany, find_weights, watch
from tests.sv_core import plain_samplers as plain
from tests.sv_core.exact_flows import GRID

X = torch.randn(2, 3, 5, dtype=GRID.dtype, generator=torch.Generator().manual_seed(1))
ADD_UP = (plain.euler, plain.heun, plain.midpoint, plain.two_step, plain.writes_into_x,
          plain.writes_into_sigmas, plain.out_of_order, plain.ancestral)  # fmt: skip


def network(x, sigma):
    return torch.sin(3 * x) + sigma


@pytest.mark.parametrize("sampler", ADD_UP, ids=lambda s: s.__name__)
def test_every_evaluated_x_and_the_result_are_the_table_s_combinations(sampler):
    weights = find_levels(sampler, X[:, :2, :2], GRID).weights
    torch.manual_seed(4)
    run = watch(sampler, X, GRID, network, 100)
    events = torch.stack(run.events).flatten(1)
    made = torch.stack([*(seen.x for seen in run.seen), run.result]).flatten(1)
    assert torch.allclose(weights.table @ events, made, atol=1e-12)
    assert list(weights.answers) == [seen.event for seen in run.seen]
    for row, answer in zip(weights.table, weights.answers, strict=False):
        assert not row[answer:].any(), "an evaluation knows what comes after it"


def test_noise_is_drawn_as_the_sampler_would_draw_it():
    def own_generator(denoise, x, sigmas):
        generator = torch.Generator().manual_seed(9)
        for s, r in itertools.pairwise(sigmas):
            d = denoise(x, s.expand(len(x)))
            noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
            x = x + (r - s) * (x - d) / s + 0.01 * r * noise
        return x

    for sampler, draws in ((plain.ancestral, 29), (own_generator, 30)):
        run = watch(sampler, X, GRID, network, 100)
        weights = find_levels(sampler, X[:1, :1], GRID).weights
        torch.manual_seed(5)
        drawn = [draw(X) for draw in weights.draws.values()]
        torch.manual_seed(5)
        run = watch(sampler, X, GRID, network, 100)
        assert len(drawn) == draws and list(run.draws) == list(weights.draws)
        for ours, event in zip(drawn, run.draws, strict=True):
            assert torch.equal(ours, run.events[event])


def test_what_does_not_add_up_has_no_table():
    def a_mask(denoise, x, sigmas):
        return plain.euler(denoise, x * torch.linspace(0, 1, x[0].numel()).view(x[0].shape), sigmas)

    def hidden_noise(denoise, x, sigmas):
        return plain.euler(denoise, x + torch.empty_like(x).normal_(), sigmas)

    def from_neighbours(denoise, x, sigmas):
        return plain.euler(denoise, x - 0.1 * x.roll(1, -1), sigmas)

    for sampler in (plain.with_a_norm, a_mask, hidden_noise, from_neighbours):
        assert find_levels(sampler, X, GRID).weights is None, sampler.__name__


def test_a_large_x_is_not_kept():
    large = torch.zeros(1, 70000)
    assert find_levels(plain.euler, large, GRID).weights is None
    run = watch(plain.euler, large, GRID, network, 100, keep=False)
    assert all(seen.x.numel() == 0 for seen in run.seen)
    assert all(event.numel() == 0 for event in run.events)


def test_a_run_without_an_end_is_ended():
    def endless(denoise, x, sigmas):
        while True:
            denoise(x, sigmas[:1])

    with pytest.raises(TooMany):
        watch(endless, X, GRID, network, 50)


def test_a_table_that_other_runs_contradict_is_none():
    good, other = (watch(s, X, GRID, network, 100) for s in (plain.euler, plain.two_step))
    assert find_weights(plain.euler, GRID, [good]) is not None
    assert find_weights(plain.euler, GRID, [good, other]) is None
