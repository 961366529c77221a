"""Planned samplers in ComfyUI: against its solvers, the paper's calls and the exact law."""

from functools import partial

import comfy.sample
import comfy.samplers
import pytest
import torch

from tests.nodes.loaded_pack import GRID, SHAPE, SPREAD, Scheduler, latent, sample, stable
from tests.nodes.moded_flow import (
    EULER,
    FIXED,
    MODES,
    SEEN,
    conditions,
    decibels,
    grid_of,
    planned,
    planned_samplers,
    run,
)

pytestmark = pytest.mark.inside


def test_a_call_at_every_step_is_the_base_solver():
    base = run(EULER, GRID)
    for part in (GRID, GRID[15:], GRID[:9], GRID[-2:]):
        theirs, ours = run(EULER, part), run(planned(calls=30), part)
        assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max(), len(part)
    for mode in ("self-calibrating", "forecast"):
        assert torch.equal(run(planned(calls=30, mode=mode), GRID), run(planned(calls=30), GRID))
    twelve, few = grid_of(12), grid_of(8)
    assert torch.equal(run(FIXED, twelve), run(planned(calls=6, rule="late"), twelve))
    assert (run(FIXED, few) - run(EULER, few)).abs().max() < 2e-6 * base.abs().max()


def test_solvers_agree_with_the_host_s_own():
    # The host's UniPC has order 3 and stops at 0.001.
    for solver, name in (("euler", "euler"), ("dpmpp_2m", "dpmpp_2m"), ("unipc", "uni_pc_bh2")):
        theirs = run(comfy.samplers.sampler_object(name), GRID.clone())
        found = decibels(run(planned(solver=solver, calls=30), GRID), theirs)
        assert found > {"euler": 100, "dpmpp_2m": 100, "unipc": 30}[solver], (solver, found)


def test_14_calls_beat_the_paper_s_20_at_every_solver():
    sigmas = Scheduler.execute(MODES, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    assert len(sigmas) == 21
    base = run(EULER, GRID)
    paper = decibels(run(stable(), sigmas), base)
    for sampler in (planned(), planned(rule="density"), FIXED):
        assert decibels(run(sampler, GRID), base) > paper + 8, paper
    for solver in ("ab2", "unipc"):
        whole = run(planned(solver=solver, calls=30), GRID)
        assert decibels(run(planned(solver=solver), GRID), whole) > paper


def test_ksampler_s_stable_vs_calls_at_half_of_its_steps():
    def ksampler(name, steps, denoise=1.0, **options):
        SEEN.clear()
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        positive, negative = conditions()
        made = comfy.sample.sample(
            MODES, noise, steps, 1.0, name, "simple", positive, negative, torch.zeros(SHAPE),
            denoise=denoise, disable_pbar=True, seed=1, **options,
        )  # fmt: skip
        return made, len(SEEN)

    for denoise in (1.0, 0.6):
        (base, every), (ours, made) = (ksampler(n, 30, denoise) for n in ("euler", "stable_vs"))
        assert (every, made) == (30, 15) and decibels(ours, base) > 30, (denoise, made)
    assert [ksampler("stable_vs", n)[1] for n in (8, 9, 20, 50)] == [8, 4, 10, 25]


def test_two_experts_each_call_at_half_of_their_own_steps():
    """Two KSamplers over parts of a grid, as the official Wan 2.2 graphs have them."""

    def experts(name, steps, border):
        SEEN.clear()
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        positive, negative = conditions()
        run = partial(
            comfy.sample.sample, MODES, steps=steps, cfg=1.0, sampler_name=name,
            scheduler="simple", positive=positive, negative=negative, disable_pbar=True, seed=1,
        )  # fmt: skip
        high = run(noise, latent_image=torch.zeros(SHAPE), last_step=border)
        calls = len(SEEN)
        nothing = torch.zeros(SHAPE)
        low = run(nothing, latent_image=high, start_step=border, disable_noise=True)
        return low, (calls, len(SEEN) - calls)

    for steps, border, wanted in ((20, 10, (5, 5)), (30, 13, (6, 8)), (16, 8, (8, 8))):
        base, every = experts("euler", steps, border)
        ours, made = experts("stable_vs", steps, border)
        assert every == (border, steps - border) and made == wanted, (steps, made)
        assert decibels(ours, base) > 25, (steps, decibels(ours, base))


def test_the_fixed_form_s_calls():
    for steps, wanted in ((1, 1), (2, 2), (8, 8), (14, 7), (15, 8), (30, 15), (60, 30)):
        assert planned_samplers.fixed_calls(grid_of(steps)) == wanted
    for part, wanted in ((GRID[15:], 8), (GRID[:16], 8), (GRID[:5], 4), (GRID[10:], 10)):
        assert planned_samplers.fixed_calls(part) == wanted
    assert planned_samplers.fixed_calls(grid_of(30, 0.5)) == 15
    for part in (GRID[3:4], GRID[-1:]):
        assert run(FIXED, part).isfinite().all()


def test_ode_is_nearer_to_the_exact_law():
    def worst(x):  # of data N(0, SPREAD^2) the exact solution from noise is SPREAD x noise
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        return float((x * latent.SD_VAE.scale - SPREAD * noise).abs().max())

    assert worst(sample(planned(mode="ode", calls=12), GRID)) < worst(sample(EULER, GRID)) / 3
    part = GRID[4:20]
    assert planned_samplers.ode_sigmas(part, 7)[[0, -1]].equal(part[[0, -1]])
    assert planned_samplers.ode_sigmas(part, 15) is part
