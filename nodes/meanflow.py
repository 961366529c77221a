"""Nodes for MeanFlow: from noise to a picture in one model call, or in a few."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sv_core.errors import InvalidInput
from ..sv_core.models.interval import from_file
from . import schema
from .checks import first_complaint, require_jumps
from .host import average_velocity, files
from .host.compat import supported
from .samplers.jumps import JumpSampler

MOST_JUMPS = 8
"""With more calls an ordinary sampler gives better pictures."""
EMBEDDER_FOLDER = "loras"
"""The models folder of interval embedders: that of the LoRA that was trained with one."""


def require_embedder_file(name: str) -> None:
    """Raise InvalidInput when no file of this name is in the embedders' folder."""
    files.file_path(EMBEDDER_FOLDER, name)


class MeanFlowSampler(io.ComfyNode):
    """MeanFlow's sampler as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="MeanFlowSampler",
            display_name="MeanFlow Sampler",
            category=schema.SAMPLING,
            description="A picture in one model call, or in a few, with a model that was trained "
            "for it with MeanFlow: a SiT of this pack's trainer, or a model behind MeanFlow "
            "Loader. Other models are refused.",
            search_aliases=["stable velocity", "one step", "few steps", "average velocity"],
            inputs=[
                schema.number(
                    "calls",
                    1,
                    (1, MOST_JUMPS),
                    "Model calls. 1 goes from the first of SIGMAS to the last at once; more make "
                    "equal jumps in noise level. SIGMAS with exactly this many steps are used as "
                    "they are.",
                ),
            ],
            outputs=[
                schema.output(
                    io.Sampler,
                    "sampler",
                    "Connect to SamplerCustom or SamplerCustomAdvanced, with the SIGMAS of any "
                    "scheduler. Guidance is usually trained in: cfg 1.",
                )
            ],
        )

    @classmethod
    def execute(cls, calls: int) -> io.NodeOutput:
        require_jumps(calls)
        return io.NodeOutput(JumpSampler(calls))


class MeanFlowLoader(io.ComfyNode):
    """A MODEL with an interval embedder, whose output joins the network's embedding of time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="MeanFlowLoader",
            display_name="MeanFlow Loader",
            category=schema.LOADERS,
            description="Prepares a Flux, SD3.5, Qwen-Image or Wan model that was trained with "
            "MeanFlow for MeanFlow Sampler: adds the small interval embedder, which gives the "
            "model the length of each jump. Other samplers still work.",
            search_aliases=["stable velocity", "one step", "interval embedder", "few steps"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that was trained, with its LoRA if it was trained as one.",
                ),
                schema.choice(
                    "embedder",
                    folder_paths.get_filename_list(EMBEDDER_FOLDER),
                    "The .safetensors file of the interval embedder in models/loras, which the "
                    "trainer wrote beside the LoRA or the weights.",
                ),
            ],
            outputs=[
                schema.output(
                    io.Model, "model", "Connect to MeanFlow Sampler, or to any other sampler."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, embedder: str | None = None) -> bool | str:
        return first_complaint((require_embedder_file, embedder))

    @classmethod
    def fingerprint_inputs(cls, embedder: str | None = None, **inputs: Any) -> int:
        return files.model_modification_time(EMBEDDER_FOLDER, embedder)

    @classmethod
    def execute(cls, model: Any, embedder: str) -> io.NodeOutput:
        state, metadata = files.read_tensors(EMBEDDER_FOLDER, embedder)
        try:
            module, family = from_file(state, metadata)
            return io.NodeOutput(average_velocity.attach(model, module, family))
        except InvalidInput as e:
            raise InvalidInput(f"{embedder}: {e}") from e
