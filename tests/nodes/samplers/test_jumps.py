"""MeanFlow's jumps in ComfyUI are the mathematics of the core, under all that ComfyUI does."""

from itertools import pairwise

import comfy.model_detection
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from tests.nodes.interval_models import (
    CLASSES,
    GRID,
    MEANFLOW,
    NET,
    SHAPE,
    average_velocity,
    jump_sampler,
    jumps,
    near,
    patched,
    sample,
    stirred,
    the_core_s,
)
from tests.nodes.loaded_pack import latent, sit, sit_model
from tests.nodes.moded_flow import EULER

pytestmark = pytest.mark.inside


def test_samples_are_the_mathematics_in_any_number_of_calls():
    for calls in range(1, 9):
        near(sample(jumps(calls)), the_core_s(jump_sampler.jump_sigmas(GRID, calls)))
    assert torch.allclose(jump_sampler.jump_sigmas(GRID, 4), torch.linspace(1, 0, 5))
    part = GRID[10:21]
    even = torch.linspace(float(part[0]), float(part[-1]), 3)
    assert torch.allclose(jump_sampler.jump_sigmas(part, 2), even)
    assert jump_sampler.jump_sigmas(part, 2)[[0, -1]].equal(part[[0, -1]])
    for own in (GRID[:5], GRID[:1]):  # as many steps as calls, or none
        assert torch.equal(jump_sampler.jump_sigmas(own, 4), own)
    one, two = sample(jumps(1)), sample(jumps(2))
    assert (one - two).abs().max() > 0.05, "the interval does not matter here"


def test_each_call_is_told_its_own_interval_and_later_runs_none():
    seen, calls = [], []
    before = sample(EULER)
    hook = NET.register_forward_pre_hook(
        lambda module, args, options: seen.append((float(args[1][0]), options.get("r"))),
        with_kwargs=True,
    )
    report = lambda i, x0, x, n: calls.append((i, n))  # noqa: E731
    sample(jumps(3), callback=report)
    told = [(round(t, 5), round(float(r[0]), 5)) for t, r in seen]
    grid = [round(s, 5) for s in jump_sampler.jump_sigmas(GRID, 3).tolist()]
    assert told == list(pairwise(grid)), told
    assert calls == [(0, 3), (1, 3), (2, 3)]
    seen.clear()
    after = sample(EULER)
    hook.remove()
    assert all(r is None for _, r in seen) and len(seen) == 30
    assert torch.equal(before, after)
    assert average_velocity.INTERVAL_END not in MEANFLOW.model_options["transformer_options"]


def test_cfg_guides_the_average_velocity_as_the_host_guides_any():
    near(sample(jumps(2), cfg=2.5), the_core_s(jump_sampler.jump_sigmas(GRID, 2), cfg=2.5), 1e-4)
    assert (sample(jumps(2), cfg=2.5) - sample(jumps(2))).abs().max() > 0.1


def test_image_to_image_begins_at_the_host_s_noise():
    sigmas = BasicScheduler().get_sigmas(MEANFLOW, "simple", 30, 0.4)[0]
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    start = (1 - sigmas[0]) * latent.pixels(3).to_model(image) + sigmas[0] * noise
    for calls in (1, 3):
        expected = the_core_s(jump_sampler.jump_sigmas(sigmas, calls), start)
        near(sample(jumps(calls), sigmas, image=image), expected)


def test_two_samplers_in_a_row_are_one():
    first, second = GRID[:16], GRID[15:]
    half = sample(jumps(1), first)
    whole = the_core_s(GRID[[0, 15, 30]])
    nothing = torch.zeros(SHAPE)
    positive = sit_model.conditioning_from_classes(CLASSES.tolist())
    out = comfy.sample.sample_custom(
        MEANFLOW, nothing, 1.0, jumps(1), second, positive, positive, half,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    near(out, whole, 1e-4)


def test_inpainting_keeps_what_is_masked():
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(SHAPE[0], 1, 8, 8)
    mask[..., 4:] = 1
    for calls in (1, 4):
        out = sample(jumps(calls), image=image, noise_mask=mask)
        assert (out - image)[..., :4].abs().max() < 1e-5
        assert (out - image)[..., 4:].abs().max() > 0.1


def test_a_converted_checkpoint_is_the_plain_model_for_every_sampler():
    plain = stirred(sit.SiT(sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5)))
    start = patched(sit.with_interval(plain))
    for name in ("euler", "heun", "dpmpp_2m", "uni_pc", "res_multistep"):
        sampler = comfy.samplers.sampler_object(name)
        theirs = sample(sampler, GRID[::3].clone(), patched(plain))
        assert torch.equal(sample(sampler, GRID[::3].clone(), start), theirs), name
    for calls in (1, 8):  # and its jumps are Euler's steps
        sigmas = jump_sampler.jump_sigmas(GRID, calls)
        near(sample(jumps(calls), GRID, start), sample(EULER, sigmas, patched(plain)))


def test_times_in_other_units_mean_the_same():
    other = ModelSamplingSD3().patch(MEANFLOW, 3.0)[0]  # counts in thousands
    near(sample(jumps(3), model=other), sample(jumps(3)), 1e-4)
