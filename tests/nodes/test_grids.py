"""The families' presets: the paper's grids, the model's own family and shift."""

import math
from importlib import import_module

import comfy.model_base
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler

from tests.nodes.loaded_pack import (
    MODEL,
    NAME,
    Scheduler,
    make_model,
)

pytestmark = pytest.mark.inside

grids = import_module(".nodes.grids", NAME)


def of_class(name, shift=3.0):
    """The exact flow, but of one of the host's own model classes."""
    model = make_model(shift)
    model.model.__class__ = type(name, (type(model.model), getattr(comfy.model_base, name)), {})
    return model


def patched(model, shift):
    model = model.clone()
    model.add_object_patch("model_sampling", make_model(shift).get_model_object("model_sampling"))
    return model


def test_presets_are_the_papers():
    for preset, shift, scheduler, rule, calls in (
        ("Flux", math.exp(1.15), "simple", "flow_match", 20),
        ("SD3.5", 3.0, "normal", "flow_match", 20),
        ("Wan2.2 14B", 3.0, "simple", "unipc", 20),
        ("Wan2.2 14B", 5.0, "simple", "unipc", 24),
        ("Wan2.2 5B", 8.0, "simple", "unipc", 27),
    ):
        model = make_model(shift)
        ours = Scheduler.execute(model, preset=preset).args
        manual = Scheduler.execute(model, scheduler, 30, 1.0, 0.85, 9, rule).args
        assert torch.equal(ours[0], manual[0]) and ours[3] == calls, (preset, ours[3])
        assert f"preset {preset}: scheduler {scheduler}, 30 steps" in ours[4], ours[4]
        native = BasicScheduler().get_sigmas(model, scheduler, 30, 1.0)[0]
        assert torch.equal(ours[7], native)


def test_qwen_preset_is_the_papers_own_grid_at_any_size():
    calls = {}
    for side, latent in ((1024, None), (1024, 128), (1328, 166), (512, 64)):
        latent = latent and {"samples": torch.zeros(1, 16, latent, latent)}
        out = Scheduler.execute(make_model(1.15), preset="Qwen-Image", latent=latent).args
        assert "Qwen-Image's own grid" in out[4] and out[0][0] == 1
        assert abs(float(out[7][-2]) - 0.02) < 1e-6 and len(out[7]) == 31
        calls.setdefault(side, []).append(out[3])
        video = latent and {"samples": latent["samples"][:, :, None]}
        assert torch.equal(
            Scheduler.execute(MODEL, preset="Qwen-Image", latent=video).args[0], out[0]
        )
    assert calls == {1024: [17, 17], 1328: [18], 512: [16]}, calls
    nearby = Scheduler.execute(MODEL, preset="Qwen-Image", denoise=0.5).args
    assert len(nearby[7]) == 31 and nearby[0][0] < 0.8
    assert not len(Scheduler.execute(MODEL, preset="Qwen-Image", denoise=0.0).args[0])


def test_auto_reads_the_family_from_the_model():
    for name, preset in (
        ("Flux", "Flux"), ("SD3", "SD3.5"), ("QwenImage", "Qwen-Image"),
        ("WAN21", "Wan2.2 14B"), ("WAN22", "Wan2.2 5B"),
    ):  # fmt: skip
        model = of_class(name)
        auto, named = (Scheduler.execute(model, preset=p).args for p in ("auto", preset))
        assert torch.equal(auto[0], named[0]), name
        assert f"preset auto, {preset}: " in auto[4], auto[4]
    other = Scheduler.execute(MODEL, preset="auto").args
    assert "a model outside the paper: scheduler simple" in other[4] and other[3] == 20
    if hasattr(comfy.model_base, "Flux2"):
        flux2 = Scheduler.execute(of_class("Flux2"), preset="auto").args
        assert "outside the paper" in flux2[4]


def test_auto_follows_the_shift_of_a_node():
    qwen = patched(of_class("QwenImage", 1.15), 3.1)
    auto = Scheduler.execute(qwen, preset="auto").args
    manual = Scheduler.execute(qwen, "simple", 30, 1.0, 0.85, 9, "flow_match").args
    assert torch.equal(auto[0], manual[0]) and "with the shift of its node" in auto[4]
    for name, calls in (("Flux", 24), ("SD3", 23), ("WAN21", 24)):
        shifted = Scheduler.execute(patched(of_class(name), 5.0), preset="auto").args
        assert shifted[3] == calls, (name, shifted[4])


def test_presets_never_raise_and_say_what_they_kept():
    for shift in (12.0, 20.0, 40.0, 1000.0):
        for preset in ("auto", "Flux", "SD3.5", "Wan2.2"):
            out = Scheduler.execute(make_model(shift), preset=preset).args
            if (shift, preset) == (12.0, "SD3.5"):  # normal has one step more below the split
                assert out[3] == 29 and "1 saved" in out[4]
                continue
            assert out[3] == 30 and "nothing is saved" in out[4], out[4]
            low = len(out[2]) - 1
            assert low in (9, 0) or f"only {low} steps lie below" in out[4], out[4]
    for denoise in (0.01, 0.1, 0.5, 0.99):
        for preset in ("auto", "Flux", "SD3.5", "Wan2.2", "Qwen-Image"):
            out = Scheduler.execute(MODEL, preset=preset, denoise=denoise, boundary=0.9).args
            assert out[0][-1] == 0 and (out[0].diff() < 0).all()


def test_a_family_outside_the_paper_has_its_official_workflow_s_grid():
    chroma = grids.setting_of("Chroma")[1]
    assert (chroma.scheduler, chroma.steps, chroma.thinning.low_steps) == ("beta", 26, 8)
    names = grids.preset_names()
    assert names[:5] == ["Flux", "SD3.5", "Qwen-Image", "Wan2.2 14B", "Wan2.2 5B"]
    assert {"Z-Image", "Anima", "HiDream-I1"} < set(names)
    # Grids of nodes of their own, and runs too short to thin.
    assert not {"Flux.2", "LTX-2", "Krea", "Cosmos-Predict2"} & set(names)
