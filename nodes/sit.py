"""SiT checkpoints as MODEL, and classes as CONDITIONING."""

import os
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..sv_core.errors import InvalidInput
from .host import compat, sit_model

CATEGORY = "loaders/stable velocity"
TIME_DIRECTIONS = {"auto": None, "noise at t=1": 0, "data at t=1": 1}


def parse_classes(text: str) -> list[int]:
    """``3``, ``0, 4, 4`` or ``0-9``, mixed at will -> the classes in that order."""
    classes = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInput(
                f"{part.strip() or 'nothing'!r} is not a class: write numbers and ranges with "
                "commas between them, such as 3 or 0,4,7 or 0-9"
            )
        a, b = int(first), int(last or first)
        if b < a or b - a >= 100_000:
            raise InvalidInput(f"{part.strip()!r} is not a range: write the smaller class first")
        classes += range(a, b + 1)
    return classes


class SiTLoader(io.ComfyNode):
    """A SiT checkpoint as MODEL and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="SiTLoader",
            display_name="SiT Loader",
            category=CATEGORY,
            description=(
                "Loads a SiT, the class-conditional flow transformer that this pack trains, or a "
                "published SiT or REPA checkpoint, from models/diffusion_models. Sampled with "
                "ComfyUI's own nodes, like any flow model; one that was trained with MeanFlow also "
                "in one call, with MeanFlow Sampler."
            ),
            search_aliases=["sit", "repa", "class conditional", "imagenet", "digits"],
            inputs=[
                compat.known(
                    io.Combo.Input,
                    "checkpoint",
                    options=folder_paths.get_filename_list(sit_model.FOLDER),
                    tooltip="A SiT's .safetensors (or .pt) file in models/diffusion_models.",
                ),
                compat.known(
                    io.Float.Input,
                    "shift",
                    default=3.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip=(
                        "How far the schedules lean towards high noise; 1 is even. A "
                        "ModelSampling node behind this one overrides it."
                    ),
                ),
                compat.known(
                    io.Combo.Input,
                    "time_direction",
                    options=list(TIME_DIRECTIONS),
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "Which way the network counts time. auto: as the file says, or its shape "
                        "suggests. REPA and our files have noise at t=1, the SiT paper's files "
                        "data at t=1. Change it when the pictures are noise."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For samplers, schedulers and ModelSampling nodes.",
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip=(
                        "For VAE Decode and VAE Encode, when the model makes pixels. Models in the "
                        "Stable Diffusion VAE's latents need that VAE, from Load VAE."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Says so before anything runs; what comes through a link is None here."""
        try:
            if checkpoint is not None:
                sit_model.file_path(sit_model.FOLDER, checkpoint)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **settings: Any) -> int:
        """A file that was trained further is loaded again, though its name is the same."""
        path = checkpoint and folder_paths.get_full_path(sit_model.FOLDER, checkpoint)
        return os.stat(path).st_mtime_ns if path else 0

    @classmethod
    def execute(cls, checkpoint: str, shift: float, time_direction: str) -> io.NodeOutput:
        model = sit_model.load_sit(checkpoint, shift, TIME_DIRECTIONS[time_direction])
        return io.NodeOutput(model, sit_model.image_codec(model))


class SiTClassCondition(io.ComfyNode):
    """Classes as CONDITIONING, and a latent that fits them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="SiTClassCondition",
            display_name="SiT Class Condition",
            category="conditioning/stable velocity",
            description=(
                "Says which classes a SiT should make, one picture each, and gives the empty "
                "latent of the right size for them."
            ),
            search_aliases=["sit", "class label", "imagenet class", "digits"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of SiT Loader."),
                compat.known(
                    io.String.Input,
                    "classes",
                    default="0-9",
                    tooltip=(
                        "Numbers and ranges: 3, or 0,4,7, or 0-9. One picture per class, in this "
                        "order; with another latent the list is repeated or cut to its batch."
                    ),
                ),
                compat.known(
                    io.Int.Input,
                    "copies",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Pictures per class: the list of classes is gone through this often.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "POSITIVE", display_name="positive", tooltip="The classes, for positive."
                ),
                io.Conditioning.Output(
                    "NEGATIVE",
                    display_name="negative",
                    tooltip="No class, for negative: what guidance (cfg above 1) moves away from.",
                ),
                io.Latent.Output(
                    "LATENT",
                    display_name="latent",
                    tooltip="An empty latent of the model's size, one entry for every picture.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, classes: str | None = None) -> bool | str:
        """Says what is wrong before anything runs; what comes through a link is None here."""
        try:
            if classes is not None:
                parse_classes(classes)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def execute(cls, model: Any, classes: str, copies: int) -> io.NodeOutput:
        wanted, config = parse_classes(classes), sit_model.require_sit(model).config
        sit_model.require_classes(wanted, config.num_classes)
        latent = torch.zeros(
            len(wanted) * copies,
            config.in_channels,
            config.input_size,
            config.input_size,
            device=comfy.model_management.intermediate_device(),
        )
        return io.NodeOutput(
            sit_model.conditioning_from_classes(wanted),
            sit_model.conditioning_from_classes(None),
            {"samples": latent},
        )
