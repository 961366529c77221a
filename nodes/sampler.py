"""The node of the SAMPLER: the paper's two-regime sampler, and the ones that make fewer calls."""

import time
from typing import Any

from comfy_api.latest import io

from ..sv_core.call_rules import CALL_RULES
from ..sv_core.errors import InvalidInput
from ..sv_core.solvers import SOLVERS
from . import schema
from .calibration_file import Calibration, read_nodes
from .checks import first_complaint, require_noise, require_split
from .host import flow
from .host.compat import supported
from .samplers.paper import sample_stable_vs
from .samplers.plan import ADAPTIVE, DEFAULT_CALLS, MODES, SELF, Plan, metadata_writer
from .samplers.planned import PlannedSampler

PAPER = "paper"
"""The mode of the paper's sampler; the others are those of a ``Plan``."""


def require_mode(mode: str, noise: float, nodes: str) -> None:
    """Raise InvalidInput for settings of another mode, which would have no effect."""
    if mode != PAPER and noise:
        raise InvalidInput(
            f"noise {noise:g} is for mode paper: the other modes are deterministic, set it to 0"
        )
    if mode == PAPER and read_nodes(nodes):
        raise InvalidInput(
            "nodes are replayed on the native grid, but mode paper calls at every step of its own: "
            "choose mode forecast, or empty nodes"
        )


def paper_inputs() -> list[io.Input]:
    """The settings of mode paper."""
    return [
        schema.choice(
            "base",
            flow.sampler_names(),
            "Mode paper: the sampler for the high-noise steps. euler is the paper's choice for "
            "SD3.5, Flux and Qwen-Image, uni_pc for Wan. Samplers that are wrong for flow models "
            "are not listed. Other modes have solver instead.",
            default="euler",
        ),
        schema.split_input(
            "Mode paper: the noise level between the two regimes; steps that begin at or above it "
            "use the base sampler. 0.85 is the paper's. Use the scheduler's value."
        ),
        schema.number(
            "noise",
            0.0,
            (0.0, 1.0, 0.01),
            "Mode paper only: share of the noise that is drawn anew at each low step (from the "
            "seed). At 0, the default and the paper's setting, a low step equals an Euler step on "
            "these models. Values above 0 gave worse pictures wherever they were measured.",
            advanced=True,
        ),
    ]


def plan_inputs() -> list[io.Input]:
    """The mode, and settings of several modes. Optional, so that prompts without them still run."""
    return [
        schema.choice(
            "mode",
            [PAPER, *MODES],
            "paper: two regimes on a thinned grid. The others take native SIGMAS: forecast calls "
            "the model at fixed steps, adaptive where its forecasts exceed the tolerance, "
            "self-calibrating at steps found from the queue's first picture, calibrated at those "
            "of a file; ode aims at the exact solution, not at the 30-step picture.",
            default=PAPER,
            optional=True,
        ),
        schema.choice(
            "solver",
            SOLVERS,
            "The sampler whose picture is to be reproduced, in all modes but paper and ode. With "
            "as many calls as steps the result is exactly its result.",
            default="euler",
            optional=True,
        ),
        schema.number(
            "calls",
            DEFAULT_CALLS,
            (2, 1000),
            "Model calls of one run, in all modes but paper and adaptive: 14 of 30 is usual, 12 is "
            "a draft, 8 and 10 are previews. With two experts, every sampler node makes that many.",
            optional=True,
        ),
    ]


def call_inputs() -> list[io.Input]:
    """Where the model is called: one setting or more for each mode that needs any."""
    return [
        schema.choice(
            "rule",
            CALL_RULES,
            "Mode forecast: where the calls are. auto: early from 12 calls on, density below. "
            "early: more at high noise, where the composition is decided; guarded: more still. "
            "late: auto with the last three steps called. "
            "safe: every step at or above 0.85 and six below, whatever the number of calls.",
            default="auto",
            optional=True,
            advanced=True,
        ),
        schema.number(
            "tolerance",
            0.02,
            (0.001, 1.0, 0.001),
            "Mode adaptive: the estimated error of a forecast at which the model is called again. "
            "0.01 is quality, 0.02 usual, 0.03 a draft.",
            optional=True,
        ),
        schema.text(
            "nodes",
            "",
            "Empty: chosen by the mode. A list such as 0 2 4 7, from the log or a saved picture's "
            "stable_velocity metadata, is replayed exactly: the steps of the native grid at which "
            "the model is called.",
            optional=True,
            advanced=True,
        ),
        schema.CALIBRATION.Input(
            "calibration",
            optional=True,
            tooltip="Mode calibrated: from StableVS Calibrate or StableVS Calibration Loader. It "
            "must belong to this model and these SIGMAS.",
        ),
    ]


class StableVSSampler(io.ComfyNode):
    """The paper's sampler, and ours that make fewer calls, as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="StableVSSampler",
            display_name="StableVS Sampler",
            category=schema.SAMPLING,
            description="Fewer model calls for nearly the same picture, for flow models (Flux, "
            "SD3.5, Qwen-Image, Wan, SiT). Mode forecast takes the model's native 30-step SIGMAS "
            "and calls the model at 14 of its steps. Mode paper is the paper's sampler: connect "
            "Regime Split Scheduler, whose grid is what saves calls there.",
            search_aliases=[
                "stable velocity",
                "stablevs",
                "fewer steps",
                "flow sampler",
                "forecast",
                "skip steps",
                "cache",
            ],
            inputs=[*paper_inputs(), *plan_inputs(), *call_inputs()],
            outputs=[
                schema.output(
                    io.Sampler, "sampler", "Connect to SamplerCustom or SamplerCustomAdvanced."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, base: str | None = None, split: float | None = None) -> bool | str:
        return first_complaint((flow.require_fit_sampler, base), (require_split, split))

    @classmethod
    def fingerprint_inputs(cls, mode: str | None = PAPER, **settings: Any) -> int:
        """Modes that write a run's calls into its pictures' metadata must run every time."""
        return time.time_ns() if mode in (None, ADAPTIVE, SELF) else 0

    @classmethod
    def execute(
        cls,
        base: str,
        split: float,
        noise: float,
        mode: str = PAPER,
        solver: str = "euler",
        calls: int = DEFAULT_CALLS,
        rule: str = "auto",
        tolerance: float = 0.02,
        nodes: str = "",
        calibration: Calibration | None = None,
    ) -> io.NodeOutput:
        require_mode(mode, noise, nodes)
        if mode == PAPER:
            flow.require_fit_sampler(base)
            require_split(split)
            require_noise(noise)
            sampler = flow.make_sampler(sample_stable_vs, base, split=split, noise=noise)
            return io.NodeOutput(sampler)
        hidden = cls.hidden
        note = metadata_writer(hidden.extra_pnginfo, str(hidden.unique_id)) if hidden else None
        plan = Plan(mode, solver, calls, rule, tolerance, read_nodes(nodes), calibration, note)
        plan.check()
        return io.NodeOutput(PlannedSampler(plan))
