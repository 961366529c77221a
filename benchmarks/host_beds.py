# ruff: noqa: TID251, E402
"""The host, and models in it to compare samplers on; for ``host_methods.py``."""

import logging
import os
import sys
import time
from copy import copy
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

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
    """A network behind the host's seam for wrappers, where EasyCache sits; counts its evaluations.

    The host's own SD3.5 has no such seam: without this one EasyCache leaves it as it is.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network
        self.begin()

    def begin(self) -> None:
        self.calls, self.uncond, self.seconds = 0, 0, 0.0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)

    def forward(self, x, timestep, *args, transformer_options=None, **options):
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        transformer_options = transformer_options or {}
        wrappers = comfy.patcher_extension.get_all_wrappers(kind, transformer_options)
        run = comfy.patcher_extension.WrapperExecutor.new_class_executor(self.call, self, wrappers)
        options["transformer_options"] = transformer_options
        # EasyCache writes into x. A half-precision model gets a copy, one in float32 does not.
        return run.execute(x.clone(), timestep, *args, **options)

    def call(self, x, timestep, *args, transformer_options=None, **options):
        """cond and uncond are two evaluations, in one batch or one after the other."""
        kinds = (transformer_options or {}).get("cond_or_uncond", [0])
        self.calls += kinds.count(0)
        self.uncond += kinds.count(1)
        began = time.perf_counter()
        answer = self.network(
            x, timestep, *args, transformer_options=transformer_options, **options
        )
        self.seconds += time.perf_counter() - began
        return answer


class Exact(torch.nn.Module):
    """A flow of benchmarks/flows.py as a network on (b, c, h, w)."""

    def __init__(self, flow: flows.Flow, config: Any):
        super().__init__()
        self.flow, self.config, self.blocks = flow, config, []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep, y=None, transformer_options=None):
        v = self.flow.velocity(x.flatten(1).double(), timestep[0].double())
        return v.reshape(x.shape).to(x)


class Spent(NamedTuple):
    """What a run has cost."""

    calls: int
    uncond: int
    """Evaluations without the prompt, beside as many with it as calls."""
    seconds: float
    model_seconds: float


class Bed:
    """One host model, its noise and its conditioning; on the host's ``simple`` grid."""

    rule = "flow_match"
    easy_cache = (0.05, 0.15, 0.3), 30
    """Where EasyCache may start, and how many thresholds are tried for each."""

    def __init__(
        self, name: str, patcher: Any, shape: tuple, cfg: float, conds: list, steps: int = STEPS,
        noise: torch.Tensor | None = None,
    ):  # fmt: skip
        """conds: positive and negative, each as the host's CONDITIONING."""
        self.name, self.patcher, self.shape, self.cfg = name, patcher, shape, cfg
        self.network = patcher.model.diffusion_model
        self.noise = self.drawn(SEED) if noise is None else noise
        self.conds, self.steps = conds, steps
        self.spent = Spent(0, 0, 0.0, 0.0)
        self.others = conds  # what a calibration runs on
        self.native = self.grid(steps)
        self.base, _ = self.run(comfy.samplers.sampler_object("euler"), self.native)

    def drawn(self, seed: int) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))

    @cached_property
    def truth(self) -> torch.Tensor:
        """The converged solution, whatever the number of steps."""
        ode = planned_samplers.PlannedSampler(plans.Plan("ode", calls=400))
        return self.run(ode, self.grid(400))[0]

    def grid(self, steps: int) -> torch.Tensor:
        return flow.host_grid(self.patcher, "simple", steps, 1.0)

    def on(self, family: str) -> "Bed":
        """The same model and noise on a family's own schedule; ``truth`` is the same."""
        self.truth  # noqa: B018  measured once, for all of them
        bed = copy(self)
        grid, bed.rule = FAMILIES[family]
        bed.grid, bed.easy_cache = (lambda steps: grid(steps).float()), ((0.15,), 10)
        bed.native = bed.grid(STEPS)
        bed.base, _ = bed.run(comfy.samplers.sampler_object("euler"), bed.native)
        return bed

    def run(self, sampler: Any, sigmas: torch.Tensor, patcher: Any = None, seed: int = SEED):
        """(samples, calls of the network)."""
        self.network.begin()
        noise = self.noise if seed == SEED else self.drawn(seed)
        began = time.perf_counter()
        samples = comfy.sample.sample_custom(
            patcher or self.patcher, noise, self.cfg, sampler, sigmas.clone(), *self.conds,
            torch.zeros(self.shape), disable_pbar=True, seed=seed,
        )  # fmt: skip
        network = self.network
        seconds = time.perf_counter() - began
        self.spent = Spent(network.calls, network.uncond, seconds, network.seconds)
        return samples, self.network.calls

    def decibels(self, x: torch.Tensor, target: torch.Tensor) -> float:
        mse = (x - target).double().square().flatten(1).mean(1) / self.base.double().var()
        return float((-10 * (mse + 1e-10).log10()).mean())


def of_classes(classes: list[int]) -> list:
    return [sit_model.conditioning_from_classes(c) for c in (classes, None)]


def flow_bed(index: int, channels: int, batch: int) -> Bed:
    flow = flows.build(index)
    config = sit.SiTConfig(input_size=32, num_classes=3, in_channels=channels)
    spec = latent.LatentSpec("sd", channels, scale=1.0, shift=0.0, downscale=8)
    model = sit_model.SiTModel(Exact(flow, config), spec, 3.0)
    model.diffusion_model = Seam(model.diffusion_model)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, cpu, cpu)
    return Bed(flow.name, patcher, (batch, channels, 32, 32), 1.0, of_classes([0]))


def digits_bed(checkpoint: Path) -> Bed:
    folder_paths.add_model_folder_path("diffusion_models", str(checkpoint.parent))
    patcher = sit_model.load_sit(checkpoint.name, 3.0, None)
    network = patcher.model.diffusion_model
    patcher.model.diffusion_model = Seam(network)
    config = network.config
    shape = (50, config.in_channels, config.input_size, config.input_size)
    return Bed("digits SiT, cfg 2", patcher, shape, 2.0, of_classes(list(range(10)) * 5))
