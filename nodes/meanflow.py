"""Nodes of MeanFlow: from noise to a picture in one call, or a few."""

import os
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sv_core.errors import InvalidInput
from ..sv_core.models.interval import from_file
from . import sit
from .host import average_velocity, compat, flow, sit_model
from .samplers.jumps import JumpSampler

MOST = 8
"""Calls beyond which a plain sampler serves better."""
FOLDER = "loras"
"""Where an interval embedder lies: beside the LoRA that was trained with it."""


class MeanFlowSampler(io.ComfyNode):
    """MeanFlow's sampler as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="MeanFlowSampler",
            display_name="MeanFlow Sampler",
            category=flow.CATEGORY,
            description=(
                "A picture in one model call, or in a few, with a model that was trained for it "
                "with MeanFlow: a SiT of this pack's trainer, or a model behind MeanFlow Loader. "
                "Other models are refused."
            ),
            search_aliases=["stable velocity", "one step", "few steps", "average velocity"],
            inputs=[
                compat.known(
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
        return compat.known(
            io.Schema,
            node_id="MeanFlowLoader",
            display_name="MeanFlow Loader",
            category=sit.CATEGORY,
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
                compat.known(
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
                sit_model.file_path(FOLDER, embedder)
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
        state, metadata = sit_model.read_tensors(FOLDER, embedder)
        try:
            module, family = from_file(state, metadata)
            return io.NodeOutput(average_velocity.attach(model, module, family))
        except InvalidInput as e:
            raise InvalidInput(f"{embedder}: {e}") from e
