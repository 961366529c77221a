"""SAMPLER nodes: the host's solvers above the split, Stable Velocity's below."""

from collections.abc import Callable

import torch
from comfy_api.latest import io
from torch import Tensor
from tqdm.auto import tqdm

from ..sv_core import sampling
from ..sv_core.schedules import split_index
from . import host

SPLIT = 0.85


def require_grid(sigmas: Tensor) -> None:
    """Raise ValueError, in words, unless there are noise levels and they descend."""
    if len(sigmas) == 0:
        raise ValueError("SIGMAS is empty: connect a scheduler with at least one step")
    if not (sigmas[:-1] > sigmas[1:]).all():
        raise ValueError(
            "SIGMAS must descend from noise to 0 and never repeat a value, but these do not: "
            "connect a scheduler's output as it is"
        )


def require_split(split: float) -> None:
    """Raise ValueError, in words, for a split outside (0, 1)."""
    if not 0 < split < 1:
        raise ValueError(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")


@torch.no_grad()
def sample_stable_vs(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    base: str = "euler",
    split: float = SPLIT,
    noise: float = 0.0,
) -> Tensor:
    """The host's sampler ``base`` while sigma >= split, stable steps from there to the end.

    A sampler function of the host: x (b, ...) at sigmas[0], sigmas (n+1,) -> x at sigmas[-1].
    """
    require_grid(sigmas)
    require_split(split)
    host.require_linear_flow(host.sampling_of(model))
    extra_args = extra_args or {}
    # Steps that begin at or above the split; the last of them ends on the first low node.
    high = min(split_index(sigmas, split), len(sigmas) - 1)
    if high:
        head = sigmas[: high + 1]
        x = host.run_sampler(base, model, x, head, extra_args, callback, disable)
    low = sigmas[high:]
    if len(low) == 1:
        return x
    report = host.step_report(callback, first=high)
    with tqdm(total=len(low) - 1, disable=disable) as bar:

        def after_call(i: int, x: Tensor, v: Tensor, t: Tensor) -> None:
            report(i, x, v, t)
            bar.update()

        return sampling.sample_stable(
            host.velocity_from_denoiser(model, extra_args),
            x,
            low,
            noise=noise,
            noise_fn=host.seeded_noise(model, extra_args),
            callback=after_call,
        )


class StableVSSampler(io.ComfyNode):
    """The paper's two-regime sampler as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.known(
            io.Schema,
            node_id="StableVSSampler",
            display_name="StableVS Sampler",
            category=host.CATEGORY,
            description=(
                "Two samplers in one: any sampler of ComfyUI while the noise level is at or above "
                "the split, Stable Velocity's step below it. For flow models (Flux, SD3.5, "
                "Qwen-Image, Wan, SiT). What saves model calls is the grid: connect Regime Split "
                "Scheduler to SIGMAS."
            ),
            search_aliases=["stable velocity", "stablevs", "fewer steps", "flow sampler"],
            inputs=[
                host.known(
                    io.Combo.Input,
                    "base",
                    options=host.sampler_names(),
                    default="euler",
                    tooltip=(
                        "The sampler for the high-noise steps. euler is the paper's choice for "
                        "SD3.5, Flux and Qwen-Image, uni_pc for Wan. Samplers that are wrong for "
                        "flow models are not listed."
                    ),
                ),
                host.known(
                    io.Float.Input,
                    "split",
                    default=SPLIT,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "The noise level between the two regimes: steps that begin at or above it "
                        "use the base sampler. 0.85 is the paper's. Use the scheduler's value."
                    ),
                ),
                host.known(
                    io.Float.Input,
                    "noise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Share of the noise that is drawn anew at each low step (from the seed). "
                        "At 0, the default and the paper's setting, a low step equals an Euler "
                        "step on these models. Above 0 it only hurt wherever it was measured."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip="Connect to SamplerCustom or SamplerCustomAdvanced.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, base: str | None = None, split: float | None = None) -> bool | str:
        """Says what is wrong before anything runs; what comes through a link is None here."""
        try:
            if base is not None:
                host.require_fit_sampler(base)
            if split is not None:
                require_split(split)
        except ValueError as e:
            return str(e)
        return True

    @classmethod
    def execute(cls, base: str, split: float, noise: float) -> io.NodeOutput:
        host.require_fit_sampler(base)
        require_split(split)
        return io.NodeOutput(host.make_sampler(sample_stable_vs, base, split=split, noise=noise))
