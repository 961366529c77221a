"""Runs of the tiny models of ``flow_families``, and how often each asks its network."""

import comfy.sample
import comfy.samplers
import torch

from tests.nodes import flow_families


class FamilyRun:
    """A tiny model of one of the host's classes, and samples of it from one noise."""

    def __init__(self, host: str, steps: int, seed: int = 0):
        self.tiny, self.model = flow_families.FAMILIES[host], flow_families.build(host, seed)
        self.calls = 0
        self.model.model.diffusion_model.register_forward_hook(self._count)
        self.latent = flow_families.latent(self.tiny)
        self.noise = comfy.sample.prepare_noise(self.latent, 1)
        self.model_sampling = self.model.get_model_object("model_sampling")
        self.sigmas = self.grid(steps)

    def _count(self, *args):
        self.calls += 1

    def grid(self, steps):
        return comfy.samplers.calculate_sigmas(self.model_sampling, "simple", steps)

    def sample(self, sampler="euler", model=None, sigmas=None, cfg=2.0, callback=None):
        """(the parts of the samples, calls of the network)."""
        self.calls = 0
        torch.manual_seed(0)  # ACE-Step's network drops out in ComfyUI 0.3.64, as in training
        if isinstance(sampler, str):
            sampler = comfy.samplers.sampler_object(sampler)
        conds = [flow_families.conditioning(self.tiny, seed) for seed in (1, 2)]
        sigmas = self.sigmas if sigmas is None else sigmas
        with torch.inference_mode():
            x = comfy.sample.sample_custom(
                model or self.model, self.noise, cfg, sampler, sigmas.clone(), *conds, self.latent,
                callback=callback, disable_pbar=True, seed=1,
            )  # fmt: skip
        return (x.unbind() if getattr(x, "is_nested", False) else [x]), self.calls
