"""A model with modes to decide, and runs on it."""

import logging
import math
from functools import cache, partial
from importlib import import_module

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch

import nodes
from tests.nodes.loaded_pack import (
    GRID,
    NAME,
    SHAPE,
    flow,
    latent,
    sample,
    sit,
    sit_model,
)

plan = import_module(".nodes.samplers.plan", NAME)
planned_samplers = import_module(".nodes.samplers.planned", NAME)
calibrate = import_module(".nodes.calibrate", NAME)
calibration_file = import_module(".nodes.calibration_file", NAME)
recording = import_module(".nodes.samplers.recording", NAME)
call_rules = import_module(".sv_core.call_rules", NAME)
Recorder = import_module(".sv_core.calibration", NAME).Recorder
Plan, Planned = plan.Plan, planned_samplers.PlannedSampler
Sampler = nodes.NODE_CLASS_MAPPINGS["StableVSSampler"]
EULER = comfy.samplers.sampler_object("euler")
FIXED = comfy.samplers.KSAMPLER(planned_samplers.sample_fixed)


class Digits(torch.nn.Module):
    """The exact flow of 40 points in every sample's plane of four numbers: modes to decide."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.blocks = sit.SiTConfig(input_size=16, num_classes=3), []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))
        self.means = torch.randn(40, 4, generator=generator)
        self.seen = []

    def forward(self, x, t, **options):
        self.seen.append(float(t[0]))
        t = t.view(-1, *[1] * (x.ndim - 1))
        shape, points = x.shape, x.movedim(1, -1)
        points, t = points.reshape(-1, 4), t.expand(x.shape[0], 1, *x.shape[2:]).reshape(-1, 1)
        a, s2 = 1 - t, ((1 - t) * 0.3) ** 2 + t**2
        w = ((a * points @ self.means.T - 0.5 * a**2 * self.means.square().sum(1)) / s2).softmax(1)
        mean = w @ self.means
        v = (t - a * 0.09) / s2 * (points - a * mean) - mean
        return v.reshape(shape[0], *shape[2:], 4).movedim(-1, 1)


def make_modes(seed=0):
    model = sit_model.SiTModel(Digits(seed), latent.SD_VAE, 3.0)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


MODES = make_modes()
SEEN = MODES.model.diffusion_model.seen
run = partial(sample, model=MODES)


def grid_of(steps, denoise=1.0):
    return flow.host_grid(MODES, "simple", steps, denoise)


def planned(**settings):
    return Planned(Plan(**settings))


def decibels(x, reference):
    error = float((x - reference).square().mean().sqrt() / reference.std())
    return -20 * math.log10(max(error, 1e-10))


def noted(**settings):
    """A run's samples and what it noted."""
    notes = []
    x = run(planned(note=notes.append, **settings), GRID)
    return x, notes


def conditions():
    return [sit_model.conditioning_from_classes(c) for c in ([0], None)]


class Log(logging.Handler):
    """What is logged while the block runs."""

    def __enter__(self):
        self.lines = []
        logging.disable(logging.NOTSET)
        self.level_before = logging.getLogger().level
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(self)
        return self

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __exit__(self, *error):
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self.level_before)
        logging.disable(logging.WARNING)


BATCH = {"samples": torch.zeros(1, *SHAPE[1:])}


@cache
def recorded(grid=GRID, model=MODES, runs=2, calls=8):
    guider = calibrate.make_guider(None, model, *conditions(), 1.0)
    return calibrate.calibrate(guider, BATCH, grid, runs, 5, calls)
