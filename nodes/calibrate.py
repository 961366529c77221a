"""Nodes for calibrations: find the calls that a model needs from recorded runs, and load them."""

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..sv_core.errors import InvalidInput
from . import calibration_file, schema
from .calibration_file import FEWEST_CALLS, MOST_CALLS, Calibration, subject_of, write_nodes
from .checks import first_complaint, require_cfg, require_latent, require_seed, require_steps
from .host import flow
from .host.compat import supported
from .host.files import modification_time
from .host.guider import cfg_guider
from .plots.drift import plot_drift
from .samplers.recording import RecordedRuns, calibration_from, find_nodes


def make_guider(
    guider: Any, model: Any, positive: list | None, negative: list | None, cfg: float
) -> Any:
    """The connected GUIDER, or one made of MODEL and conditioning.

    Raises InvalidInput when both are connected, or neither.
    """
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
    return cfg_guider(model, positive, positive if negative is None else negative, cfg)


def calibrate(
    guider: Any, latent: dict, sigmas: Tensor, runs: int, seed: int, calls: int
) -> Calibration:
    """Record ordinary runs, find lists of calls, and check the one of ``calls`` in further runs.

    Costs runs x (steps + up to CHECKS x calls) model calls.
    """
    recorded = RecordedRuns(guider, latent, sigmas, runs, seed, calls)
    nodes = find_nodes(recorded, sigmas, calls)
    return calibration_from(recorded.gram(), nodes, guider.model_patcher, sigmas, runs, seed, calls)


def describe(found: Calibration, calls: int, file: str) -> str:
    """The report of a calibration: its list of ``calls``, its runs, its plateau, its file."""
    steps, folder = len(found.sigmas) - 1, calibration_file.CALIBRATION_FOLDER
    plateau = "the velocity turns no more near noise than in the middle"
    if found.split is not None:
        plateau = f"towards noise the velocity leaves its plateau at sigma {found.split:g}"
    return "\n".join(
        [
            f"{calls} of {steps} calls: {write_nodes(found.nodes[calls])}",
            f"recorded along {found.runs} runs of {found.model}; lists for {min(found.nodes)} to "
            f"{max(found.nodes)} calls, the one for {found.checked} checked in runs of the model",
            plateau,
            f"saved as {folder}/{file} in ComfyUI's output folder",
        ]
    )


class StableVSCalibrate(io.ComfyNode):
    """The calls that a model needs on a grid, from ordinary runs of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="StableVSCalibrate",
            display_name="StableVS Calibrate",
            category=schema.SAMPLING,
            description="Makes some ordinary runs of your model and finds the steps at which it "
            "must be called, so that fewer calls give nearly the same picture. Once per model and "
            "SIGMAS; the result is saved as a small JSON in output/stable_velocity and goes into "
            "StableVS Sampler, mode calibrated.",
            search_aliases=["stable velocity", "calibration", "drift", "record runs"],
            is_output_node=True,
            inputs=[
                io.Sigmas.Input(
                    "sigmas", tooltip="The native grid that you sample on, of 8 to 100 steps."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="As for an ordinary run: the size matters, a batch counts as several "
                    "runs.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model as it will be sampled, with its LoRAs and ModelSampling "
                    "node. Leave it unconnected when a guider is connected.",
                ),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="A prompt similar to those you will use."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Needed when cfg is not 1."
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="In place of model, positive, negative and cfg: any GUIDER.",
                ),
                schema.number(
                    "cfg",
                    1.0,
                    (0.0, 100.0, 0.1),
                    "The guidance scale that you will sample with. Not used with a guider.",
                ),
                schema.number(
                    "runs",
                    4,
                    (1, 32),
                    "Ordinary runs to record, one after the other: 4 to 8. Only their inner "
                    "products are kept, in main memory.",
                ),
                schema.number(
                    "calls",
                    10,
                    (FEWEST_CALLS, MOST_CALLS),
                    "The number of calls whose list is checked in runs of the model; the file "
                    "holds lists for 6 to 20, and StableVS Sampler chooses one.",
                ),
                schema.number(
                    "first_seed",  # the page would change one named seed after every run
                    0,
                    (0, 0xFFFFFFFFFFFFFFFF),
                    "The seed of the first run; it increases by 1 from run to run.",
                ),
                schema.text(
                    "name",
                    "",
                    "The file's name; empty makes one from model and grid. A file of another "
                    "model or grid is never replaced.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                schema.calibration_output(),
                schema.output(
                    io.Image,
                    "plot",
                    "How much the velocity turns along the grid, and the chosen steps.",
                ),
                schema.output(io.String, "report", "The chosen steps, as text."),
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
        require_cfg(cfg)
        guider = make_guider(guider, model, positive, negative, cfg)
        require_steps(sigmas, calls)
        flow.require_linear_flow(flow.model_sampling_of(guider.model_patcher))
        require_seed(first_seed, runs)
        require_latent(latent)
        # Everything that can be refused is refused before the model is called.
        calibration_file.place_for(subject_of(guider.model_patcher, sigmas), name)
        found = calibrate(guider, latent, sigmas, runs, first_seed, calls)
        file = calibration_file.save(found, name)
        plot, report = plot_drift(found, calls)[None], describe(found, calls, file)
        return io.NodeOutput(found, plot, report, ui=ui.PreviewImage(plot, cls=cls))


class StableVSCalibrationLoader(io.ComfyNode):
    """A saved calibration."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="StableVSCalibrationLoader",
            display_name="StableVS Calibration Loader",
            category=schema.SAMPLING,
            description="Loads a calibration that StableVS Calibrate has saved in "
            "output/stable_velocity, for StableVS Sampler, mode calibrated, with the same model "
            "and SIGMAS.",
            search_aliases=["stable velocity", "load calibration"],
            inputs=[
                schema.choice(
                    "calibration",
                    calibration_file.names(),
                    "A .json file in ComfyUI's output/stable_velocity.",
                )
            ],
            outputs=[schema.calibration_output()],
        )

    @classmethod
    def validate_inputs(cls, calibration: str | None = None) -> bool | str:
        return first_complaint((calibration_file.load, calibration))

    @classmethod
    def fingerprint_inputs(cls, calibration: str | None = None) -> int:
        return modification_time(calibration_file.path_of(calibration or ""))

    @classmethod
    def execute(cls, calibration: str) -> io.NodeOutput:
        return io.NodeOutput(calibration_file.load(calibration))
