# ruff: noqa: TID251, E402
"""The host, and models in it to compare samplers on; for ``host_methods.py``."""

import logging
import os
import sys
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1])
sys.path[0] = os.getcwd()  # the host's names first
sys.path.append(str(ROOT))

import comfy.options  # before the arguments, as the host's main does
from comfy.cli_args import args

args.cpu = True
logging.disable(logging.CRITICAL)

import asyncio

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import folder_paths
import torch

import nodes
from benchmarks import flows
from benchmarks.sampler_methods import FAMILIES

torch.set_num_threads(1)
STEPS, SEED = 30, 7
assert asyncio.run(nodes.load_custom_node(str(ROOT)))
PACK = str(ROOT).replace(".", "_x_")
flow = import_module(".nodes.host.flow", PACK)
sit_model = import_module(".nodes.host.sit_model", PACK)
plans = import_module(".nodes.samplers.plan", PACK)
planned_samplers = import_module(".nodes.samplers.planned", PACK)
paper_sampler = import_module(".nodes.samplers.paper", PACK)
calibrate = import_module(".nodes.calibrate", PACK)
latent = import_module(".sv_core.latent", PACK)
sit = import_module(".sv_core.models.sit", PACK)
schedules = import_module(".sv_core.schedules", PACK)


class Seam(torch.nn.Module):
    """A network behind the host's seam for wrappers, where EasyCache sits; counts its calls."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.calls = network, 0
        self.config, self.pos_embed = network.config, network.pos_embed

    def forward(self, x, timestep, transformer_options=None, y=None, **options):
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        wrappers = comfy.patcher_extension.get_all_wrappers(kind, transformer_options or {})
        run = comfy.patcher_extension.WrapperExecutor.new_class_executor(self.call, self, wrappers)
        # EasyCache writes into x. A half-precision model gets a copy, one in float32 does not.
        return run.execute(x.clone(), timestep, y=y, transformer_options=transformer_options)

    def call(self, x, timestep, y=None, transformer_options=None):
        self.calls += 1
        return self.network(x, timestep, y=y)


class Exact(torch.nn.Module):
    """A flow of benchmarks/flows.py as a network on (b, c, h, w)."""

    def __init__(self, flow: flows.Flow, config: Any):
        super().__init__()
        self.flow, self.config, self.blocks = flow, config, []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep, y=None):
        v = self.flow.velocity(x.flatten(1).double(), timestep[0].double())
        return v.reshape(x.shape).to(x)


class Bed:
    """One host model, its noise and its conditioning; on the host's ``simple`` grid at shift 3."""

    rule = "flow_match"
    easy_cache = (0.05, 0.15, 0.3), 30
    """Where EasyCache may start, and how many thresholds are tried for each."""

    def __init__(self, name: str, patcher: Any, shape: tuple, cfg: float, classes: list[int]):
        self.name, self.patcher, self.shape, self.cfg = name, patcher, shape, cfg
        self.network = patcher.model.diffusion_model
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        self.conds = [sit_model.conditioning_from_classes(c) for c in (classes, None)]
        self.native = self.grid(STEPS)
        self.base, _ = self.run(comfy.samplers.sampler_object("euler"), self.native)
        ode = planned_samplers.PlannedSampler(plans.Plan("ode", calls=400))
        self.truth, _ = self.run(ode, self.grid(400))

    def grid(self, steps: int) -> torch.Tensor:
        return flow.host_grid(self.patcher, "simple", steps, 1.0)

    def on(self, family: str) -> "Bed":
        """The same model and noise on a family's own schedule; ``truth`` is the same."""
        bed = copy(self)
        grid, bed.rule = FAMILIES[family]
        bed.grid, bed.easy_cache = (lambda steps: grid(steps).float()), ((0.15,), 10)
        bed.native = bed.grid(STEPS)
        bed.base, _ = bed.run(comfy.samplers.sampler_object("euler"), bed.native)
        return bed

    def run(self, sampler: Any, sigmas: torch.Tensor, patcher: Any = None, seed: int = SEED):
        """(samples, calls of the network)."""
        self.network.calls = 0
        noise = self.noise
        if seed != SEED:
            noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
        samples = comfy.sample.sample_custom(
            patcher or self.patcher, noise, self.cfg, sampler, sigmas.clone(), *self.conds,
            torch.zeros(self.shape), disable_pbar=True, seed=seed,
        )  # fmt: skip
        return samples, self.network.calls

    def decibels(self, x: torch.Tensor, target: torch.Tensor) -> float:
        mse = (x - target).double().square().flatten(1).mean(1) / self.base.double().var()
        return float((-10 * (mse + 1e-10).log10()).mean())


def flow_bed(index: int, channels: int, batch: int) -> Bed:
    flow = flows.build(index)
    config = sit.SiTConfig(input_size=32, num_classes=3, in_channels=channels)
    spec = latent.LatentSpec("sd", channels, scale=1.0, shift=0.0, downscale=8)
    model = sit_model.SiTModel(Exact(flow, config), spec, 3.0)
    model.diffusion_model = Seam(model.diffusion_model)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, cpu, cpu)
    return Bed(flow.name, patcher, (batch, channels, 32, 32), 1.0, [0])


def digits_bed(checkpoint: Path) -> Bed:
    folder_paths.add_model_folder_path("diffusion_models", str(checkpoint.parent))
    patcher = sit_model.load_sit(checkpoint.name, 3.0, None)
    network = patcher.model.diffusion_model
    patcher.model.diffusion_model = Seam(network)
    config = network.config
    shape = (50, config.in_channels, config.input_size, config.input_size)
    return Bed("digits SiT, cfg 2", patcher, shape, 2.0, list(range(10)) * 5)
