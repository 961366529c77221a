"""The node that runs the model on a smaller picture while noise hides the details."""

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..sv_core.spectrum import PowerLaw
from . import schema
from .checks import require_choice
from .host import flow
from .host.compat import supported
from .host.wrappers import show_on_node
from .samplers.coarse import LAYOUT_UNTIL, SIZES, CoarseFirst, Settings

TOLERANCES = {"usual": 0.05, "faster": 0.1}
"""How far the best velocity may be from noise where a frequency is left out, by name."""


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="The model as it will be sampled, behind its LoRAs and ModelSampling.",
        ),
        schema.choice(
            "size",
            SIZES,
            "The size of the early calls, in each direction. 1/2 costs about a quarter of a call "
            "at full size.",
        ),
        schema.choice(
            "until",
            [*TOLERANCES, "level"],
            "When the full size begins. usual and faster: as soon as the details that are missing "
            "stand out from the noise, by 0.05 and 0.1, from the spectrum of the model's latents. "
            "level: at the noise level below.",
        ),
        schema.number(
            "level",
            0.7,
            (0.0, 1.0, 0.01),
            "With until at level: the noise level, 1 to 0, down to which calls are small.",
        ),
        schema.toggle(
            "keep_layout",
            False,
            f"The first calls, down to noise level {LAYOUT_UNTIL:g}, are at full size and decide "
            "what is where: nearer to the picture without this node, and slower.",
        ),
        schema.number(
            "detail",
            0.5,
            (0.0, 1.0, 0.1),
            "How far the missing details are moved towards what the spectrum lets one expect. "
            "0: they stay noise.",
        ),
        schema.number(
            "full_calls",
            2,
            (1, 100),
            "So many of the last steps are at full size in any case; 1 where there are four steps "
            "or fewer.",
        ),
        schema.toggle(
            "edit_models",
            False,
            "Also where the conditioning holds pictures to edit (Kontext, Qwen-Image-Edit), which "
            "are then made smaller too. It has not been shown to work on them.",
        ),
        schema.SPECTRUM.Input(
            "spectrum",
            optional=True,
            tooltip="From Latent Spectrum, measured on pictures of your own. Without it the "
            "published spectrum of Wan's latents for Wan, and of Flux's for all others.",
        ),
    ]


class CoarseFirstNode(io.ComfyNode):
    """MODEL -> MODEL: early calls at a smaller size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="CoarseFirst",
            display_name="Coarse First (Stable Velocity)",
            category=schema.SAMPLING,
            description=(
                "A picture of the same quality in less time, also in 4 or 8 steps: while noise "
                "hides the details, the model runs on a smaller picture. It is another picture "
                "than without the node, as good as it; keep_layout stays nearer. Where the same "
                "picture matters and there are 9 steps or more, use Fewer Calls, or both. What a "
                "run did stands here afterwards."
            ),
            search_aliases=[
                "faster", "speed", "speed up", "progressive", "resolution", "turbo", "lightning",
                "distilled", "stable velocity",
            ],
            inputs=_inputs(),
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Connect to KSampler, a guider, or any other node that samples.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, size: str, until: str, level: float, keep_layout: bool, detail: float,
        full_calls: int, edit_models: bool, spectrum: PowerLaw | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        flow.require_flow(flow.model_sampling_of(model))
        require_choice("size", size, SIZES)
        settings = Settings(
            ratios=SIZES[size],
            until=level if until == "level" else 0.0,
            tolerance=TOLERANCES.get(until, TOLERANCES["usual"]),
            keep_layout=keep_layout,
            detail=detail,
            full_calls=full_calls,
            edit_models=edit_models,
            spectrum=spectrum,
        )
        node = cls.hidden.unique_id if cls.hidden else None
        tell = partial(show_on_node, node, name="Coarse First")
        return io.NodeOutput(CoarseFirst(settings, tell).attach(model))
