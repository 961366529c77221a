"""The denoiser at a smaller size, against flows whose velocity is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.progressive import (
    Plan,
    Stage,
    coarse_denoised,
    coarse_size,
    coarse_time,
    full_size_calls,
    gain,
    last_level,
    missing_power,
    prior_weight,
    ratio_of,
    transition_time,
)
from sv_core.schedules import shift, uniform_grid
from sv_core.spectrum import FLUX_SPECTRUM, WAN_SPECTRUM, cosine, fractions, inverse_cosine, low

FULL = (64, 64)
GRID = shift(uniform_grid(30), 3.0)


def power_at(size, ratio=1.0) -> Tensor:
    """The power of a Gaussian field whose small pictures are its own low coefficients over r."""
    q = fractions(size) / ratio
    q[0, 0] = fractions(FULL)[0, 1]
    return FLUX_SPECTRUM.power(q) / ratio**2


def network(x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x] of the field, at the size of x."""
    size = (x.shape[-2], x.shape[-1])
    weight = prior_weight(t, power_at(size, ratio_of(FULL, size)))
    return inverse_cosine(weight * cosine(x))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def euler(denoise, x: Tensor, grid: Tensor = GRID) -> list[Tensor]:
    states = [x]
    for t, s in pairwise(grid):
        x = x + (s - t) * (x - denoise(x, t)) / t
        states.append(x)
    return states


def progressive(plan: Plan, share: float, law=FLUX_SPECTRUM):
    """The denoiser of a plan, and the list of the sizes at which it calls."""
    sizes = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        size = coarse_size(FULL, plan.ratio_at(float(t)))
        sizes.append(size)
        if size == FULL:
            return network(x, t)
        power = missing_power(law, FULL, size, share) if share else None
        return coarse_denoised(network, x, t, size, power)

    return denoise, sizes


def decibels(x: Tensor, reference: Tensor) -> float:
    """As the project's benchmarks: of the error's mean square over the reference's."""
    return float(-10 * torch.log10((x - reference).square().mean() / reference.square().mean()))


def test_the_times_are_inverse_to_each_other():
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    for r in (4 / 3, 2.0, 4.0):
        s = coarse_time(t, r)
        torch.testing.assert_close(shift(s, r), t)
        torch.testing.assert_close(gain(t, r), t / s)
        torch.testing.assert_close(gain(t, r) * (1 - s) / r, 1 - t)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 16), (32, 48)])
def test_coarse_euler_is_the_low_block_of_full_euler_node_by_node(size):
    """Where the low block is blind to the high one, for any ratio, even one not the same twice."""
    x, r = noise(2, *FULL), ratio_of(FULL, size)
    kept = torch.ones(FULL, dtype=torch.float64)
    kept[: size[0], : size[1]] = 0

    def small(y: Tensor, s: Tensor) -> Tensor:
        weight = prior_weight(s, power_at(FULL)[: size[0], : size[1]] / r**2)
        return inverse_cosine(weight * cosine(y))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return coarse_denoised(small, x, t, size)

    grid = GRID[:-1]  # at t = 0 the gain is r, and the small flow has nothing left to do
    for ours, truth in zip(euler(denoise, x, grid), euler(network, x, grid), strict=True):
        torch.testing.assert_close(low(ours, size), low(truth, size))


def test_the_true_prior_makes_it_exact_on_gaussian_fields():
    denoise, sizes = progressive(Plan((Stage(2.0, 0.6),)), share=1.0)
    x = noise(4, *FULL)
    ours, truth = euler(denoise, x)[-1], euler(network, x)[-1]
    assert sizes.count((32, 32)) == 21 and decibels(ours, truth) > 250


def test_half_the_power_and_none_reach_the_measured_nearness():
    x = noise(8, *FULL)
    truth = euler(network, x)[-1]
    for until, share, least in ((0.75, 0.0, 50), (0.6, 0.0, 38), (0.6, 0.5, 44), (0.5, 0.5, 38.5)):
        denoise, sizes = progressive(Plan((Stage(2.0, until),)), share)
        assert decibels(euler(denoise, x)[-1], truth) > least, (until, share)
    assert full_size_calls(sizes, FULL) == pytest.approx(12.75)


def test_eight_steps_at_about_half_their_cost():
    grid, x = shift(uniform_grid(8), 3.0), noise(8, *FULL)
    denoise, sizes = progressive(Plan((Stage(2.0, 0.75),)), 0.5)
    assert decibels(euler(denoise, x, grid)[-1], euler(network, x, grid)[-1]) > 45
    assert full_size_calls(sizes, FULL) == 4.25


def test_an_overrated_spectrum_errs_no_more_than_no_prior():
    x = noise(8, *FULL)
    truth = euler(network, x)[-1]

    def error(share: float) -> float:
        denoise, _ = progressive(Plan((Stage(2.0, 0.6),)), share)
        return float((euler(denoise, x)[-1] - truth).square().mean())

    assert error(1.0) < error(0.5) < error(0.0)
    assert error(2.0) < 1.1 * error(0.0)  # of twice the truth, which half the power makes of four


def test_the_transition_keeps_its_promise_and_no_more():
    for law in (FLUX_SPECTRUM, WAN_SPECTRUM):
        for tolerance in (0.01, 0.05, 0.1):
            power = law.power_at(0.5)
            t = transition_time(power, tolerance)
            variance = (1 - t) ** 2 * power + t**2
            assert (1 - t) ** 2 * power * (1 + power) / variance == pytest.approx(tolerance)
    assert transition_time(FLUX_SPECTRUM.power_at(0.5), 0.05) == pytest.approx(0.718, abs=1e-3)
    assert transition_time(FLUX_SPECTRUM.power_at(0.5), 0.1) == pytest.approx(0.64, abs=5e-3)
    assert transition_time(WAN_SPECTRUM.power_at(0.5), 0.05) == pytest.approx(0.612, abs=2e-3)
    assert transition_time(0.01, 0.05) == 0.0


def test_the_error_of_taking_a_frequency_for_noise_is_the_formula_by_sampling():
    power, t = 0.4, 0.7
    c, e = noise(200_000, seed=1) * math.sqrt(power), noise(200_000, seed=2)
    x = (1 - t) * c + t * e
    best = (x - prior_weight(torch.tensor(t), torch.tensor(power)) * x) / t
    found = float((best - e).square().mean())
    expected = (1 - t) ** 2 * power * (1 + power) / ((1 - t) ** 2 * power + t**2)
    assert found == pytest.approx(expected, rel=0.02)


def test_the_dtype_and_shape_of_a_video_stay():
    x = noise(1, 16, 3, 30, 26).bfloat16()
    seen = []

    def denoise(y: Tensor, s: Tensor) -> Tensor:
        seen.append((y.shape, y.dtype))
        return y

    power = missing_power(WAN_SPECTRUM, (30, 26), (16, 14))
    made = coarse_denoised(denoise, x, torch.tensor(0.8), (16, 14), power)
    assert made.shape == x.shape and made.dtype == torch.bfloat16
    assert seen == [((1, 16, 3, 16, 14), torch.bfloat16)]


def test_the_plan_orders_its_sizes():
    plan = Plan((Stage(4.0, 0.9), Stage(2.0, 0.6)), begin=0.95, last=0.3)
    at = {1.0: 1, 0.95: 4, 0.9: 4, 0.89: 2, 0.6: 2, 0.59: 1, 0.2: 1}
    assert {t: plan.ratio_at(t) for t in at} == at
    assert Plan((Stage(2.0, 0.1),), last=0.3).ratio_at(0.3) == 1
    for stages in ((Stage(2.0, 0.6), Stage(4.0, 0.9)), (Stage(1.0, 0.5),), (Stage(2.0, 1.5),)):
        with pytest.raises(InvalidInput, match="descending noise levels"):
            Plan(stages)


def test_the_last_calls_are_at_full_size():
    levels = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0]
    assert last_level(levels, 2) == 0.2 and last_level(levels, 0) == 0
    assert last_level(levels[2:], 2) == 0.1  # of four steps one
    assert last_level(levels[:4], 2) == 0  # the first expert's part
    assert last_level(levels, 99) == 1.0


def test_sizes_are_whole_patches():
    assert coarse_size((64, 64), 2) == (32, 32) and coarse_size((64, 64), 4 / 3) == (48, 48)
    assert coarse_size((26, 38), 2) == (12, 20)
    assert coarse_size((2, 2), 4) == (2, 2) and coarse_size((3, 3), 1) == (3, 3)
    assert full_size_calls([(32, 32), (64, 64)], (64, 64)) == 1.25
    assert full_size_calls([(32, 32), (64, 64)], (64, 64), attention=True) == 1.0625


@pytest.mark.parametrize(("power", "tolerance"), [(0.3, 0), (0.3, 1), (0, 0.1)])
def test_impossible_transitions_are_refused(power, tolerance):
    with pytest.raises(InvalidInput, match="tolerance must be above 0"):
        transition_time(power, tolerance)
