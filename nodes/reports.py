"""Nodes for judging: a picture of a time grid, and a comparison of two batches of pictures."""

from comfy_api.latest import io, ui
from torch import Tensor

from . import schema
from .checks import require_boundary, require_comparable, require_gain, require_split
from .grid_check import require_flow_grid
from .host.compat import supported
from .plots.comparison import choose_gain, report_scores, score, side_by_side
from .plots.grid import describe_grids, plot_grids

PREVIEWS = 4
"""Pictures that Fidelity Report shows at the node; its outputs hold all of them."""


class RegimePlot(io.ComfyNode):
    """A time grid and its regimes as an IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="RegimePlot",
            display_name="Regime Plot",
            category=schema.SAMPLING,
            description="Draws a time grid: the model's native nodes and those in use, the regime "
            "split, the boundary between two experts, and the calls saved. Runs no model.",
            search_aliases=["stable velocity", "plot sigmas", "schedule picture"],
            is_output_node=True,
            inputs=[
                io.Sigmas.Input(
                    "native", tooltip="The grid before the split, as BasicScheduler makes it."
                ),
                io.Sigmas.Input(
                    "used", tooltip="The grid that is sampled on, as RegimeSplitScheduler makes it."
                ),
                schema.split_input(
                    "Noise level between the regimes; 0.85 is the paper's. Use the scheduler's "
                    "value."
                ),
                schema.boundary_input(),
            ],
            outputs=[
                schema.output(io.Image, "plot", "The picture, 1200 x 720."),
                schema.output(
                    io.String, "report", "Calls saved, and calls by regime and expert, as text."
                ),
            ],
        )

    @classmethod
    def execute(cls, native: Tensor, used: Tensor, split: float, boundary: float) -> io.NodeOutput:
        require_split(split)
        require_boundary(boundary)
        native = require_flow_grid(native, "native", fewest=1)
        used = require_flow_grid(used, "used", fewest=1)
        plot = plot_grids(native, used, split, boundary)[None]
        report = describe_grids(native, used, split, boundary)
        return io.NodeOutput(plot, report, ui=ui.PreviewImage(plot, cls=cls))


class FidelityReport(io.ComfyNode):
    """The differences between two IMAGE batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="FidelityReport",
            display_name="Fidelity Report",
            category=schema.SAMPLING,
            description="Compares two batches of pictures, pair by pair: PSNR, SSIM, an amplified "
            "difference picture and a side-by-side. It measures how near the candidate is to the "
            "reference, not which of them is better.",
            search_aliases=["stable velocity", "psnr", "ssim", "compare images", "difference"],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "reference", tooltip="The pictures to come near to, such as a 30-step run."
                ),
                io.Image.Input(
                    "candidate",
                    tooltip="The pictures to judge: the same seed, prompt, number and size as the "
                    "reference.",
                ),
                schema.number(
                    "amplify",
                    0.0,
                    (0.0, 256.0, 1.0),
                    "How many times the difference picture is amplified. 0 chooses the largest "
                    "power of two at which nothing is clipped, and the report states it.",
                ),
            ],
            outputs=[
                schema.output(
                    io.Image,
                    "comparison",
                    "Reference, candidate and difference side by side, with the scores.",
                ),
                schema.output(
                    io.Image,
                    "difference",
                    "The absolute difference, amplified; black where the two agree.",
                ),
                schema.output(
                    io.Float,
                    "psnr",
                    "Of the whole batch, in dB: 20 resembles, 30 is close, 40 is hard to see. "
                    "Infinite for equal pictures.",
                ),
                schema.output(
                    io.Float,
                    "ssim",
                    "Structural similarity, mean over the batch: 1 for equal pictures. Not a "
                    "number for pictures below 11 pixels a side.",
                ),
                schema.output(io.String, "report", "All scores as text; connect Preview Any."),
            ],
        )

    @classmethod
    def execute(cls, reference: Tensor, candidate: Tensor, amplify: float) -> io.NodeOutput:
        require_comparable(reference, candidate)
        require_gain(amplify)
        scores = score(reference, candidate)
        gain = amplify or choose_gain(scores.largest)
        difference = ((reference - candidate).abs() * gain).clamp(0, 1)
        comparison = side_by_side(reference, candidate, difference, scores, gain)
        report = report_scores(scores, gain, f"{reference.shape[2]} x {reference.shape[1]}")
        return io.NodeOutput(
            comparison,
            difference,
            scores.psnr_all,
            scores.ssim_all,
            report,
            ui=ui.PreviewImage(comparison[:PREVIEWS], cls=cls),
        )
