"""Nodes that find the calls that a model needs from recorded runs, and load them again."""

import os
from pathlib import Path
from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui
from torch import Tensor

from ..sv_core.errors import InvalidInput
from .calibration_file import (
    FEWEST,
    FOLDER,
    MOST,
    Calibration,
    file_name,
    folder,
    load,
    names,
    save,
    write_nodes,
)
from .checks import require_steps
from .host import compat, flow
from .plots.drift import plot_drift
from .samplers.recording import RecordedRuns, calibration_from, find_nodes

"""The grids that can be calibrated: with fewer steps there is nothing to leave out."""


def make_guider(
    guider: Any, model: Any, positive: list | None, negative: list | None, cfg: float
) -> Any:
    """The connected GUIDER, or one of MODEL and conditioning. Raises InvalidInput, in words."""
    if guider is not None:
        if model is not None or positive is not None or negative is not None:
            raise InvalidInput(
                "connect either a guider, or model, positive and negative: a guider brings its own"
            )
        return guider
    if model is None or positive is None:
        raise InvalidInput("connect model and positive, or a guider, as for an ordinary run")
    if negative is None and cfg != 1:
        raise InvalidInput(f"cfg {cfg:g} needs negative: connect it, or set cfg to 1")
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, positive if negative is None else negative)
    made.set_cfg(cfg)
    return made


def calibrate(
    guider: Any, latent: dict, sigmas: Tensor, runs: int, seed: int, calls: int
) -> Calibration:
    """Record, rehearse and check. Costs runs x (steps + up to CHECKS x calls) model calls."""
    recorded = RecordedRuns(guider, latent, sigmas, runs, seed, calls)
    nodes = find_nodes(recorded, sigmas, calls)
    return calibration_from(recorded.gram(), nodes, guider.model_patcher, sigmas, runs, seed, calls)


def describe(found: Calibration, calls: int, file: str) -> str:
    """The calibration in words."""
    steps = len(found.sigmas) - 1
    plateau = "the velocity turns no more near noise than in the middle"
    if found.split is not None:
        plateau = f"towards noise the velocity leaves its plateau at sigma {found.split:g}"
    return "\n".join(
        [
            f"{calls} of {steps} calls: {write_nodes(found.nodes[calls])}",
            f"recorded along {found.runs} runs of {found.model}; lists for {min(found.nodes)} to "
            f"{max(found.nodes)} calls, the one for {found.checked} checked in runs of the model",
            plateau,
            f"saved as {FOLDER}/{file} in ComfyUI's output folder",
        ]
    )


class StableVSCalibrate(io.ComfyNode):
    """Ordinary runs -> the calls that this model needs on this grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="StableVSCalibrate",
            display_name="StableVS Calibrate",
            category=flow.CATEGORY,
            description=(
                "Makes some ordinary runs of your model and finds the steps at which it must be "
                "called, so that fewer calls give nearly the same picture. Once per model and "
                "SIGMAS; the result is saved as a small JSON in output/stable_velocity and goes "
                "into StableVS Sampler, mode calibrated."
            ),
            search_aliases=["stable velocity", "calibration", "drift", "record runs"],
            is_output_node=True,
            inputs=[
                io.Sigmas.Input(
                    "sigmas", tooltip="The native grid that you sample on, of 8 to 100 steps."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip=(
                        "As for an ordinary run: the size matters, a batch counts as several runs."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "The model as it will be sampled, with its LoRAs and ModelSampling node. "
                        "Leave open with a guider."
                    ),
                ),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="A prompt like those that will follow."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Needed when cfg is not 1."
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="In place of model, positive, negative and cfg: any GUIDER.",
                ),
                compat.known(
                    io.Float.Input,
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance as in the runs that will follow. Not used with a guider.",
                ),
                compat.known(
                    io.Int.Input,
                    "runs",
                    default=4,
                    min=1,
                    max=32,
                    tooltip=(
                        "Ordinary runs to record, one after the other: 4 to 8. Only their inner "
                        "products are kept, in main memory."
                    ),
                ),
                compat.known(
                    io.Int.Input,
                    "calls",
                    default=10,
                    min=FEWEST,
                    max=MOST,
                    tooltip=(
                        "The number of calls whose list is checked in runs of the model; the file "
                        "holds lists for 6 to 20, and StableVS Sampler chooses one."
                    ),
                ),
                compat.known(
                    io.Int.Input,
                    "first_seed",  # the page would let one called seed change by itself
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Of the first run; the next ones count on.",
                ),
                compat.known(
                    io.String.Input,
                    "name",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The file's name; empty makes one from model and grid. A file of another "
                        "model or grid is never replaced."
                    ),
                ),
            ],
            outputs=[
                io.Custom("CALIBRATION").Output(
                    "CALIBRATION",
                    display_name="calibration",
                    tooltip="For StableVS Sampler, mode calibrated.",
                ),
                io.Image.Output(
                    "PLOT",
                    display_name="plot",
                    tooltip="How much the velocity turns along the grid, and the chosen steps.",
                ),
                io.String.Output(
                    "REPORT", display_name="report", tooltip="The steps chosen, in words."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        sigmas: Tensor,
        latent: dict,
        cfg: float,
        runs: int,
        calls: int,
        first_seed: int,
        model: Any = None,
        positive: list | None = None,
        negative: list | None = None,
        guider: Any = None,
        name: str = "",
    ) -> io.NodeOutput:
        guider = make_guider(guider, model, positive, negative, cfg)
        require_steps(sigmas, calls)
        flow.require_linear_flow(guider.model_patcher.get_model_object("model_sampling"))
        if name:
            file_name(name)  # before the runs
        found = calibrate(guider, latent, sigmas, runs, first_seed, calls)
        file = save(found, name)
        plot, report = plot_drift(found, calls)[None], describe(found, calls, file)
        return io.NodeOutput(found, plot, report, ui=ui.PreviewImage(plot, cls=cls))


class StableVSCalibrationLoader(io.ComfyNode):
    """A saved calibration."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="StableVSCalibrationLoader",
            display_name="StableVS Calibration Loader",
            category=flow.CATEGORY,
            description=(
                "Loads a calibration that StableVS Calibrate has saved in output/stable_velocity, "
                "for StableVS Sampler, mode calibrated, with the same model and SIGMAS."
            ),
            search_aliases=["stable velocity", "load calibration"],
            inputs=[
                compat.known(
                    io.Combo.Input,
                    "calibration",
                    options=names(),
                    tooltip="A .json file in ComfyUI's output/stable_velocity.",
                )
            ],
            outputs=[
                io.Custom("CALIBRATION").Output(
                    "CALIBRATION",
                    display_name="calibration",
                    tooltip="For StableVS Sampler, mode calibrated.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, calibration: str | None = None) -> bool | str:
        """Says so before anything runs; what comes through a link is None here."""
        try:
            if calibration is not None:
                load(calibration)
        except InvalidInput as e:
            return str(e)
        return True

    @classmethod
    def fingerprint_inputs(cls, calibration: str | None = None) -> int:
        """A file that was recorded again is loaded again."""
        path = folder() / Path(calibration or "").name
        return os.stat(path).st_mtime_ns if path.is_file() else 0

    @classmethod
    def execute(cls, calibration: str) -> io.NodeOutput:
        return io.NodeOutput(load(calibration))
