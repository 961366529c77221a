"""An interval reaches a model of ComfyUI and leaves no trace behind."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

from tests.nodes.interval_models import (
    FAMILIES,
    GRID,
    MEANFLOW,
    average_velocity,
    embedder_for,
    family_of,
    jump_sampler,
    jumps,
    near,
    patched,
    sample,
    sample_family,
    stirred,
    time_part,
)
from tests.nodes.loaded_pack import complaint, sit
from tests.nodes.moded_flow import EULER

pytestmark = pytest.mark.inside


def test_the_arguments_of_a_call_stay_the_caller_s():
    given = {"model_options": {"transformer_options": {"a": 1}, "b": 2}, "seed": 3}
    called = average_velocity.with_interval_end(given, torch.tensor(0.25))
    assert average_velocity.interval_end(called["model_options"]["transformer_options"]) == 0.25
    assert called["seed"] == 3 and called["model_options"]["b"] == 2
    assert given == {"model_options": {"transformer_options": {"a": 1}, "b": 2}, "seed": 3}
    assert average_velocity.interval_end(
        average_velocity.with_interval_end({}, 0.5)["model_options"]["transformer_options"]
    )


def test_other_models_are_refused_in_words():
    plain = patched(stirred(sit.SiT(sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5))))
    for model in (plain, FAMILIES["SD3.5"]):
        assert not average_velocity.has_average_velocity(model)
        words = complaint(lambda: average_velocity.require_average_velocity(model))  # noqa: B023
        assert "knows no average velocity" in words
    assert "knows no average velocity" in complaint(lambda: sample(jumps(1), model=plain))
    eps = ModelSamplingDiscrete().patch(MEANFLOW, "eps", False)[0]
    assert "needs a flow-matching model" in complaint(lambda: sample(jumps(1), model=eps))
    assert "descend" in complaint(lambda: sample(jumps(2), GRID.flip(0)))


def test_a_zero_embedder_changes_no_bit():
    for name in FAMILIES:
        model = average_velocity.attach(FAMILIES[name], embedder_for(name), family_of(name))
        for cfg in (1.0, 3.0):
            theirs = sample_family(name, EULER, cfg=cfg)
            assert theirs.std() > 0.05 and theirs.isfinite().all()
            assert torch.equal(sample_family(name, EULER, model, cfg), theirs), name
            near(sample_family(name, jumps(4), model, cfg), theirs, 1e-4)


def test_the_embedder_hears_t_minus_r_behind_the_time_embedding():
    for name in FAMILIES:
        embedder, heard = embedder_for(name, 1), []
        embedder.register_forward_pre_hook(lambda m, args, heard=heard: heard.append(args[0]))
        model = average_velocity.attach(FAMILIES[name], embedder, family_of(name))
        without = sample_family(name, jumps(4), average_velocity.attach(
            FAMILIES[name], embedder_for(name), family_of(name)))  # fmt: skip
        plain = sample_family(name, EULER, model)
        assert torch.equal(torch.cat(heard), torch.zeros(sum(map(len, heard)))), name
        heard.clear()
        made = sample_family(name, jumps(2), model, cfg=2.0)
        assert (made - without).abs().max() > 1e-3, name
        sigmas = jump_sampler.jump_sigmas(
            BasicScheduler().get_sigmas(model, "simple", 4, 1.0)[0], 2
        )
        intervals = (sigmas[:-1] - sigmas[1:]).tolist()
        rows = [float(r) for batch in heard for r in batch]
        assert len(rows) in (8, 16) and {round(r, 4) for r in rows} == {
            round(i, 4) for i in intervals
        }, (name, rows)  # fmt: skip
        assert torch.equal(sample_family(name, EULER, model), plain), "something stayed"
        assert not time_part(name)._forward_hooks, "a hook stayed"
        assert not FAMILIES[name].model.diffusion_model._forward_pre_hooks


def test_given_frames_of_wan_5b_have_no_interval():
    embedder, heard = embedder_for("Wan2.2 5B", 1), []
    embedder.register_forward_pre_hook(lambda m, args: heard.append(args[0]))
    model = average_velocity.attach(FAMILIES["Wan2.2 5B"], embedder, "Wan2.2")
    mask = torch.ones(1, 1, 2, 8, 8)
    mask[:, :, 0] = 0  # the first frame is an image
    sample_family("Wan2.2 5B", jumps(1), model, noise_mask=mask)
    rows = heard[0].reshape(-1, 2)
    assert (rows[:, 0] == 0).all() and (rows[:, 1] > 0.99).all(), rows


def test_clones_keep_the_embedder_and_the_original_has_none():
    model = average_velocity.attach(FAMILIES["SD3.5"], embedder_for("SD3.5", 1), "SD3.5")
    assert average_velocity.has_average_velocity(model.clone())
    assert not average_velocity.has_average_velocity(FAMILIES["SD3.5"])
    shifted = ModelSamplingSD3().patch(model, 1.0)[0]
    assert average_velocity.has_average_velocity(shifted)
    assert sample_family("SD3.5", jumps(1), shifted).isfinite().all()
    again = average_velocity.attach(model, embedder_for("SD3.5"), "SD3.5")  # in its place
    near(sample_family("SD3.5", EULER, again), sample_family("SD3.5", EULER), 1e-7)
    managed = again.get_nested_additional_models()
    assert len(managed) == 1 and managed[0].model_size() > 0
