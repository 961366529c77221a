"""Fewer Calls behind every flow model that ComfyUI knows, each tiny, of the host's own classes."""

import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch

from tests.nodes import flow_families
from tests.nodes.fewer_calls_runs import behind, sampler
from tests.nodes.flow_families import FAMILIES
from tests.nodes.loaded_pack import flow

pytestmark = pytest.mark.inside

STEPS = 10
KNOWN = [name for name in FAMILIES if hasattr(comfy.supported_models, name)]
NO_NOISE = {"RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"}
"""Classes of the host that look at pictures and are never sampled."""


class Run:
    """A tiny model, and samples of it with and without the node."""

    def __init__(self, name, seed=0):
        self.tiny, self.model = FAMILIES[name], flow_families.build(name, seed)
        self.calls = 0
        self.model.model.diffusion_model.register_forward_hook(self._count)
        self.latent = flow_families.latent(self.tiny)
        self.noise = comfy.sample.prepare_noise(self.latent, 1)
        self.sigmas = comfy.samplers.calculate_sigmas(
            self.model.get_model_object("model_sampling"), "simple", STEPS
        )

    def _count(self, *args):
        self.calls += 1

    def sample(self, model, name="euler"):
        """(the parts of the samples, calls of the network)."""
        self.calls = 0
        torch.manual_seed(0)  # ACE-Step's network drops out in ComfyUI 0.3.64, as in training
        conds = [flow_families.conditioning(self.tiny, seed) for seed in (1, 2)]
        with torch.inference_mode():
            x = comfy.sample.sample_custom(
                model, self.noise, 2.0, sampler(name), self.sigmas.clone(), *conds, self.latent,
                disable_pbar=True, seed=1,
            )  # fmt: skip
        return (x.unbind() if getattr(x, "is_nested", False) else [x]), self.calls


@pytest.fixture(params=KNOWN)
def run(request):
    return Run(request.param)


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
    base, own = run.sample(run.model)
    assert own == STEPS
    for share, calls in ((1.0, STEPS), (0.5, STEPS // 2)):
        model, reports = behind(model=run.model, share=share)
        made, asked = run.sample(model)
        assert asked == calls and f"{calls} of {STEPS} calls" in reports[0], (share, asked, reports)
        for ours, theirs in zip(made, base, strict=True):
            assert ours.shape == theirs.shape and ours.isfinite().all()
            assert torch.equal(ours, theirs) == (share == 1.0), share
