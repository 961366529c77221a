"""KSampler's menus: what is added to them, what it then makes, and foreign hands in them."""

import time

import comfy.model_base
import comfy.samplers
import pytest
import torch

from tests.nodes.loaded_pack import (
    MODEL,
    SHAPE,
    Scheduler,
    complaint,
    dropdowns,
    flow,
    make_model,
    sample,
    sit_model,
)

pytestmark = pytest.mark.inside


def ksampler(steps, denoise=1.0, sampler="stable_vs", scheduler="regime_split", **options):
    """The grid that the host's KSampler makes, and its result on the exact flow."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    runner = comfy.samplers.KSampler(
        MODEL, steps, torch.device("cpu"), sampler, scheduler, denoise, MODEL.model_options
    )
    made = comfy.sample.sample(
        MODEL, noise, steps, 1.0, sampler, scheduler, positive, negative, torch.zeros(SHAPE),
        denoise=denoise, disable_pbar=True, seed=1, **options,
    )  # fmt: skip
    return runner.sigmas, made


def test_drop_downs_are_appended_once_and_in_place():
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    before = [*samplers], [*schedulers], dict(comfy.samplers.SCHEDULER_HANDLERS)
    for _ in range(2):
        dropdowns.register()
    assert ([*samplers], [*schedulers], comfy.samplers.SCHEDULER_HANDLERS) == before
    assert samplers.count("stable_vs") == 1 == schedulers.count("regime_split")
    assert samplers[-1] == "stable_vs" and schedulers[-1] == "regime_split"
    assert samplers is comfy.samplers.SAMPLER_NAMES and "stable_vs" in comfy.samplers.KSAMPLER_NAMES
    assert "stable_vs" not in flow.sampler_names() and "regime_split" not in flow.scheduler_names()
    assert "this sampler itself" in complaint(lambda: flow.require_fit_sampler("stable_vs"))


def test_drop_downs_survive_other_packs():
    # One that appended after us, one that put a new list in place of the host's.
    original = comfy.samplers.KSampler.SAMPLERS
    original.append("of_another_pack")
    comfy.samplers.KSampler.SAMPLERS = ["euler", "of_a_third"]
    try:
        dropdowns.register()
        assert comfy.samplers.KSampler.SAMPLERS == ["euler", "of_a_third", "stable_vs"]
        assert original[-2:] == ["stable_vs", "of_another_pack"]
    finally:
        comfy.samplers.KSampler.SAMPLERS = original
        original.remove("of_another_pack")


def test_ksampler_makes_exactly_its_steps():
    for steps in (1, 2, 5, 8, 14, 20, 30):  # up to 8 steps stable_vs is euler
        sigmas, made = ksampler(steps, sampler="stable_vs" if steps <= 8 else "euler")
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
        theirs = sample(comfy.samplers.sampler_object("euler"), sigmas)
        worst = (made - theirs).abs().max() / theirs.abs().max().clamp_min(1)  # one step makes 0
        assert worst < 2e-6, f"{worst:.1e} with {steps} steps"
    assert torch.equal(
        ksampler(20)[0], Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    )


def test_ksampler_with_denoise_and_other_samplers():
    for denoise in (0.9, 0.75, 0.5, 0.2, 0.05):
        sigmas, made = ksampler(20, denoise)
        assert len(sigmas) == 21 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
        assert sigmas[0] < 1 and made.isfinite().all(), (denoise, sigmas[0])
        whole = dropdowns.regime_split_grid(
            MODEL.get_model_object("model_sampling"), int(20 / denoise)
        )
        assert torch.equal(sigmas, whole[-21:])
    for sampler in (
        "uni_pc",
        "dpm_2",
    ):  # the host adds one step and drops one
        sigmas, _ = ksampler(10, sampler=sampler)
        assert len(sigmas) == 11


def test_ksampler_start_and_end_steps():
    _, whole = ksampler(12, sampler="euler")  # which stable_vs is on 8 steps or fewer
    _, first = ksampler(12, last_step=5, force_full_denoise=False)
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    second = comfy.sample.sample(
        MODEL, torch.zeros(SHAPE), 12, 1.0, "stable_vs", "regime_split", positive, negative, first,
        disable_noise=True, start_step=5, disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def test_drop_downs_refuse_other_models_in_words():
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    eps = ModelSamplingDiscrete().patch(MODEL, "eps", False)[0].get_model_object("model_sampling")
    words = complaint(lambda: comfy.samplers.calculate_sigmas(eps, "regime_split", 20))
    assert "needs a flow-matching model" in words


def test_a_grid_with_one_node_worth_a_call():
    """Shift 1, denoise .03: at most the first node is at .03, all others lie below."""
    model = make_model(1.0)
    sigmas = flow.host_grid(model, "simple", 10, 0.03)
    assert int((sigmas >= 0.03).sum()) <= 1
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    made = comfy.sample.sample(
        model, noise, 10, 1.0, "stable_vs", "simple", positive, negative, torch.zeros(SHAPE),
        denoise=0.03, disable_pbar=True, seed=1,
    )  # fmt: skip
    assert made.isfinite().all()


def test_very_many_steps_are_not_tried_one_by_one():
    began = time.process_time()
    made = dropdowns.regime_split_grid(MODEL.get_model_object("model_sampling"), 10_000)
    assert len(made) == 10_001 and time.process_time() - began < 2
