"""Models that know average velocities: a SiT of ours, and ComfyUI's families, tiny."""

from importlib import import_module

import comfy.model_detection
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.flux.model import FluxParams
from comfy_extras.nodes_custom_sampler import BasicScheduler

import nodes
from tests.host import tiny
from tests.nodes.loaded_pack import NAME, latent, sit, sit_model

average_velocity = import_module(".nodes.host.average_velocity", NAME)
jump_sampler = import_module(".nodes.samplers.jumps", NAME)
interval = import_module(".sv_core.models.interval", NAME)
core = import_module(".sv_core.meanflow", NAME)
Sampler, Loader = (nodes.NODE_CLASS_MAPPINGS[f"MeanFlow{n}"] for n in ("Sampler", "Loader"))
EULER = comfy.samplers.sampler_object("euler")
CONFIG = sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5, interval=True)
CPU = torch.device("cpu")
SHAPE = (4, 3, 8, 8)
CLASSES = torch.arange(4)


def stirred(module, seed=0, std=0.15):
    """All weights random, so that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(std * torch.randn(p.shape, generator=generator))
    return module.eval()


def patched(net):
    return comfy.model_patcher.ModelPatcher(
        sit_model.SiTModel(net, latent.pixels(3), 3.0), CPU, CPU
    )


NET = stirred(sit.SiT(CONFIG))
TWIN = stirred(sit.SiT(CONFIG))  # of the same weights, which the host has never seen
TWIN.load_state_dict(NET.state_dict())


MEANFLOW = patched(NET)
GRID = BasicScheduler().get_sigmas(MEANFLOW, "simple", 30, 1.0)[0]


def jumps(calls):
    return Sampler.execute(calls).args[0]


def sample(sampler, sigmas=GRID, model=MEANFLOW, cfg=1.0, image=None, **options):
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive = sit_model.conditioning_from_classes(CLASSES.tolist())
    negative = sit_model.conditioning_from_classes(None)
    image = torch.full(SHAPE, 0.5) if image is None else image  # 0 to the network
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, image,
        disable_pbar=True, seed=1, **options,
    )  # fmt: skip


def the_core_s(sigmas, x=None, cfg=1.0):
    """The same samples from the mathematics alone."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) if x is None else x

    def u(x, r, t):
        r, t = r.expand(len(x)), t.expand(len(x))
        null = torch.full((len(x),), CONFIG.num_classes)
        cond = TWIN(x, t, CLASSES, r)
        return cond if cfg == 1 else TWIN(x, t, null, r) * (1 - cfg) + cond * cfg

    with torch.no_grad():
        return latent.pixels(3).from_model(core.sample_meanflow(u, x, sigmas))


def near(a, b, tolerance=1e-5):
    worst = (a - b).abs().max() / b.abs().max()
    assert a.shape == b.shape and b.std() > 0.1 and worst < tolerance, f"{worst:.1e}"


WIDTHS = {"SD3.5": (4096, 2048), "Flux": (4096, 768), "Qwen-Image": (3584, 768)}
LATENTS = {
    "SD3.5": (2, 16, 8, 8),
    "Flux": (2, 16, 8, 8),
    "Qwen-Image": (2, 16, 1, 8, 8),
    "Wan2.2": (2, 16, 2, 8, 8),
    "Wan2.2 5B": (2, 48, 2, 8, 8),
}


def family_model(config):
    """The host's own class with random weights, a MODEL."""
    if config is tiny.FLUX and "txt_ids_dims" in FluxParams.__dataclass_fields__:
        config = config | {"txt_ids_dims": []}
    made = comfy.model_detection.model_config_from_unet_config(dict(config), {})
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device=CPU)
    with torch.no_grad():
        for name, p in model.diffusion_model.named_parameters():
            p.copy_(tiny.fill(name, p, 0, 0.6))
    return comfy.model_patcher.ModelPatcher(model.eval(), CPU, CPU)


FAMILIES = {
    "SD3.5": family_model(tiny.SD35),
    "Flux": family_model(tiny.FLUX),
    "Qwen-Image": family_model(tiny.QWEN),
    "Wan2.2": family_model(tiny.WAN_14B),
    "Wan2.2 5B": family_model(tiny.WAN_5B),
}


def family_of(name):
    return name.removesuffix(" 5B")


def time_part(name):
    network = FAMILIES[name].model.diffusion_model
    return interval.time_embedding(network, family_of(name))


def embedder_for(name, seed=None):
    module = interval.IntervalEmbedder(interval.width(time_part(name)), 32)
    return module.eval() if seed is None else stirred(module, seed, 0.3)


def sample_family(name, sampler, model=None, cfg=1.0, steps=4, **options):
    generator = torch.Generator().manual_seed(3)
    width, pooled = WIDTHS.get(name, (4096, 768))
    conds = [
        [[torch.randn(1, 6, width, generator=generator),
          {"pooled_output": torch.randn(1, pooled, generator=generator)}]]
        for _ in range(2)
    ]  # fmt: skip
    model = model or FAMILIES[name]
    noise = torch.randn(LATENTS[name], generator=generator)
    sigmas = BasicScheduler().get_sigmas(model, "simple", steps, 1.0)[0]
    image = options.pop("image", torch.zeros(LATENTS[name]))
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, *conds, image, disable_pbar=True, seed=1, **options
    )
