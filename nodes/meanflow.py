"""Nodes of MeanFlow: from noise to a picture in one call, or a few."""

import logging
import os
from collections.abc import Callable
from typing import Any

import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor
from tqdm.auto import tqdm

from ..sv_core.errors import InvalidInput
from ..sv_core.meanflow import sample_meanflow
from ..sv_core.models.interval import from_file
from ..sv_core.schedules import uniform_grid
from . import averaging, host, host_model, models
from .forecast import require_grid

MOST = 8
"""Calls beyond which a plain sampler serves better."""
FOLDER = "loras"
"""Where an interval embedder lies: beside the LoRA that was trained with it."""


def jump_sigmas(sigmas: Tensor, calls: int) -> Tensor:
    """``calls`` equal jumps in noise level from the first of SIGMAS to the last.

    SIGMAS of just that many steps are taken as they are. On the digits equal jumps did better than
    grids that lean towards noise at 2 to 4 calls; at 8 both are alike.
    """
    if len(sigmas) - 1 in (0, calls):
        return sigmas
    grid = sigmas[-1] + (sigmas[0] - sigmas[-1]) * uniform_grid(calls).to(sigmas)
    grid[0] = sigmas[0]
    return grid


@torch.no_grad()
def sample_jumps(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """A sampler function of the host: one average velocity from each of ``sigmas`` to the next."""
    require_grid(sigmas)
    host.require_linear_flow(host.sampling_of(model))
    averaging.require_average_velocity(model.inner_model.model_patcher)
    extra_args, report = extra_args or {}, host.step_report(callback, 0)
    with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

        def average(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
            arguments = averaging.leading_to(extra_args, r)
            return host.velocity_from_denoiser(model, arguments)(x, t)

        def after_call(i: int, x: Tensor, u: Tensor, t: Tensor) -> None:
            report(i, x, u, t)
            bar.update()

        x = sample_meanflow(average, x, sigmas, callback=after_call)
    jumps = " ".join(f"{float(s):.3g}" for s in sigmas)
    logging.info("MeanFlow: %d calls at %s", len(sigmas) - 1, jumps)
    return x


class JumpSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that makes its own SIGMAS before it starts, so that the host's bar counts calls."""

    def __init__(self, calls: int):
        super().__init__(sample_jumps)
        self.calls = calls

    def sample(self, model_wrap: Any, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
        require_grid(sigmas)
        return super().sample(model_wrap, jump_sigmas(sigmas, self.calls), *args, **options)


class MeanFlowSampler(io.ComfyNode):
    """MeanFlow's sampler as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.known(
            io.Schema,
            node_id="MeanFlowSampler",
            display_name="MeanFlow Sampler",
            category=host.CATEGORY,
            description=(
                "A picture in one model call, or in a few, with a model that was trained for it "
                "with MeanFlow: a SiT of this pack's trainer, or a model behind MeanFlow Loader. "
                "Other models are refused."
            ),
            search_aliases=["stable velocity", "one step", "few steps", "average velocity"],
            inputs=[
                host.known(
                    io.Int.Input,
                    "calls",
                    default=1,
                    min=1,
                    max=MOST,
                    tooltip=(
                        "Model calls. 1 goes from the first of SIGMAS to the last at once; more "
                        "make equal jumps in noise level, or, if SIGMAS has just as many steps, "
                        "its own."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip=(
                        "Connect to SamplerCustom or SamplerCustomAdvanced, with the SIGMAS of any "
                        "scheduler. Guidance is usually trained in: cfg 1."
                    ),
                )
            ],
        )

    @classmethod
    def execute(cls, calls: int) -> io.NodeOutput:
        return io.NodeOutput(JumpSampler(calls))


class MeanFlowLoader(io.ComfyNode):
    """A host's MODEL with an interval embedder behind its embedding of time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.known(
            io.Schema,
            node_id="MeanFlowLoader",
            display_name="MeanFlow Loader",
            category=models.CATEGORY,
            description=(
                "Makes a Flux, SD3.5, Qwen-Image or Wan model that was trained with MeanFlow fit "
                "for MeanFlow Sampler: adds the small interval embedder that tells it how far a "
                "call leads. Other samplers still work."
            ),
            search_aliases=["stable velocity", "one step", "interval embedder", "few steps"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that was trained, with its LoRA if it was trained as one.",
                ),
                host.known(
                    io.Combo.Input,
                    "embedder",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip=(
                        "The .safetensors file of the interval embedder in models/loras, which the "
                        "trainer wrote beside the LoRA or the weights."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For MeanFlow Sampler, or for any other sampler.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, embedder: str | None = None) -> bool | str:
        """Says so before anything runs; what comes through a link is None here."""
        try:
            if embedder is not None:
                host_model.file_path(FOLDER, embedder)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def fingerprint_inputs(cls, embedder: str | None = None, **inputs: Any) -> int:
        """A file that was trained further is loaded again, though its name is the same."""
        path = embedder and folder_paths.get_full_path(FOLDER, embedder)
        return os.stat(path).st_mtime_ns if path else 0

    @classmethod
    def execute(cls, model: Any, embedder: str) -> io.NodeOutput:
        state, metadata = host_model.read_tensors(FOLDER, embedder)
        try:
            module, family = from_file(state, metadata)
            return io.NodeOutput(averaging.attach(model, module, family))
        except InvalidInput as e:
            raise InvalidInput(f"{embedder}: {e}") from e
