"""SIGMAS nodes: a grid with fewer steps below the split, and where one expert hands to another."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sv_core.errors import InvalidInput
from ..sv_core.schedules import RULES
from .checks import SPLIT, check_grid
from .grids import (
    AUTO,
    BOUNDARY,
    MANUAL,
    Setting,
    Thinning,
    keep_what_there_is,
    native_grid,
    preset_names,
    read_from_model,
    setting_of,
    split_grid,
)
from .host import compat, flow


def split_inputs() -> list[io.Input]:
    return [
        compat.known(
            io.Float.Input,
            "split",
            default=SPLIT,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip=(
                "Noise level between the regimes: every step at or above it is kept. 0.85 is the "
                "paper's."
            ),
        ),
        compat.known(
            io.Int.Input,
            "low_steps",
            default=9,
            min=0,
            max=10000,
            optional=True,
            tooltip=(
                "How many of the steps below the split are kept, from 1 to as many as there are. "
                "9 is the paper's, for 30 steps."
            ),
        ),
        compat.known(
            io.Float.Input,
            "boundary",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.005,
            optional=True,
            tooltip=BOUNDARY + " The step nearest to it moves there.",
        ),
        compat.known(
            io.Combo.Input,
            "rule",
            options=list(RULES),
            default="flow_match",
            optional=True,
            advanced=True,
            tooltip=(
                "Which low steps are kept. flow_match: the paper's rule for SD3.5, Flux and "
                "Qwen-Image. unipc: its rule for Wan, which reaches the last one."
            ),
        ),
    ]


def grid_outputs() -> list[io.Output]:
    return [
        io.Sigmas.Output(
            "SIGMAS", display_name="sigmas", tooltip="The whole grid, for one sampler."
        ),
        io.Sigmas.Output(
            "SIGMAS_HIGH",
            display_name="sigmas_high",
            tooltip="The part at or above the split, for the first of two samplers.",
        ),
        io.Sigmas.Output(
            "SIGMAS_LOW",
            display_name="sigmas_low",
            tooltip=(
                "The part below the split, for a second sampler with noise disabled; it begins "
                "where sigmas_high ends."
            ),
        ),
        io.Int.Output(
            "CALLS",
            display_name="calls",
            tooltip="Steps of the whole grid: model calls with a one-call sampler.",
        ),
        io.String.Output(
            "REPORT",
            display_name="report",
            tooltip=(
                "How many calls are made and saved, in words; connect Preview as Text (in older "
                "versions Preview Any)."
            ),
        ),
        io.Sigmas.Output(
            "SIGMAS_HIGH_EXPERT",
            display_name="sigmas_high_expert",
            tooltip=(
                "The part down to the boundary, for the high-noise expert; the whole grid when the "
                "boundary is 0."
            ),
        ),
        io.Sigmas.Output(
            "SIGMAS_LOW_EXPERT",
            display_name="sigmas_low_expert",
            tooltip=(
                "The part from the boundary on, for the low-noise expert, with noise disabled; no "
                "steps when the boundary is 0."
            ),
        ),
        io.Sigmas.Output(
            "SIGMAS_NATIVE",
            display_name="sigmas_native",
            tooltip="The grid before anything was left out, for Regime Plot and for comparisons.",
        ),
    ]


class RegimeSplitScheduler(io.ComfyNode):
    """The paper's schedule on the host's own grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        split, low_steps, boundary, rule = split_inputs()
        return compat.known(
            io.Schema,
            node_id="RegimeSplitScheduler",
            display_name="Regime Split Scheduler",
            category=flow.CATEGORY,
            description=(
                "Takes ComfyUI's own grid for the model, keeps every step at or above the split, "
                "and only some of those below it: fewer model calls for nearly the same picture. "
                "The paper's setting is 30 steps, split 0.85, 9 low steps: 20 calls at shift 3."
            ),
            search_aliases=["stable velocity", "sigmas", "fewer steps", "stablevs schedule"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A flow model, taken after any ModelSampling node: its shift decides the "
                        "grid."
                    ),
                ),
                # Optional inputs all: a prompt that lacks some of them keeps its meaning.
                compat.known(
                    io.Combo.Input,
                    "preset",
                    options=[AUTO, *preset_names(), MANUAL],
                    default=AUTO,
                    optional=True,
                    tooltip=(
                        "The paper's setting for a family of models; auto reads the family from "
                        "the MODEL. Only with manual do scheduler, steps, split, low_steps and "
                        "rule count."
                    ),
                ),
                compat.known(
                    io.Combo.Input,
                    "scheduler",
                    options=flow.scheduler_names(),
                    default="simple",
                    optional=True,
                    tooltip=(
                        "With preset manual: ComfyUI's scheduler whose grid is thinned. The "
                        "papers' grids are normal for SD3.5 and simple for Flux and Wan."
                    ),
                ),
                compat.known(
                    io.Int.Input,
                    "steps",
                    default=30,
                    min=1,
                    max=10000,
                    optional=True,
                    tooltip=(
                        "With preset manual: steps of the full grid, as you would use without "
                        "this node."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "Below 1 the grid begins at less noise, for image to image, as in "
                        "BasicScheduler. At 0 the outputs are empty and the latent stays as it is."
                    ),
                ),
                split,
                low_steps,
                boundary,
                rule,
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "Only for Qwen-Image's own grid, which depends on the size of the picture: "
                        "the latent that is sampled. Without it 1024 x 1024 is assumed."
                    ),
                ),
            ],
            outputs=grid_outputs(),
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool | str:
        """Takes a family's earlier spellings too; what comes through a link is None here."""
        try:
            if preset not in (None, AUTO, MANUAL):
                setting_of(preset)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        scheduler: str = "simple",
        steps: int = 30,
        denoise: float = 1.0,
        split: float = SPLIT,
        low_steps: int = 9,
        rule: str = "flow_match",
        preset: str = MANUAL,
        boundary: float = 0.0,
        latent: dict | None = None,
    ) -> io.NodeOutput:
        if preset == MANUAL:
            setting = Setting(scheduler, steps, Thinning(split, low_steps, rule))
            native = native_grid(model, setting, denoise, latent)
            return io.NodeOutput(*split_grid(native, setting.thinning, boundary))
        name, setting = read_from_model(model) if preset == AUTO else setting_of(preset)
        native = native_grid(model, setting, denoise, latent)
        thinning, lines = keep_what_there_is(native, setting.thinning)
        told = f"preset {name}: {setting}."
        return io.NodeOutput(*split_grid(native, thinning, boundary, (told, *lines)))


class RegimeSplitSigmas(io.ComfyNode):
    """The paper's split of any grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="RegimeSplitSigmas",
            display_name="Regime Split Sigmas",
            category=flow.CATEGORY,
            description=(
                "Keeps every step of a grid at or above the split, and only some of those below "
                "it. For models whose SIGMAS come from a scheduler node of their own, such as "
                "Flux.2 and LTX; for others Regime Split Scheduler does it in one node."
            ),
            search_aliases=["stable velocity", "flux2", "ltx", "fewer steps", "thin sigmas"],
            inputs=[
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The full grid of a flow model, as its own scheduler node makes it.",
                ),
                *split_inputs(),
            ],
            outputs=grid_outputs(),
        )

    @classmethod
    def execute(
        cls,
        sigmas: Tensor,
        split: float = SPLIT,
        low_steps: int = 9,
        rule: str = "flow_match",
        boundary: float = 0.0,
    ) -> io.NodeOutput:
        if len(sigmas):  # a scheduler with denoise 0 gives none
            check_grid("sigmas", sigmas)
        thinning, lines = keep_what_there_is(sigmas, Thinning(split, low_steps, rule))
        return io.NodeOutput(*split_grid(sigmas, thinning, boundary, lines))
