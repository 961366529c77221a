"""Nodes for SIGMAS: a grid with fewer steps below the split, cut where a second expert begins."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sv_core.schedules import THINNING_RULES
from . import schema
from .checks import PAPER_SPLIT, first_complaint
from .grid_check import require_flow_grid
from .grids import (
    AUTO,
    MANUAL,
    Setting,
    Thinning,
    in_sigmas,
    limit_low_steps,
    native_grid,
    preset_names,
    read_from_model,
    setting_of,
    split_grid,
)
from .host import flow
from .host.compat import supported


def thinning_inputs() -> list[io.Input]:
    """The settings of a ``Thinning``, and the boundary between experts."""
    return [
        schema.split_input(
            "Noise level between the regimes: every step at or above it is kept. 0.85 is the "
            "paper's.",
            optional=True,
        ),
        schema.number(
            "low_steps",
            9,
            (0, 10000),
            "How many of the steps below the split are kept, from 1 to as many as there are. 9 is "
            "the paper's, for 30 steps.",
            optional=True,
        ),
        schema.boundary_input(" The step nearest to it moves there.", optional=True),
        schema.choice(
            "rule",
            THINNING_RULES,
            "Which low steps are kept. flow_match: the paper's rule for SD3.5, Flux and "
            "Qwen-Image. unipc: its rule for Wan, which keeps the last one too.",
            default="flow_match",
            optional=True,
            advanced=True,
        ),
    ]


def grid_outputs() -> list[io.Output]:
    """The outputs for the fields of a ``SplitGrid``."""
    return [
        schema.output(io.Sigmas, "sigmas", "The whole grid, for one sampler."),
        schema.output(
            io.Sigmas,
            "sigmas_high",
            "The part at or above the split, for the first of two samplers.",
        ),
        schema.output(
            io.Sigmas,
            "sigmas_low",
            "The part below the split, for a second sampler with noise disabled; it begins where "
            "sigmas_high ends.",
        ),
        schema.output(
            io.Int, "calls", "Steps of the whole grid: model calls with a one-call sampler."
        ),
        schema.output(
            io.String,
            "report",
            "How many calls are made and saved, as text; connect Preview as Text (in older "
            "versions Preview Any).",
        ),
        schema.output(
            io.Sigmas,
            "sigmas_high_expert",
            "The part down to the boundary, for the high-noise expert; the whole grid when the "
            "boundary is 0.",
        ),
        schema.output(
            io.Sigmas,
            "sigmas_low_expert",
            "The part from the boundary on, for the low-noise expert, with noise disabled; no "
            "steps when the boundary is 0.",
        ),
        schema.output(
            io.Sigmas,
            "sigmas_native",
            "The grid before anything was left out, for Regime Plot and for comparisons.",
        ),
    ]


class RegimeSplitScheduler(io.ComfyNode):
    """The paper's schedule on the host's grid for a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="RegimeSplitScheduler",
            display_name="Regime Split Scheduler",
            category=schema.SAMPLING,
            description="Takes ComfyUI's own grid for the model, keeps every step at or above the "
            "split, and only some of those below it: fewer model calls for nearly the same "
            "picture. The paper's setting is 30 steps, split 0.85, 9 low steps: 20 calls at "
            "shift 3.",
            search_aliases=["stable velocity", "sigmas", "fewer steps", "stablevs schedule"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A flow model, taken after any ModelSampling node: its shift decides "
                    "the grid.",
                ),
                # All others are optional: a saved prompt without some of them keeps its meaning.
                schema.choice(
                    "preset",
                    [AUTO, *preset_names(), MANUAL],
                    "The paper's setting for a family of models, or its official workflow's; auto "
                    "reads the family from the MODEL. Only with manual do scheduler, steps, split, "
                    "low_steps and rule count.",
                    default=AUTO,
                    optional=True,
                ),
                schema.choice(
                    "scheduler",
                    flow.scheduler_names(),
                    "With preset manual: ComfyUI's scheduler whose grid is thinned. The papers' "
                    "grids are normal for SD3.5 and simple for Flux and Wan.",
                    default="simple",
                    optional=True,
                ),
                schema.number(
                    "steps",
                    30,
                    (1, 10000),
                    "With preset manual: steps of the full grid, as you would use without this "
                    "node.",
                    optional=True,
                ),
                schema.number(
                    "denoise",
                    1.0,
                    (0.0, 1.0, 0.01),
                    "Below 1 the grid begins at less noise, for image to image, as in "
                    "BasicScheduler. At 0 the outputs are empty and the latent stays as it is.",
                    optional=True,
                ),
                *thinning_inputs(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Only for Qwen-Image's own grid, which depends on the size of the "
                    "picture: the latent that is sampled. Without it 1024 x 1024 is assumed.",
                ),
            ],
            outputs=grid_outputs(),
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool | str:
        """Without it the host would refuse a family's earlier spellings, which are not listed."""
        named = None if preset in (AUTO, MANUAL) else preset
        return first_complaint((setting_of, named))

    @classmethod
    def execute(
        cls,
        model: Any,
        scheduler: str = "simple",
        steps: int = 30,
        denoise: float = 1.0,
        split: float = PAPER_SPLIT,
        low_steps: int = 9,
        rule: str = "flow_match",
        preset: str = MANUAL,
        boundary: float = 0.0,
        latent: dict | None = None,
    ) -> io.NodeOutput:
        if preset == MANUAL:
            setting = Setting(scheduler, steps, Thinning(split, low_steps, rule))
            native = native_grid(model, setting, denoise, latent)
            return io.NodeOutput(*in_sigmas(split_grid(native, setting.thinning, boundary), model))
        name, setting = read_from_model(model) if preset == AUTO else setting_of(preset)
        native = native_grid(model, setting, denoise, latent)
        thinning, lines = limit_low_steps(native, setting.thinning)
        lines = (f"preset {name}: {setting}.", *lines)
        return io.NodeOutput(*in_sigmas(split_grid(native, thinning, boundary, lines), model))


class RegimeSplitSigmas(io.ComfyNode):
    """The paper's schedule on any grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="RegimeSplitSigmas",
            display_name="Regime Split Sigmas",
            category=schema.SAMPLING,
            description="Keeps every step of a grid at or above the split, and only some of those "
            "below it. For models whose SIGMAS come from a scheduler node of their own, such as "
            "Flux.2 and LTX; for others Regime Split Scheduler does it in one node.",
            search_aliases=["stable velocity", "flux2", "ltx", "fewer steps", "thin sigmas"],
            inputs=[
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The full grid of a flow model, as its own scheduler node makes it.",
                ),
                *thinning_inputs(),
            ],
            outputs=grid_outputs(),
        )

    @classmethod
    def execute(
        cls,
        sigmas: Tensor,
        split: float = PAPER_SPLIT,
        low_steps: int = 9,
        rule: str = "flow_match",
        boundary: float = 0.0,
    ) -> io.NodeOutput:
        if (
            not isinstance(sigmas, Tensor) or sigmas.numel()
        ):  # a scheduler with denoise 0 gives an empty grid
            require_flow_grid(sigmas, "sigmas", fewest=1)
        thinning, lines = limit_low_steps(sigmas, Thinning(split, low_steps, rule))
        return io.NodeOutput(*split_grid(sigmas, thinning, boundary, lines))
