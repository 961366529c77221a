"""The node behind the model: fewer calls under any sampler."""

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from ..sv_core.errors import InvalidInput
from ..sv_core.fewer_calls import SHARE
from ..sv_core.sampling import adaptive_calls
from . import schema
from .calibration_file import Calibration, read_nodes
from .checks import require_choice
from .host import flow
from .host.compat import supported
from .host.wrappers import show_on_node
from .samplers.any_sampler import Choice, FewerCalls

QUALITIES = {"draft": 0.35, "usual": SHARE, "high": 0.7}
"""Shares of the calls by name."""
NUMBER = 10
TOLERANCE = 0.02
WAYS = ("share", "number", "quality", "adaptive", "calibrated", "list")


def _share() -> io.Input:
    return schema.number(
        "share",
        SHARE,
        (0.05, 1.0, 0.05),
        "Calls as a share of the sampler's noise levels: at 0.5 a run of 20 steps makes 10 calls. "
        "At 1 the sampler runs exactly as without this node.",
    )


def _number() -> io.Input:
    return schema.number(
        "number",
        NUMBER,
        (2, 1000),
        "Calls of one run, whatever its steps. With two experts, each run makes that many.",
    )


def _quality() -> io.Input:
    shares = ", ".join(f"{name} {share:g}" for name, share in QUALITIES.items())
    return schema.choice("quality", QUALITIES, f"A share by name: {shares}.", default="usual")


def _tolerance() -> io.Input:
    return schema.number(
        "tolerance",
        TOLERANCE,
        (0.001, 1.0, 0.001),
        "How far a forecast may be off before the model is called again: 0.01 is quality, 0.02 "
        "usual, 0.03 a draft. The picture decides how many calls that takes.",
    )


def _calibration() -> io.Input:
    return schema.CALIBRATION.Input(
        "calibration",
        optional=True,
        tooltip="From StableVS Calibrate or its loader, for this model and the same steps; number "
        "says which of its lists.",
    )


def _nodes() -> io.Input:
    return schema.text(
        "nodes",
        "",
        "A list such as 0 2 4 7: the noise levels at which the model is called, counted from 0. "
        "What a run has called stands on this node afterwards and can be pasted here.",
    )


INPUTS = {
    "share": (_share,),
    "number": (_number,),
    "quality": (_quality,),
    "adaptive": (_tolerance,),
    "calibrated": (_calibration, _number),
    "list": (_nodes,),
}
"""The inputs that each way needs."""

CALLS_TOOLTIP = (
    "How the calls are chosen: a share of the sampler's own, a number, a quality by name, adaptive "
    "by a tolerance, calibrated for this model, or a list."
)


def _dependent_inputs() -> list[io.Input]:
    """The inputs of all ways, each once."""
    return [make() for make in dict.fromkeys(make for way in WAYS for make in INPUTS[way])]


def _call_inputs() -> list[io.Input]:
    """One drop-down with the inputs of its choice, or all of them where the host has no such."""
    dynamic = getattr(io, "DynamicCombo", None)
    if dynamic is not None:
        options = [dynamic.Option(way, [make() for make in INPUTS[way]]) for way in WAYS]
        return [dynamic.Input("calls", options=options, tooltip=CALLS_TOOLTIP)]
    plain = _dependent_inputs()
    for made in plain:
        made.optional = True
    return [schema.choice("calls", WAYS, CALLS_TOOLTIP, default="share"), *plain]


def _require_calibration(calibration: Calibration | None, number: int, model: Any) -> None:
    """Raise InvalidInput for what is wrong before any grid is known."""
    if calibration is None:
        raise InvalidInput(
            "calibrated needs a calibration: connect StableVS Calibrate or StableVS Calibration "
            "Loader"
        )
    calibration.nodes_for(model, torch.tensor(calibration.sigmas), number)


def choice_of(settings: dict, model: Any) -> Choice:
    """What the inputs say. Raises InvalidInput."""
    way = settings["calls"]
    require_choice("calls", way, WAYS)
    if way == "number":
        return Choice(number=settings.get("number", NUMBER))
    if way == "quality":
        quality = settings.get("quality", "usual")
        require_choice("quality", quality, QUALITIES)
        return Choice(share=QUALITIES[quality])
    if way == "adaptive":
        tolerance = settings.get("tolerance", TOLERANCE)
        adaptive_calls([1.0, 0.0], tolerance)
        return Choice(tolerance=tolerance)
    if way == "calibrated":
        calibration, number = settings.get("calibration"), settings.get("number", NUMBER)
        _require_calibration(calibration, number, model)
        return Choice(calibration=calibration, number=number)
    if way == "list":
        nodes = read_nodes(settings.get("nodes", ""))
        if not nodes:
            raise InvalidInput("the list is empty: enter levels such as 0 2 4 7, from 0 upwards")
        return Choice(nodes=nodes)
    return Choice(share=settings.get("share", SHARE))


class FewerCallsNode(io.ComfyNode):
    """MODEL -> MODEL: whatever samples it makes fewer calls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="FewerCalls",
            display_name="Fewer Calls (Stable Velocity)",
            category=schema.SAMPLING,
            description=(
                "Nearly the same picture in fewer model calls, with any sampler: put it behind the "
                "model of a flow-matching workflow (Flux, SD3.5, Qwen-Image, Wan, ...) and leave "
                "steps and sampler as they are. Between its calls the velocity is forecast, and "
                "each stretch is done again once the next call is known. What a run did stands "
                "here afterwards."
            ),
            search_aliases=[
                "faster", "speed", "speed up", "cache", "teacache", "easycache", "skip",
                "skip steps", "fewer steps", "stable velocity", "forecast",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model as it will be sampled, behind its LoRAs and ModelSampling.",
                ),
                *_call_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Connect to KSampler, a guider, or any other node that samples.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def dependent_inputs(cls) -> dict[str, list[io.Input]]:
        """The inputs that a choice of ``calls`` brings, for the translations."""
        return {"calls": _dependent_inputs()}

    @classmethod
    def execute(cls, model: Any, calls: Any = "share", **plain: Any) -> io.NodeOutput:
        settings = calls if isinstance(calls, dict) else {"calls": calls, **plain}
        choice = choice_of(settings, model)
        flow.require_flow(flow.model_sampling_of(model))
        node = cls.hidden.unique_id if cls.hidden else None
        return io.NodeOutput(FewerCalls(choice, partial(show_on_node, node)).attach(model))
