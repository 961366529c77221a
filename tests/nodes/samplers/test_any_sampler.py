"""Fewer Calls under every sampler of the host: what it keeps, saves, says and leaves alone."""

from importlib import import_module

import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch

from tests.held_tensors import Held
from tests.nodes.fewer_calls_runs import GRID20, behind, sampler, through
from tests.nodes.loaded_pack import MODEL, NAME, SHAPE, flow, sample
from tests.nodes.moded_flow import (
    EULER,
    MODES,
    SEEN,
    Planned,
    conditions,
    decibels,
    grid_of,
    run,
)

pytestmark = pytest.mark.inside

any_sampler = import_module(".nodes.samplers.any_sampler", NAME)
table = import_module(".nodes.samplers.sampler_table", NAME)
plan = import_module(".nodes.samplers.plan", NAME)
NAMES = [n for n in comfy.samplers.SAMPLER_NAMES if n != "stable_vs"]
DRAWS = ("ancestral", "sde", "lcm", "ddpm", "seeds", "sa_solver")


def test_with_every_call_each_sampler_gives_its_own_result_bit_for_bit():
    for name in NAMES:
        base = run(sampler(name), GRID20.clone())
        state = torch.get_rng_state()
        torch.manual_seed(0)
        made, reports, _ = through(name, share=1.0)
        assert torch.equal(made, base), (name, reports)
        assert len(reports) == 1, reports
        torch.set_rng_state(state)


def test_the_random_state_ends_as_without_the_node():
    for name in ("euler", "heunpp2", "uni_pc", "er_sde", "euler_ancestral", "dpmpp_2m"):
        torch.manual_seed(4)
        run(sampler(name), GRID20.clone())
        state = torch.get_rng_state()
        torch.manual_seed(4)
        through(name)
        assert torch.equal(torch.get_rng_state(), state), name


def test_half_the_calls_are_made_and_are_near_for_every_sampler():
    for name in NAMES:
        base = run(sampler(name), GRID20.clone())
        made, reports, seen = through(name)
        if table.name_of(sampler(name).sampler_function) in table.LEFT_ALONE or (
            "cfg_pp" in name or name == "dpm_adaptive"
        ):
            assert "runs as without this node: " in reports[0], (name, reports)
            assert torch.equal(made, base), name
            continue
        assert "saved" in reports[0] and len(seen) == int(reports[0].split()[0]), (
            name,
            reports,
            len(seen),
        )
        assert len(seen) <= 30, (name, len(seen))
        found = decibels(made, base)  # those that draw noise make of every error another picture
        fewer = run(sampler(name), grid_of(10))
        better = found - decibels(fewer, base)
        near = any(word in name for word in DRAWS) or found > 25
        assert near and better > 3, (name, found, better)


def test_what_cannot_be_done_passes_through_with_the_reason():
    class WithoutFunction(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **options):
            return noise

    for made, grid, words in (
        (EULER, grid_of(8), "at 8 steps or fewer there is nothing to leave out"),
        (sampler("dpm_adaptive"), GRID20, "chooses its own noise levels"),
        (sampler("euler_cfg_pp"), GRID20, "reads the unconditional prediction"),
        (WithoutFunction(), GRID20, "has no function that could be run again"),
        (Planned(plan.Plan()), GRID20, "leaves out calls itself"),
        (sampler("stable_vs"), GRID20, "leaves out calls itself"),
    ):
        model, reports = behind()
        base, ours = run(made, grid.clone()), sample(made, grid.clone(), model=model)
        assert torch.equal(base, ours) and len(reports) == 1 and words in reports[0], reports
    model, reports = behind()
    sample(EULER, grid_of(9), model=model)
    assert "saved" in reports[0]


def test_a_sampler_that_fails_without_the_model_still_runs():
    def sample_needy(model, x, sigmas, extra_args=None, callback=None, disable=None):
        if not isinstance(model, comfy.samplers.KSamplerX0Inpaint):
            raise RuntimeError("I want the real one")
        return EULER.sampler_function(model, x, sigmas, extra_args, callback, disable)

    model, reports = behind()
    made = sample(comfy.samplers.KSAMPLER(sample_needy), GRID20, model=model)
    assert torch.equal(made, run(EULER, GRID20)) and "I want the real one" in reports[0]


def test_evaluations_count_both_sides_of_guidance():
    model, reports = behind()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive, negative = conditions()
    for cfg, expected in ((1.0, 10), (3.0, 20)):
        comfy.sample.sample_custom(
            model, noise, cfg, EULER, GRID20, positive, negative, torch.zeros(SHAPE),
            disable_pbar=True, seed=1,
        )  # fmt: skip
        assert f"{expected} network evaluations" in reports[-1], reports


def test_previews_and_the_bar_count_calls():
    def shown(name, grid=GRID20, **settings):
        model, _ = behind(**settings)
        seen = []
        sample(
            sampler(name), grid.clone(), model=model,
            callback=lambda i, x0, x, n: seen.append((i + 1, n)),
        )  # fmt: skip
        return seen

    for name, settings, total in (
        ("euler", {}, 10),
        ("uni_pc", {}, 10),
        ("heun", {"way": "number", "number": 12}, 12),
        ("euler", {"way": "list", "nodes": "0 9"}, 2),
        ("heun", {"share": 1.0}, 39),
        ("euler", {"share": 1.0}, 20),
    ):
        assert shown(name, **settings) == [(i, total) for i in range(1, total + 1)], name
    adaptive = shown("euler", way="adaptive")
    assert adaptive[-1][0] == adaptive[-1][1] and len(adaptive) <= 21
    assert len(shown("euler", grid_of(8))) == 8


def test_interruption_ends_the_run_at_the_next_call():
    model, reports = behind()
    SEEN.clear()

    def stop(i, x0, x, n):
        if i == 3:
            comfy.model_management.interrupt_current_processing(True)

    try:
        sample(sampler("uni_pc"), GRID20.clone(), model=model, callback=stop)
    except comfy.model_management.InterruptProcessingException:
        assert len(SEEN) == 4 and not reports
    else:
        raise AssertionError("not interrupted")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert "10 of 20" in (sample(EULER, GRID20, model=model) is not None and reports[0])


def test_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    for name in ("euler", "uni_pc", "res_multistep", "ddim"):
        model, reports = behind()
        base = run(sampler(name), GRID20.clone(), mask=mask)
        made = sample(sampler(name), GRID20.clone(), model=model, mask=mask)
        assert (made - base)[..., :8].abs().max() < 1e-5 and "saved" in reports[0], (name, reports)
        assert decibels(made, base) > 25, (name, decibels(made, base))


def ksampler(model, name, steps, denoise=1.0, image=None, **options):
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive, negative = conditions()
    return comfy.sample.sample(
        model, noise, steps, 1.0, name, "simple", positive, negative,
        torch.zeros(SHAPE) if image is None else image,
        denoise=denoise, disable_pbar=True, seed=1, **options,
    )  # fmt: skip


def test_ksampler_and_image_to_image():
    image = run(EULER, GRID20)
    for name in ("euler", "res_multistep", "uni_pc", "dpmpp_2m"):
        for denoise in (1.0, 0.6):
            base = ksampler(MODES, name, 20, denoise, image)
            model, reports = behind()
            made = ksampler(model, name, 20, denoise, image)
            assert "10 of 20 calls" in reports[0] or "of 21" in reports[0], reports
            assert decibels(made, base) > 25, (name, denoise, decibels(made, base))


def test_two_stages_with_two_models():
    """KSampler (Advanced) with an expert each: every stage calls at half of its own steps."""

    def both(model):
        half = ksampler(model, "euler", 24, last_step=12, force_full_denoise=False)
        return comfy.sample.sample(
            model, torch.zeros(SHAPE), 24, 1.0, "euler", "simple", *conditions(), half,
            disable_noise=True, start_step=12, disable_pbar=True, seed=1,
        )  # fmt: skip

    model, reports = behind()
    made = both(model)
    assert [t.split(" calls")[0] for t in reports] == ["6 of 12", "6 of 12"], reports
    assert decibels(made, both(MODES)) > 25


def test_guidance_and_hooks_happen_at_the_calls():
    asked = []

    def rescaled(arguments):
        asked.append(float(arguments["sigma"][0]))
        guided = arguments["denoised"]
        size = guided.std((1, 2, 3), keepdim=True)
        return 0.8 * guided / size * size.clamp(max=1.0)

    hooked = MODES.clone()
    hooked.set_model_sampler_post_cfg_function(rescaled, disable_cfg1_optimization=True)
    base = sample(EULER, GRID20, model=hooked)
    asked.clear()
    model, _ = behind(model=hooked)
    made = sample(EULER, GRID20, model=model)
    assert len(asked) == 10 and decibels(made, base) > 25, (len(asked), decibels(made, base))


class PointData:
    """A denoiser whose data is one point, for any shape of x."""

    inner_model = type("G", (), {"model_patcher": MODEL, "inner_model": MODEL.model})()

    def __call__(self, x, sigma, **options):
        assert sigma.shape == x.shape[:1]
        return self.answer(x)

    @staticmethod
    def answer(x):
        return torch.zeros_like(x) + 0.25


def driven(name, **choice):
    """(the sampler's function with fewer calls, what it tells)."""
    reports = []
    ours = any_sampler.FewerCalls(any_sampler.Choice(**choice), reports.append)
    return ours._with_fewer_calls(sampler(name).sampler_function, None), reports


def test_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):
        for name in ("euler", "res_multistep"):
            function, reports = driven(name)
            out = function(PointData(), torch.randn(shape), grid_of(30), disable=True)
            assert out.shape == shape and (out - 0.25).abs().max() < 1e-5, (shape, name)
            assert "15 of 30" in reports[0]


def test_a_video_s_run_holds_few_tensors_of_its_size():
    """20 calls of 40, the sampler's own tensors included, the start it is given not counted."""
    x, grid = torch.randn(1, 16, 21, 60, 104), grid_of(40)
    network = PointData()
    network.answer = lambda x: x * 0.5  # one tensor

    def most(function):
        with Held(x.nbytes) as held:
            function(network, x, grid.clone(), extra_args={}, disable=True)
        return held.most

    for name in ("euler", "euler_ancestral", "heun", "res_multistep", "uni_pc"):
        assert most(driven(name)[0]) <= 8, name
    assert most(driven("er_sde")[0]) <= 11  # which draws noise and remembers


def test_a_flow_kept_as_x0_plus_noise_takes_the_same_steps():
    """Cosmos-Predict2's form: its euler in sigma is another solver, but near at 40 steps."""
    assert flow.is_exploding_flow(comfy.model_sampling.COSMOS_RFLOW())
    assert not flow.is_exploding_flow(comfy.model_sampling.CONST())
    flow.require_flow(comfy.model_sampling.COSMOS_RFLOW())
