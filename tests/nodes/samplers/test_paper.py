"""The paper's sampler beside ComfyUI's own: its steps, its bases, its noise, its refusals."""

import math

import comfy.model_sampling
import comfy.samplers
import pytest
import torch

from tests.nodes.loaded_pack import (
    GRID,
    MODEL,
    SHAPE,
    SPREAD,
    Scheduler,
    complaint,
    flow,
    latent,
    paper,
    sample,
    stable,
)

pytestmark = pytest.mark.inside


def test_noise_free_steps_equal_the_host_s_euler():
    for sigmas in (GRID, GRID[15:], GRID[:5], GRID[-2:]):
        theirs = sample(comfy.samplers.sampler_object("euler"), sigmas)
        worst = (sample(stable(), sigmas) - theirs).abs().max() / theirs.abs().max()
        assert worst < 2e-6, f"{worst:.1e} on {len(sigmas)} nodes"


def test_every_base_is_the_host_s_sampler_above_the_split():
    for name in flow.sampler_names():
        theirs = sample(comfy.samplers.sampler_object(name), GRID[:8].clone())
        assert torch.equal(sample(stable(name), GRID[:8]), theirs), name


def test_every_base_reaches_the_noise_level_where_our_steps_begin():
    # The exact standard deviation at the first low node, for samplers that add no noise.
    for name in flow.sampler_names():
        if any(word in name for word in ("ancestral", "sde", "lcm", "seeds", "sa_solver")):
            continue
        for begin, end in ((0, 2), (10, 12), (0, 3), (0, 12)):
            sigmas, s = GRID[begin:end].clone(), float(GRID[end - 1])
            x = sample(stable(name), sigmas) * latent.SD_VAE.scale * (1 - s)
            start = float(GRID[begin])
            exact = math.sqrt(((1 - s) * SPREAD) ** 2 + s**2)
            if begin:  # pure noise of sigma alone was the start, there is no data in it
                exact *= start / math.sqrt(((1 - start) * SPREAD) ** 2 + start**2)
            assert abs(float(x.std()) / exact - 1) < 0.01, (name, begin, end, float(x.std()), exact)


def test_every_base_runs_the_whole_grid_and_reports_each_step_once():
    sigmas = Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    before = sigmas.clone()
    for name in flow.sampler_names():
        steps = []
        out = sample(stable(name), sigmas, callback=lambda i, x0, x, n: steps.append((i, n)))  # noqa: B023
        assert steps == [(i, 20) for i in range(20)], (name, steps)
        assert torch.equal(sigmas, before), name
        assert abs(float(out.std()) * latent.SD_VAE.scale / SPREAD - 1) < 0.25, (name, out.std())


def test_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):

        class Denoiser:
            inner_model = type("G", (), {"model_patcher": MODEL})()

            def __call__(self, x, sigma, **options):
                assert sigma.shape == x.shape[:1]
                return torch.zeros_like(x) + 0.25  # the data is one point

        x = torch.randn(shape)
        out = paper.sample_stable_vs(Denoiser(), x, GRID, disable=True)
        assert out.shape == x.shape and (out - 0.25).abs().max() < 1e-6


def test_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    out = sample(stable(), GRID, mask=mask)
    assert out[..., :8].abs().max() < 1e-6 and out[..., 8:].std() > 0.1


def test_bad_sigmas_are_refused_in_words():
    run = paper.sample_stable_vs
    assert "SIGMAS is empty" in complaint(lambda: run(None, torch.zeros(1), torch.zeros(0)))
    for bad in ([0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1000.0, 0.0]):
        assert "SIGMAS" in complaint(lambda: sample(stable(), torch.tensor(bad)))  # noqa: B023
