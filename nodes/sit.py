"""Nodes for SiT: checkpoints as MODEL, and classes as CONDITIONING."""

import re
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sv_core.errors import InvalidInput
from . import schema
from .checks import first_complaint, require_choice, require_shift
from .host import files, sit_model
from .host.compat import supported

TIME_DIRECTIONS = {"auto": None, "noise at t=1": 0, "data at t=1": 1}
"""The choices of SiT Loader, and ``SiTConfig.data_time`` for each; None leaves the file's."""


MOST_PICTURES = 16_384
"""Of one list of classes, and of one batch."""


def parse_classes(text: str) -> list[int]:
    """The classes of a text such as ``3``, ``0, 4, 4`` or ``7, 0-9``, in its order.

    Raises InvalidInput for anything else, and for a list of more than MOST_PICTURES.
    """
    classes: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part, re.ASCII)
        if found is None:
            raise InvalidInput(
                f"{part.strip()[:40] or 'nothing'!r} is not a class: write numbers and ranges with "
                "commas between them, such as 3 or 0,4,7 or 0-9"
            )
        a, b = int(found[1]), int(found[2] or found[1])
        if b < a:
            raise InvalidInput(f"{part.strip()!r} is not a range: write the smaller class first")
        require_pictures(len(classes) + b - a + 1)
        classes += range(a, b + 1)
    return classes


def require_pictures(count: int) -> None:
    """Refuse a number of pictures that no batch can have, before there is one."""
    if not 1 <= count <= MOST_PICTURES:
        raise InvalidInput(
            f"classes and copies ask for {count} pictures, of 1 to {MOST_PICTURES}: make fewer at "
            "once"
        )


def require_checkpoint(name: str) -> None:
    """Raise InvalidInput when no SiT checkpoint has this name."""
    files.file_path(sit_model.SIT_FOLDER, name)


class SiTLoader(io.ComfyNode):
    """A SiT checkpoint as MODEL and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="SiTLoader",
            display_name="SiT Loader",
            category=schema.LOADERS,
            description="Loads a SiT, the class-conditional flow transformer that this pack "
            "trains, or a published SiT or REPA checkpoint, from models/diffusion_models. It is "
            "sampled with ComfyUI's own nodes, like any flow model; if it was trained with "
            "MeanFlow, also in one call, with MeanFlow Sampler.",
            search_aliases=["sit", "repa", "class conditional", "imagenet", "digits"],
            inputs=[
                schema.choice(
                    "checkpoint",
                    folder_paths.get_filename_list(sit_model.SIT_FOLDER),
                    "A SiT's .safetensors (or .pt) file in models/diffusion_models.",
                ),
                schema.number(
                    "shift",
                    3.0,
                    (0.01, 100.0, 0.01),
                    "The shift of the schedules: above 1 they have more steps at high noise, at 1 "
                    "they are even. A ModelSampling node after this one overrides it.",
                ),
                schema.choice(
                    "time_direction",
                    TIME_DIRECTIONS,
                    "The time convention of the network. auto: as the file states or its shapes "
                    "suggest. REPA's files and ours have noise at t=1, the SiT paper's files data "
                    "at t=1. Change it when the pictures are noise.",
                    default="auto",
                    advanced=True,
                ),
            ],
            outputs=[
                schema.output(
                    io.Model, "model", "Connect to samplers, schedulers and ModelSampling nodes."
                ),
                schema.output(
                    io.Vae,
                    "vae",
                    "For VAE Decode and VAE Encode, when the model makes pixels. Models in the "
                    "Stable Diffusion VAE's latents need that VAE, from Load VAE.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        return first_complaint((require_checkpoint, checkpoint))

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **settings: Any) -> int:
        return files.model_modification_time(sit_model.SIT_FOLDER, checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, shift: float, time_direction: str) -> io.NodeOutput:
        require_shift(shift)
        require_choice("time_direction", time_direction, TIME_DIRECTIONS)
        model = sit_model.load_sit(checkpoint, shift, TIME_DIRECTIONS[time_direction])
        return io.NodeOutput(model, sit_model.vae_of(model))


class SiTClassCondition(io.ComfyNode):
    """Classes as CONDITIONING, and an empty latent with one entry for each picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="SiTClassCondition",
            display_name="SiT Class Condition",
            category=schema.CONDITIONING,
            description="Selects the classes of which a SiT makes pictures, one picture each, and "
            "gives an empty latent of the right size for them.",
            search_aliases=["sit", "class label", "imagenet class", "digits"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of SiT Loader."),
                schema.text(
                    "classes",
                    "0-9",
                    "Numbers and ranges: 3, or 0,4,7, or 0-9. One picture per class, in this "
                    "order; with another latent the list is repeated or cut to its batch.",
                ),
                schema.number(
                    "copies",
                    1,
                    (1, 4096),
                    "Pictures per class: the whole list of classes is repeated this many times.",
                ),
            ],
            outputs=[
                schema.output(io.Conditioning, "positive", "The classes, for positive."),
                schema.output(
                    io.Conditioning,
                    "negative",
                    "No class, for negative: what guidance (cfg above 1) moves away from.",
                ),
                schema.output(
                    io.Latent,
                    "latent",
                    "An empty latent of the model's size, one entry for every picture.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, classes: str | None = None) -> bool | str:
        return first_complaint((parse_classes, classes))

    @classmethod
    def execute(cls, model: Any, classes: str, copies: int) -> io.NodeOutput:
        wanted, sit = parse_classes(classes), sit_model.require_sit(model)
        require_pictures(len(wanted) * copies)
        sit_model.require_classes(wanted, sit.config.num_classes)
        return io.NodeOutput(
            sit_model.conditioning_from_classes(wanted),
            sit_model.conditioning_from_classes(None),
            {"samples": sit_model.empty_latent(sit, len(wanted) * copies)},
        )
