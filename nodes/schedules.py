"""SIGMAS nodes: the host's grid with fewer steps below the split."""

from typing import Any

import comfy.samplers
from comfy_api.latest import io
from torch import Tensor

from ..sv_core.schedules import RULES, regime_split, split_index
from . import host


def halves(sigmas: Tensor, split: float) -> tuple[Tensor, Tensor]:
    """The grid as two that share a node, for two-stage runs: t >= split and below.

    A half without steps holds one node, through which a latent passes unchanged.
    """
    high = min(split_index(sigmas, split), max(len(sigmas) - 1, 0))
    return sigmas[: high + 1], sigmas[high:]


def saving_report(native: int, sigmas: Tensor, split: float) -> str:
    """What the grid costs and saves against the ``native`` number of steps, in words."""
    if not len(sigmas):
        return "denoise is 0: there is nothing to sample, and the latent passes unchanged."
    high, low = (len(half) - 1 for half in halves(sigmas, split))
    parts = f"{high} at or above {split:g}, {low} below"
    calls, saved = high + low, native - high - low
    if saved:
        return f"{calls} model calls instead of {native} ({parts}): {saved} saved."
    why = (
        f"no step lies below {split:g}"
        if not low
        else "every step below it is kept, lower low_steps to save some"
    )
    return f"{calls} model calls ({parts}): nothing is saved, {why}."


class RegimeSplitScheduler(io.ComfyNode):
    """The paper's schedule on the host's own grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.known(
            io.Schema,
            node_id="RegimeSplitScheduler",
            display_name="Regime Split Scheduler",
            category=host.CATEGORY,
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
                host.known(
                    io.Combo.Input,
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="simple",
                    tooltip=(
                        "ComfyUI's scheduler whose grid is thinned. The papers' grids are normal "
                        "for SD3.5 and simple for Flux and Wan."
                    ),
                ),
                host.known(
                    io.Int.Input,
                    "steps",
                    default=30,
                    min=1,
                    max=10000,
                    tooltip="Steps of the full grid, as you would use without this node.",
                ),
                host.known(
                    io.Float.Input,
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Below 1 the grid begins at less noise, for image to image, as in "
                        "BasicScheduler. At 0 the outputs are empty and the latent stays as it is."
                    ),
                ),
                host.known(
                    io.Float.Input,
                    "split",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Noise level between the regimes: every step at or above it is kept. "
                        "0.85 is the paper's."
                    ),
                ),
                host.known(
                    io.Int.Input,
                    "low_steps",
                    default=9,
                    min=0,
                    max=10000,
                    tooltip=(
                        "How many of the steps below the split are kept, from 1 to as many as "
                        "there are. 9 is the paper's, for 30 steps."
                    ),
                ),
                host.known(
                    io.Combo.Input,
                    "rule",
                    options=list(RULES),
                    default="flow_match",
                    advanced=True,
                    tooltip=(
                        "Which low steps are kept. flow_match: the paper's rule for SD3.5, Flux "
                        "and Qwen-Image. unipc: its rule for Wan, which reaches the last one."
                    ),
                ),
            ],
            outputs=[
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
                        "The part below the split, for a second sampler with noise disabled; it "
                        "begins where sigmas_high ends."
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
                        "How many calls are made and saved, in words; connect Preview as Text (in "
                        "older versions Preview Any)."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        scheduler: str,
        steps: int,
        denoise: float,
        split: float,
        low_steps: int,
        rule: str,
    ) -> io.NodeOutput:
        native = host.host_grid(model, scheduler, steps, denoise)
        sigmas = regime_split(native, split, low_steps, rule) if len(native) else native
        high, low = halves(sigmas, split)
        calls = max(len(sigmas) - 1, 0)
        return io.NodeOutput(
            sigmas, high, low, calls, saving_report(len(native) - 1, sigmas, split)
        )
