"""ComfyUI's flow as the samplers see it: grids, noise, what is fit for it and what is not."""

import comfy.model_base
import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_model_advanced
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from tests.nodes.loaded_pack import (
    GRID,
    MODEL,
    SHAPE,
    Scheduler,
    complaint,
    flow,
    make_model,
    sample,
    stable,
)

pytestmark = pytest.mark.inside


def test_unfit_samplers_are_refused_with_the_reason():
    for name in flow.UNFIT_SAMPLERS.keys() & set(comfy.samplers.SAMPLER_NAMES):
        assert name not in flow.sampler_names()
        assert flow.UNFIT_SAMPLERS[name] in complaint(lambda: flow.require_fit_sampler(name))  # noqa: B023
    assert "no sampler" in complaint(lambda: flow.require_fit_sampler("eulr"))


def test_noise_is_seeded_and_keeps_the_noise_level():
    # Fresh noise of the whole share forgets eps_hat; on exact Gaussian data the law stays.
    fine = flow.host_grid(make_model(1.0), "simple", 100, 1.0)
    first, again = (sample(stable(split=0.99, noise=0.5), fine, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample(stable(split=0.99), fine, seed=3))
    state = torch.random.get_rng_state()
    sample(stable(noise=0.5), GRID)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": MODEL})()
    drawn = flow.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    initial = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    assert abs(float((drawn * initial).mean())) < 0.05, "the initial noise came back"


def test_noise_is_drawn_on_the_cpu_for_every_device_and_dtype():
    # The meta device stands for any other: what is drawn there cannot depend on it.
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": MODEL})()
    drawn, original = [], torch.randn

    def watched(*args, **options):
        drawn.append(original(*args, **options))
        assert options["generator"].device.type == "cpu", "drawn by a device's own generator"
        return drawn[-1]

    torch.randn = watched
    try:
        for x in (
            torch.zeros(2, 4, 8, 8),
            torch.zeros(2, 4, 8, 8, dtype=torch.float16),
            torch.zeros(2, 4, 8, 8, device="meta"),
        ):
            noise = flow.seeded_noise(denoiser, {"seed": 7})(x)
            assert (noise.device, noise.dtype) == (x.device, x.dtype)
    finally:
        torch.randn = original
    assert all(torch.equal(d, drawn[0]) and d.device.type == "cpu" for d in drawn)
    assert all(d.dtype == torch.float32 for d in drawn) and len(drawn) == 3


def test_noise_follows_the_model_s_scale():
    model = MODEL.clone()

    class Loud(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        noise_scale = 2.0

    model.add_object_patch("model_sampling", Loud())
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": model})()
    model.get_model_object("model_sampling").noise_scale = 2.0
    drawn = flow.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    assert abs(float(drawn.std()) - 2) < 0.05


def test_other_kinds_of_model_are_refused_in_words():
    for kind in ("eps", "v_prediction", "x0"):
        other = ModelSamplingDiscrete().patch(MODEL, kind, False)[0]
        for refusal in (
            complaint(lambda: sample(stable(), GRID, model=other)),  # noqa: B023
            complaint(
                lambda: Scheduler.execute(other, "simple", 30, 1.0, 0.85, 9, "unipc")  # noqa: B023
            ),
        ):
            assert "needs a flow-matching model" in refusal and kind.upper() in refusal, refusal


def test_grid_is_the_host_s_own_for_every_scheduler_and_shift_node():
    advanced = nodes_model_advanced
    models = {
        "no node": MODEL,
        "SD3": advanced.ModelSamplingSD3().patch(MODEL, 5.0)[0],
        "AuraFlow": advanced.ModelSamplingAuraFlow().patch_aura(MODEL, 1.73)[0],
        "Flux": advanced.ModelSamplingFlux().patch(MODEL, 1.15, 0.5, 1024, 768)[0],
    }
    shapes = ((1, 1.0), (7, 1.0), (30, 1.0), (30, 0.3), (9, 0.75), (20, 0.0))
    for kind, model in models.items():
        for name in comfy.samplers.SCHEDULER_NAMES:
            for steps, denoise in shapes:
                theirs = BasicScheduler().get_sigmas(model, name, steps, denoise)[0]
                if theirs.isfinite().all():
                    ours = flow.host_grid(model, name, steps, denoise)
                    assert torch.equal(ours, theirs), (kind, name, steps, denoise)
                else:
                    words = complaint(lambda: flow.host_grid(model, name, steps, denoise))  # noqa: B023
                    assert name in words and "more steps" in words
    assert len({float(flow.host_grid(m, "simple", 30, 1.0)[15]) for m in models.values()}) == 4
