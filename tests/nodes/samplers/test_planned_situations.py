"""Planned samplers under masks, part grids, two experts and hooks."""

import comfy.sample
import pytest
import torch

from tests.nodes.loaded_pack import GRID, MODEL, SHAPE, sample
from tests.nodes.moded_flow import (
    EULER,
    FIXED,
    MODES,
    SEEN,
    Plan,
    Planned,
    conditions,
    decibels,
    grid_of,
    make_modes,
    plan,
    planned,
    planned_samplers,
    run,
)

pytestmark = pytest.mark.inside


def test_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    whole = run(EULER, GRID, mask=mask)
    for sampler in (
        *(planned(solver=s) for s in ("euler", "ab2", "dpmpp_2m", "unipc")),
        planned(mode="ode", calls=12),
        planned(mode="adaptive"),
        FIXED,
    ):
        out = run(sampler, GRID, mask=mask)
        assert out[..., :8].abs().max() < 1e-5 and out[..., 8:].std() > 0.1
    assert decibels(run(planned(), GRID, mask=mask), whole) > 30


def test_less_denoise_keeps_its_base_s_result():
    for denoise in (0.3, 0.5, 0.75):
        grid = grid_of(30, denoise)
        base = run(EULER, grid)
        for sampler in (planned(), FIXED):
            found = decibels(run(sampler, grid), base)
            assert found > 30, (denoise, found)


def test_history_never_crosses_from_one_expert_to_the_other():
    first, second = make_modes(seed=0), make_modes(seed=9)
    for sampler, cut in ((planned(calls=8), 15), (FIXED, 15), (planned(mode="adaptive"), 11)):
        high, low = GRID[: cut + 1], GRID[cut:]
        middle = sample(sampler, high, model=first)

        def finish(model, sampler=sampler, low=low, middle=middle):
            positive, negative = conditions()
            return comfy.sample.sample_custom(
                model, torch.zeros(SHAPE), 1.0, sampler, low, positive, negative, middle,
                disable_pbar=True, seed=1,
            )  # fmt: skip

        second.model.diffusion_model.seen.clear()
        after = finish(second)  # right behind the first expert's run
        assert second.model.diffusion_model.seen[0] == float(low[0])
        sample(sampler, GRID, model=second)
        fresh = type(sampler)(**clone_options(sampler))
        assert torch.equal(after, finish(second, sampler=fresh)), "an earlier run left a trace"
        assert not torch.equal(after, finish(first))


def clone_options(sampler):
    if isinstance(sampler, Planned):
        return {"plan": sampler.extra_options["plan"]}
    return {"sampler_function": sampler.sampler_function}


def test_two_experts_keep_their_base_s_result():
    for cut in (11, 15, 18):
        high, low = GRID[: cut + 1], GRID[cut:]

        def through(sampler, high=high, low=low):
            middle = run(sampler, high)
            positive, negative = conditions()
            return comfy.sample.sample_custom(
                MODES, torch.zeros(SHAPE), 1.0, sampler, low, positive, negative, middle,
                disable_pbar=True, seed=1,
            )  # fmt: skip

        base = through(EULER)
        for sampler in (planned(calls=8), FIXED):
            SEEN.clear()
            found = decibels(through(sampler), base)
            assert found > 25 and len(SEEN) < 20, (cut, found, len(SEEN))


def test_guidance_and_hooks_happen_at_the_real_calls():
    asked = []

    def rescaled(arguments):  # nonlinear in both, as CFG++ style and rescaling nodes are
        asked.append(float(arguments["sigma"][0]))
        guided, uncond = arguments["denoised"], arguments["uncond_denoised"]
        size = guided.std((1, 2, 3), keepdim=True)
        return 0.8 * guided / size * size.clamp(max=1.0) + 0.3 * uncond.tanh()

    hooked = MODES.clone()
    hooked.set_model_sampler_post_cfg_function(rescaled, disable_cfg1_optimization=True)
    base = sample(EULER, GRID, model=hooked)
    assert decibels(base, run(EULER, GRID)) < 30, "the hook did nothing"
    asked.clear()
    ours = sample(planned(), GRID, model=hooked)
    assert len(asked) == 14 and decibels(ours, base) > 30, (len(asked), decibels(ours, base))
    every = sample(planned(calls=30), GRID, model=hooked)
    assert (every - base).abs().max() < 2e-6 * base.abs().max()


def test_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):

        class Denoiser:
            inner_model = type("G", (), {"model_patcher": MODEL})()

            def __call__(self, x, sigma, **options):
                assert sigma.shape == x.shape[:1]
                return torch.zeros_like(x) + 0.25  # the data is one point

        x = torch.randn(shape)
        for mode in plan.MODES[:3]:
            out = planned_samplers.sample_planned(
                Denoiser(), x, GRID, disable=True, plan=Plan(mode)
            )
            assert out.shape == x.shape and (out - 0.25).abs().max() < 1e-5, mode
