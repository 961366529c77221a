"""The pack as ComfyUI loads it, in this process, and a flow of exact velocity to try it on.

The flow's data is N(0, SPREAD^2). To be imported before anything of ComfyUI's.
"""

import asyncio
import logging
import sys
import time
from importlib import import_module

import comfy.options  # isort: skip  before the arguments, as ComfyUI's main does
from comfy.cli_args import args

from tests.host.server import PACK

args.cpu = True
logging.disable(logging.WARNING)

import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy_config.config_parser  # noqa: E402, F401  ComfyUI's share of loading the first pack
import torch  # noqa: E402

import nodes  # noqa: E402

torch.set_num_threads(1)
KNOWN_MODULES = set(sys.modules)
BEGAN = time.process_time()
assert asyncio.run(nodes.load_custom_node(str(PACK)))
LOADING = time.process_time() - BEGAN

NAME = str(PACK).replace(".", "_x_")
flow = import_module(".nodes.host.flow", NAME)
sit_model = import_module(".nodes.host.sit_model", NAME)
paper = import_module(".nodes.samplers.paper", NAME)
dropdowns = import_module(".nodes.dropdowns", NAME)
latent = import_module(".sv_core.latent", NAME)
sit = import_module(".sv_core.models.sit", NAME)
Scheduler = nodes.NODE_CLASS_MAPPINGS["RegimeSplitScheduler"]
SPREAD, SHAPE = 0.5, (24, 4, 16, 16)


class ExactFlow(torch.nn.Module):
    """v = (x - E[x0 | x]) / t for data N(0, SPREAD^2), in a SiT's place."""

    def __init__(self, config):
        super().__init__()
        self.config, self.blocks = config, []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, **options):
        t = t.view(-1, *[1] * (x.ndim - 1))
        data, noise = ((1 - t) * SPREAD) ** 2, t**2
        return (x - x * (1 - t) * SPREAD**2 / (data + noise)) / t


def make_model(shift=3.0):
    model = sit_model.SiTModel(
        ExactFlow(sit.SiTConfig(input_size=16, num_classes=3)), latent.SD_VAE, shift
    )
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


MODEL = make_model()
GRID = flow.host_grid(MODEL, "simple", 30, 1.0)


def stable(base="euler", split=0.85, noise=0.0):
    return flow.make_sampler(paper.sample_stable_vs, base, split=split, noise=noise)


def sample(sampler, sigmas, seed=1, shape=SHAPE, model=MODEL, callback=None, mask=None):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    return comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, positive, negative, torch.zeros(shape),
        callback=callback, disable_pbar=True, seed=seed, noise_mask=mask,
    )  # fmt: skip


def complaint(action):
    try:
        action()
    except ValueError as e:
        return str(e)
    raise AssertionError("nothing was refused")
