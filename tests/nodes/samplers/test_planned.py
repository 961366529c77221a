"""Planned samplers in ComfyUI: against its solvers, the paper's calls and the exact law."""

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
    few = grid_of(12)
    assert torch.equal(run(FIXED, few), run(planned(calls=12), few))
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


def test_ksampler_s_stable_vs_makes_14_calls_of_30():
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
        assert (every, made) == (30, 14) and decibels(ours, base) > 30, (denoise, made)
    first, made = ksampler("stable_vs", 30, last_step=15, force_full_denoise=False)
    assert made == 8 and first.isfinite().all()
    assert ksampler("stable_vs", 12)[1] == 12


def test_the_fixed_form_s_calls():
    for steps, wanted in ((1, 1), (2, 2), (8, 8), (14, 14), (15, 14), (30, 14), (60, 14)):
        assert planned_samplers.fixed_calls(grid_of(steps)) == wanted
    for part, wanted in ((GRID[15:], 8), (GRID[:16], 8), (GRID[:5], 4), (GRID[10:], 10)):
        assert planned_samplers.fixed_calls(part) == wanted
    assert planned_samplers.fixed_calls(grid_of(30, 0.5)) == 14
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
