"""The SAMPLER node: the paper's two-regime sampler, and the samplers that make fewer calls."""

import time
from typing import Any

from comfy_api.latest import io

from ..sv_core.call_rules import RULES
from ..sv_core.errors import InvalidInput
from ..sv_core.solvers import SOLVERS
from .calibration_file import Calibration, read_nodes
from .checks import SPLIT, require_split
from .host import compat, flow
from .samplers.paper import sample_stable_vs
from .samplers.plan import ADAPTIVE, CALLS, MODES, SELF, Plan, metadata_writer
from .samplers.planned import PlannedSampler

PAPER = "paper"


def require_mode(mode: str, noise: float, nodes: str) -> None:
    """Raise InvalidInput, in words, for settings of other modes that would be ignored."""
    if mode != PAPER and noise:
        raise InvalidInput(
            f"noise {noise:g} is for mode paper: the other modes are deterministic, set it to 0"
        )
    if mode == PAPER and read_nodes(nodes):
        raise InvalidInput(
            "nodes are replayed on the native grid, but mode paper calls at every step of its own: "
            "choose mode forecast, or empty nodes"
        )


class StableVSSampler(io.ComfyNode):
    """The paper's sampler, and ours that make fewer calls, as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="StableVSSampler",
            display_name="StableVS Sampler",
            category=flow.CATEGORY,
            description=(
                "Fewer model calls for nearly the same picture, for flow models (Flux, SD3.5, "
                "Qwen-Image, Wan, SiT). Mode forecast takes the model's native 30-step SIGMAS and "
                "calls the model at 14 of its steps. Mode paper is the paper's sampler: connect "
                "Regime Split Scheduler, whose grid is what saves calls there."
            ),
            search_aliases=[
                "stable velocity", "stablevs", "fewer steps", "flow sampler", "forecast",
                "skip steps", "cache",
            ],
            inputs=[
                compat.known(
                    io.Combo.Input,
                    "base",
                    options=flow.sampler_names(),
                    default="euler",
                    tooltip=(
                        "Mode paper: the sampler for the high-noise steps. euler is the paper's "
                        "choice for SD3.5, Flux and Qwen-Image, uni_pc for Wan. Samplers that are "
                        "wrong for flow models are not listed. Other modes have solver instead."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "split",
                    default=SPLIT,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Mode paper: the noise level between the two regimes; steps that begin at "
                        "or above it use the base sampler. 0.85 is the paper's. Use the "
                        "scheduler's value."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "noise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Mode paper only: share of the noise that is drawn anew at each low step "
                        "(from the seed). At 0, the default and the paper's setting, a low step "
                        "equals an Euler step on these models. Above 0 it only hurt wherever it "
                        "was measured."
                    ),
                ),
                # Appended and optional: graphs and prompts from before keep their meaning.
                compat.known(
                    io.Combo.Input,
                    "mode",
                    options=[PAPER, *MODES],
                    default=PAPER,
                    optional=True,
                    tooltip=(
                        "paper: two regimes on a thinned grid. The others take native SIGMAS: "
                        "forecast calls at fixed steps, adaptive where the tolerance asks, "
                        "self-calibrating as the queue's first picture taught, calibrated from a "
                        "file; ode aims at the exact solution, not at the 30-step picture."
                    ),
                ),
                compat.known(
                    io.Combo.Input,
                    "solver",
                    options=list(SOLVERS),
                    default="euler",
                    optional=True,
                    tooltip=(
                        "The sampler whose picture is to be kept, in all modes but paper and ode. "
                        "With as many calls as steps the result is exactly its result."
                    ),
                ),
                compat.known(
                    io.Int.Input,
                    "calls",
                    default=CALLS,
                    min=2,
                    max=1000,
                    optional=True,
                    tooltip=(
                        "Model calls of one run, in all modes but paper and adaptive: 14 of 30 is "
                        "usual, 12 is a draft, 8 and 10 are previews. With two experts, every "
                        "sampler node makes that many."
                    ),
                ),
                compat.known(
                    io.Combo.Input,
                    "rule",
                    options=list(RULES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Mode forecast: where the calls are. auto: early from 12 calls on, density "
                        "below. early: more at high noise, where modes are decided; guarded: more "
                        "still. safe: every step at or above 0.85 and six below, whatever calls "
                        "says."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "tolerance",
                    default=0.02,
                    min=0.001,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    tooltip=(
                        "Mode adaptive: how far a forecast may be off before the model is called "
                        "again. 0.01 is quality, 0.02 usual, 0.03 a draft."
                    ),
                ),
                compat.known(
                    io.String.Input,
                    "nodes",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Empty: chosen by the mode. A list such as 0 2 4 7, from the log or a "
                        "saved picture's stable_velocity metadata, is replayed exactly: the steps "
                        "of the native grid at which the model is called."
                    ),
                ),
                io.Custom("CALIBRATION").Input(
                    "calibration",
                    optional=True,
                    tooltip=(
                        "Mode calibrated: from StableVS Calibrate or StableVS Calibration Loader. "
                        "It must belong to this model and these SIGMAS."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip="Connect to SamplerCustom or SamplerCustomAdvanced.",
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, base: str | None = None, split: float | None = None) -> bool | str:
        """Says what is wrong before anything runs; what comes through a link is None here."""
        try:
            if base is not None:
                flow.require_fit_sampler(base)
            if split is not None:
                require_split(split)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def fingerprint_inputs(cls, mode: str | None = PAPER, **settings: Any) -> int:
        """Runs that choose their own calls note them in every picture, so they run every time."""
        return time.time_ns() if mode in (None, ADAPTIVE, SELF) else 0

    @classmethod
    def execute(
        cls,
        base: str,
        split: float,
        noise: float,
        mode: str = PAPER,
        solver: str = "euler",
        calls: int = CALLS,
        rule: str = "auto",
        tolerance: float = 0.02,
        nodes: str = "",
        calibration: Calibration | None = None,
    ) -> io.NodeOutput:
        require_mode(mode, noise, nodes)
        if mode == PAPER:
            flow.require_fit_sampler(base)
            require_split(split)
            sampler = flow.make_sampler(sample_stable_vs, base, split=split, noise=noise)
            return io.NodeOutput(sampler)
        hidden = cls.hidden
        note = metadata_writer(hidden.extra_pnginfo, str(hidden.unique_id)) if hidden else None
        plan = Plan(mode, solver, calls, rule, tolerance, read_nodes(nodes), calibration, note)
        plan.check()
        return io.NodeOutput(PlannedSampler(plan))
