"""Pictures to judge by: a time grid and its regimes, and how near one picture is to another."""

from comfy_api.latest import io, ui
from torch import Tensor

from .checks import SPLIT, check_grid, check_pair, require_split
from .grids import BOUNDARY
from .host import compat, flow
from .plots.comparison import choose_gain, report_scores, score, side_by_side
from .plots.grid import describe_grids, plot_grids

PREVIEWS = 4  # pictures that FidelityReport shows in the graph; its outputs hold all of them


class RegimePlot(io.ComfyNode):
    """A grid and its regimes as an IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="RegimePlot",
            display_name="Regime Plot",
            category=flow.CATEGORY,
            description=(
                "Draws a time grid: the model's native nodes and those in use, the regime split, "
                "the boundary between two experts, and the calls saved. Runs no model."
            ),
            search_aliases=["stable velocity", "plot sigmas", "schedule picture"],
            is_output_node=True,
            inputs=[
                io.Sigmas.Input(
                    "native", tooltip="The grid before the split, as BasicScheduler makes it."
                ),
                io.Sigmas.Input(
                    "used", tooltip="The grid that is sampled on, as RegimeSplitScheduler makes it."
                ),
                compat.known(
                    io.Float.Input,
                    "split",
                    default=SPLIT,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Noise level between the regimes; 0.85 is the paper's. Use the "
                        "scheduler's value."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "boundary",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip=BOUNDARY,
                ),
            ],
            outputs=[
                io.Image.Output("PLOT", display_name="plot", tooltip="The picture, 1200 x 720."),
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="Calls saved, and calls by regime and expert, in words.",
                ),
            ],
        )

    @classmethod
    def execute(cls, native: Tensor, used: Tensor, split: float, boundary: float) -> io.NodeOutput:
        require_split(split)
        native, used = check_grid("native", native), check_grid("used", used)
        plot = plot_grids(native, used, split, boundary)[None]
        report = describe_grids(native, used, split, boundary)
        return io.NodeOutput(plot, report, ui=ui.PreviewImage(plot, cls=cls))


class FidelityReport(io.ComfyNode):
    """How near one IMAGE batch is to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.known(
            io.Schema,
            node_id="FidelityReport",
            display_name="Fidelity Report",
            category=flow.CATEGORY,
            description=(
                "Compares two batches of pictures, pair by pair: PSNR, SSIM, an amplified "
                "difference picture and a side-by-side. It measures how near the candidate is to "
                "the reference, not which of them is better."
            ),
            search_aliases=["stable velocity", "psnr", "ssim", "compare images", "difference"],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "reference", tooltip="The pictures to come near to, such as a 30-step run."
                ),
                io.Image.Input(
                    "candidate",
                    tooltip=(
                        "The pictures to judge: the same seed, prompt, number and size as the "
                        "reference."
                    ),
                ),
                compat.known(
                    io.Float.Input,
                    "amplify",
                    default=0.0,
                    min=0.0,
                    max=256.0,
                    step=1.0,
                    tooltip=(
                        "How many times the difference picture is amplified. 0 chooses the "
                        "largest power of two at which nothing is clipped, and says it."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    "COMPARISON",
                    display_name="comparison",
                    tooltip="Reference, candidate and difference side by side, with the scores.",
                ),
                io.Image.Output(
                    "DIFFERENCE",
                    display_name="difference",
                    tooltip="The absolute difference, amplified; black where the two agree.",
                ),
                io.Float.Output(
                    "PSNR",
                    display_name="psnr",
                    tooltip=(
                        "Of the whole batch, in dB: 20 resembles, 30 is close, 40 is hard to see. "
                        "Infinite for equal pictures."
                    ),
                ),
                io.Float.Output(
                    "SSIM",
                    display_name="ssim",
                    tooltip=(
                        "Structural similarity, mean over the batch: 1 for equal pictures. Not a "
                        "number for pictures below 11 pixels a side."
                    ),
                ),
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="All scores in words; connect Preview Any.",
                ),
            ],
        )

    @classmethod
    def execute(cls, reference: Tensor, candidate: Tensor, amplify: float) -> io.NodeOutput:
        check_pair(reference, candidate)
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
