"""Fewer Calls behind every flow model that ComfyUI knows, each tiny, of the host's own classes."""

import math
from importlib import import_module

import comfy.model_base
import comfy.samplers
import comfy.supported_models
import pytest
import torch

from tests.nodes import flow_families
from tests.nodes.family_runs import FamilyRun
from tests.nodes.fewer_calls_runs import behind
from tests.nodes.flow_families import FAMILIES
from tests.nodes.loaded_pack import NAME, flow
from tests.nodes.moded_flow import decibels, planned

pytestmark = pytest.mark.inside

STEPS = 10
KNOWN = [name for name in FAMILIES if hasattr(comfy.supported_models, name)]
NO_NOISE = {"RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"}
"""Classes of the host that look at pictures and are never sampled."""


@pytest.fixture(params=KNOWN)
def run(request):
    return FamilyRun(request.param, STEPS)


def test_every_flow_model_of_the_host_is_in_the_table():
    flows = {
        kind.__name__
        for kind in comfy.supported_models.models
        if sampling_type(kind) in ("FLOW", "FLUX", "FLOW_COSMOS")
    }
    assert flows - NO_NOISE == set(KNOWN)


def sampling_type(kind):
    """The name of the ModelType that a supported model's class in model_base has by default."""
    named = [getattr(comfy.model_base, n, None) for n in kind.get_model.__code__.co_names]
    base = comfy.model_base.BaseModel
    made = next((c for c in named if isinstance(c, type) and issubclass(c, base)), base)
    defaults = getattr(made.__init__, "__defaults__", None) or ()
    return next((d.name for d in defaults if isinstance(d, comfy.model_base.ModelType)), None)


def test_it_is_known_by_its_name_and_half_of_its_calls_are_made(run):
    family = flow.family(run.model)
    assert family is not None and family.name == run.tiny.name
    base, own = run.sample()
    assert own == STEPS
    for share, calls in ((1.0, STEPS), (0.5, STEPS // 2)):
        model, reports = behind(model=run.model, share=share)
        made, asked = run.sample(model=model)
        assert asked == calls and f"{calls} of {STEPS} calls" in reports[0], (share, asked, reports)
        for ours, theirs in zip(made, base, strict=True):
            assert ours.shape == theirs.shape and ours.isfinite().all()
            assert torch.equal(ours, theirs) == (share == 1.0), share


NESTED = [name for name in KNOWN if flow_families.is_nested(FAMILIES[name])]


@pytest.mark.parametrize("name", NESTED)
def test_latents_in_one_row_are_forecast_each_on_its_own(name):
    """Picture and sound: of every forecast, and of what decides about the next call."""
    run = FamilyRun(name, 20)
    sizes, rows = [], []

    def sample_watched(model, x, sigmas, extra_args=None, callback=None, disable=None):
        sizes.append(flow.parts_of(model))
        rows.append(x.shape)
        return x

    run.sample(comfy.samplers.KSAMPLER(sample_watched))
    assert sizes == [tuple(math.prod(shape) for shape in run.tiny.shape)]
    assert rows == [(1, 1, sum(sizes[0]))]
    base = run.sample()[0]
    for way in ("share", "adaptive"):
        model, reports = behind(way, model=run.model)
        made, calls = run.sample(model=model)
        assert calls == 10 if way == "share" else calls <= 20, reports
        near = [decibels(ours, theirs) for ours, theirs in zip(made, base, strict=True)]
        assert min(near) > 15, (way, near)
    made = run.sample(planned(mode="adaptive", tolerance=0.02, solver="euler"))[0]
    assert min(decibels(ours, theirs) for ours, theirs in zip(made, base, strict=True)) > 15


def test_a_small_latent_in_a_row_is_not_lost_beside_a_large_one():
    """The calls that a part needs are made, however few of the row's numbers it has."""
    sampling = import_module(".sv_core.sampling", NAME)
    ts = torch.linspace(1, 0, 21)

    def velocity(x, t):
        v = torch.full_like(x, 100.0)
        v[..., -4:] = torch.sin(9 * t)
        return v

    def calls(parts):
        seen = []
        sampling.sample_forecast(
            velocity, torch.zeros(1, 1, 4004), ts, tolerance=0.02, parts=parts,
            callback=lambda k, x, v, t: seen.append(k),
        )  # fmt: skip
        return len(seen)

    assert calls((4000, 4)) > calls(())
