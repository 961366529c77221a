"""Coarse First in the host: each treatment, on a field whose picture is known at every size."""

from importlib import import_module

import comfy.hooks
import comfy.sample
import comfy.samplers
import pytest
import torch

import nodes
from tests.nodes.field_flow import FULL, SHAPE, make_field
from tests.nodes.loaded_pack import MODEL, NAME, flow
from tests.nodes.loaded_pack import SHAPE as SIT_SHAPE
from tests.nodes.loaded_pack import sample as sample_sit

pytestmark = pytest.mark.inside

coarse_first = import_module(".nodes.coarse_first", NAME)
conditions = import_module(".nodes.host.conditions", NAME)
Node = nodes.NODE_CLASS_MAPPINGS["CoarseFirst"]
FewerCalls = nodes.NODE_CLASS_MAPPINGS["FewerCalls"]
USUAL = {
    "size": "1/2", "until": "level", "level": 0.6, "keep_layout": False, "detail": 0.0,
    "full_calls": 2, "edit_models": False,
}  # fmt: skip
FIELD = make_field()
SEEN = FIELD.model.diffusion_model.seen
GRID = flow.host_grid(FIELD, "simple", 30, 1.0)
TEXT, EMPTY = torch.full((1, 3, 4), 0.5), torch.zeros(1, 3, 4)


def behind(model=FIELD, **settings):
    """(the model with the node, what it reports)."""
    reports = []
    before = coarse_first.show_on_node
    coarse_first.show_on_node = lambda node, text, name: reports.append(text)
    try:
        made = Node.execute(model, **(USUAL | settings)).args[0]
    finally:
        coarse_first.show_on_node = before
    return made, reports


def run(
    model=FIELD, name="euler", grid=GRID, shape=SHAPE, positive=None, negative=None, cfg=1.0,
    latent=None, mask=None,
):  # fmt: skip
    """A run of a sampler; what the network saw is in SEEN."""
    SEEN.clear()
    FIELD.model.diffusion_model.given.clear()
    FIELD.model.diffusion_model.full = tuple(shape[-2:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sampler = comfy.samplers.sampler_object(name)
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, grid.clone(), positive or [[TEXT, {}]],
        negative or [[EMPTY, {}]], torch.zeros(shape) if latent is None else latent,
        disable_pbar=True, seed=1, noise_mask=mask,
    )  # fmt: skip


def sizes():
    return [size for _, size in SEEN]


def decibels(x, reference):
    error = (x - reference).double().square().mean() / reference.double().square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-20)))


def against_full(settings=None, **options):
    """(nearness to the same run at full size in dB, the sizes of the calls, the report)."""
    truth = run(**options)
    assert set(sizes()) == {tuple(options.get("shape", SHAPE)[-2:])}
    calls = len(SEEN)
    model, reports = behind(**(settings or {}))
    made = run(model, **options)
    assert len(SEEN) == calls
    return decibels(made, truth), sizes(), reports[-1]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("euler", 37), ("heun", 37), ("dpmpp_2m", 37), ("uni_pc", 36), ("res_multistep", 34),
        ("euler_ancestral", 40), ("lcm", 80),
    ],
)  # fmt: skip
def test_every_kind_of_sampler_comes_near_its_own_full_size(name, least):
    near, at, report = against_full(name=name)
    assert near > least, near
    assert (32, 32) in at and at[-1] == FULL and "% saved" in report


def test_half_the_prior_comes_nearer_and_the_result_says_what_it_cost():
    near, at, report = against_full({"detail": 0.5})
    assert near > 43 and at.count((32, 32)) == 21
    assert report == (
        "21 calls at 32x32, 9 calls at 64x64\nas much as 14.25 calls at full size "
        "(10.31 where attention dominates): 52 % saved"
    )


def test_eight_steps_at_half_their_cost():
    grid = flow.host_grid(FIELD, "simple", 8, 1.0)
    near, _, report = against_full({"detail": 0.5, "level": 0.75}, grid=grid)
    assert near > 45 and "as much as 4.25 calls" in report


def test_the_usual_level_follows_the_spectrum():
    _, at, _ = against_full({"until": "usual"})
    usual = at.count((32, 32))
    _, at, _ = against_full({"until": "faster"})
    assert 0 < usual < at.count((32, 32))


def test_three_quarters_and_two_stages():
    near, at, _ = against_full({"size": "3/4", "detail": 0.5})
    assert (48, 48) in at and near > 44
    _, at, report = against_full({"size": "1/4, then 1/2", "until": "usual", "detail": 0.5})
    assert list(dict.fromkeys(at)) == [(16, 16), (32, 32), FULL]
    assert report.startswith(f"{at.count((16, 16))} calls at 16x16, ")


def test_keep_layout_begins_at_full_size():
    _, at, _ = against_full({"keep_layout": True})
    assert list(dict.fromkeys(at)) == [FULL, (32, 32)] and at[0] == at[-1] == FULL


def test_odd_sizes_are_made_whole_patches():
    near, at, _ = against_full(shape=(1, 4, 26, 38))
    assert (12, 20) in at and near > 30


def test_a_video_keeps_its_frames():
    shape = (1, 4, 3, 32, 48)
    near, at, _ = against_full(shape=shape)
    assert (16, 24) in at and near > 30


def test_fewer_calls_works_before_and_behind():
    truth = run()
    results = []
    for order in ("before", "behind"):
        model = FIELD
        if order == "before":
            model = FewerCalls.execute(model, {"calls": "number", "number": 14}).args[0]
        model, reports = behind(model, detail=0.5)
        if order == "behind":
            model = FewerCalls.execute(model, {"calls": "number", "number": 14}).args[0]
        results.append(run(model))
        assert len(SEEN) == 14 and (32, 32) in sizes() and reports[-1].count("calls at") == 3
        assert decibels(results[-1], truth) > 37
    assert torch.equal(*results)


def test_inpainting_keeps_what_is_masked():
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, *FULL)
    mask[..., 20:44, 10:50] = 1
    truth = run(latent=latent, mask=mask)
    model, _ = behind()
    made = run(model, latent=latent, mask=mask)
    assert decibels(made, truth) > 34
    outside = (mask == 0).expand(SHAPE)
    torch.testing.assert_close(made[outside], latent[outside], atol=1e-4, rtol=1e-4)


def test_img2img_is_small_below_its_first_level_only():
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    near, at, _ = against_full(grid=flow.host_grid(FIELD, "simple", 24, 0.8), latent=latent)
    assert near > 36 and 0 < at.count((32, 32)) < 21


def test_too_little_noise_leaves_the_run_alone():
    model, reports = behind()
    made = run(model, grid=flow.host_grid(FIELD, "simple", 10, 0.2))
    assert "at full size throughout: its noise levels" in reports[0]
    assert torch.equal(made, run(grid=flow.host_grid(FIELD, "simple", 10, 0.2)))


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_percentages_switch_at_the_same_calls(cfg):
    positive = [
        [TEXT, {"start_percent": 0.0, "end_percent": 0.2}],
        [-TEXT, {"start_percent": 0.2, "end_percent": 1.0}],
    ]
    truth = run(positive=positive, cfg=cfg)
    before = [(t, float(g["context"].mean())) for (t, _), g in zip(SEEN, given(), strict=True)]
    model, _ = behind()
    made = run(model, positive=positive, cfg=cfg)
    after = [float(g["context"].mean()) for g in given()]
    assert [c for _, c in before] == after and len(set(after)) > 1
    assert decibels(made, truth) > 30


def given():
    return FIELD.model.diffusion_model.given


def test_areas_and_masks_of_the_conditioning_are_made_smaller():
    mask = torch.zeros(1, *FULL)
    mask[:, 8:40, 16:56] = 1
    for extra in (
        {"area": (32, 40, 16, 8), "strength": 1.0},
        {"area": ("percentage", 0.5, 0.5, 0.25, 0.25), "strength": 1.0},
        {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": False},
    ):
        positive = [[TEXT, {}], [-TEXT, extra]]
        truth = run(positive=positive)
        model, _ = behind()
        assert decibels(run(model, positive=positive), truth) > 25, extra


def test_the_networks_time_and_the_runs_are_of_one_size():
    model, _ = behind()
    run(model)
    for (t, _), g in zip(SEEN, given(), strict=True):
        sigmas = g["options"]["sample_sigmas"]
        assert float((sigmas - t).abs().min()) < 1e-6
    assert SEEN[20][0] < 0.6 <= float(GRID[20])  # 0.6 of the full size is less on a small one


def test_keyframes_of_hooks_switch_at_the_same_calls(monkeypatch):
    def strengths(model):
        hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
        frames = comfy.hooks.HookKeyframeGroup()
        for strength, start in ((1.0, 0.0), (0.5, 0.3), (0.1, 0.6)):
            frames.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
        hooks.set_keyframes_on_hooks(frames)
        seen = []

        def noting(group, curr_t, transformer_options):
            changed = prepare(group, curr_t=curr_t, transformer_options=transformer_options)
            seen.append(group.strength)
            return changed

        monkeypatch.setattr(comfy.hooks.HookKeyframeGroup, "prepare_current_keyframe", noting)
        run(model, positive=[[TEXT, {"hooks": hooks}]])
        return seen

    prepare = comfy.hooks.HookKeyframeGroup.prepare_current_keyframe

    full = strengths(FIELD)
    for settings in ({}, {"keep_layout": True}):
        assert strengths(behind(**settings)[0]) == full
    assert len(set(full)) == 3


class Control:
    """As much of a ControlNet as the host's sampling asks for."""

    def __init__(self):
        self.timestep_range, self.on, self.previous_controlnet = None, [], None
        self.multigpu_clones, self.extra_hooks = {}, None

    def pre_run(self, model, percent_to_timestep):
        self.timestep_range = (percent_to_timestep(0.1), percent_to_timestep(0.5))

    def get_control(self, x, t, cond, batched_number, transformer_options):
        first, last = (float(s) for s in self.timestep_range)
        self.on.append(last <= float(t[0]) <= first)

    def get_models(self):
        return []

    def get_models_only_self(self):
        return []

    def cleanup(self):
        pass

    def inference_memory_requirements(self, dtype):
        return 0

    def get_extra_hooks(self):
        return []


def test_a_controlnet_is_on_at_the_same_calls():
    def on(model):
        control = Control()
        run(model, positive=[[TEXT, {"control": control}]])
        return control.on

    full = on(FIELD)
    for settings in ({}, {"keep_layout": True}):
        assert on(behind(**settings)[0]) == full
    assert True in full and False in full


def left_alone(reason, **options):
    model, reports = behind()
    made = run(model, **options)
    assert reports[0].startswith("at full size throughout: ") and reason in reports[0], reports
    assert torch.equal(made, run(**options)) and set(sizes()) == {FULL}


def test_pictures_of_reference_are_left_alone_unless_asked_for():
    reference = torch.randn(1, 4, 40, 24)
    positive = [[TEXT, {"reference_latents": [reference]}]]
    left_alone("edits a picture", positive=positive)
    model, _ = behind(edit_models=True)
    run(model, positive=positive)
    assert (32, 32) in sizes()


def test_what_is_made_for_one_size_is_left_alone():
    boxes = {"positive": [{"gligen": ("position", object(), [])}]}
    assert "GLIGEN" in conditions.unfit(boxes, FULL, references=False)
    frames = torch.zeros(1, 8, *FULL)
    left_alone("has vace_frames", positive=[[TEXT, {"vace_frames": [frames]}]])


def test_a_step_cache_is_left_alone():
    model = FIELD.clone()
    model.add_wrapper_with_key("predict_noise", "easycache", lambda executor, *a: executor(*a))
    model, reports = behind(model)
    run(model)
    assert "easycache keeps what the network computed" in reports[0] and set(sizes()) == {FULL}


def test_a_network_of_one_size_is_found_out_and_left_alone():
    model, reports = behind(MODEL)
    made = sample_sit(comfy.samplers.sampler_object("euler"), GRID, model=model)
    assert "the model does not run at" in reports[0] and SIT_SHAPE[-2:] == (16, 16)
    assert torch.equal(made, sample_sit(comfy.samplers.sampler_object("euler"), GRID))


def test_the_first_of_two_experts_has_no_end_of_its_own():
    model, _ = behind()
    run(model, grid=GRID[:16])
    assert set(sizes()) == {(32, 32)}


def test_the_conditions_that_were_given_stay():
    latent = torch.randn(1, 4, *FULL)
    extra = {"concat_latent_image": latent.clone(), "area": (32, 40, 16, 8)}
    model, _ = behind()
    run(model, positive=[[TEXT, extra]])
    assert torch.equal(extra["concat_latent_image"], latent) and extra["area"] == (32, 40, 16, 8)
    assert (16, 20) in sizes()


def test_the_model_given_is_left_as_it_is():
    behind()
    run()
    assert set(sizes()) == {FULL}
