"""A Gaussian field as a model of the host: exact at every size, with what a network might read."""

from importlib import import_module

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch

from tests.nodes.loaded_pack import NAME

progressive = import_module(".sv_core.progressive", NAME)
spectrum = import_module(".sv_core.spectrum", NAME)

FULL = (64, 64)
SHAPE = (1, 4, *FULL)


class Field(torch.nn.Module):
    """Flux's spectrum; text moves the mean of the picture, and ``seen`` lists the calls."""

    def __init__(self, full=FULL):
        super().__init__()
        self.full, self.seen, self.given = full, [], []
        self.weight, self.dtype = torch.nn.Parameter(torch.zeros(1)), torch.float32

    def forward(self, x, t, context=None, control=None, transformer_options=None, **given):
        size = (x.shape[-2], x.shape[-1])
        self.seen.append((round(float(t[0]), 6), size))
        self.given.append({"context": context, "options": transformer_options, **given})
        ratio = progressive.ratio_of(self.full, size)
        q = spectrum.fractions(size) / ratio
        q[0, 0] = 1 / 64
        power = spectrum.FLUX_SPECTRUM.power(q) / ratio**2
        weight = progressive.prior_weight(t[0].double(), power)
        mean = (
            0.0 if context is None else context.mean((1, 2)).double().view(-1, *[1] * (x.ndim - 1))
        )
        s = float(t[0])
        x0 = spectrum.inverse_cosine(weight * spectrum.cosine(x.double() - (1 - s) * mean)) + mean
        return ((x.double() - x0) / s).to(x)


class Config(comfy.supported_models_base.BASE):
    """As little of a configuration as the host's base class needs."""

    unet_config = {"disable_unet_model_creation": True}
    latent_format = comfy.latent_formats.LatentFormat
    sampling_settings = {"shift": 3.0, "multiplier": 1.0}
    memory_usage_factor = 1.0


def make_field(full=FULL):
    config = Config({"disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.FLOW)
    model.diffusion_model = Field(full)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, device, device)
