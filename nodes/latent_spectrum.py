"""The node that measures how fine the details of a user's own latents are, for Coarse First."""

from typing import Any

from comfy_api.latest import io, ui

from ..sv_core.errors import InvalidInput
from ..sv_core.progressive import transition_time
from ..sv_core.spectrum import amplitude_ratio, fit_power_law
from . import schema
from .checks import require_latent
from .host import flow
from .host.compat import supported
from .plots.spectrum import describe_spectrum, plot_spectrum


class LatentSpectrum(io.ComfyNode):
    """LATENTs -> SPECTRUM, its plot, and the noise levels that follow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="LatentSpectrum",
            display_name="Latent Spectrum",
            category=schema.SAMPLING,
            description="Measures the spectrum of a model's latents on your own pictures, from "
            "which Coarse First knows how long a smaller picture suffices. Without it, Coarse "
            "First uses the published spectrum of Flux or Wan. Runs no model.",
            search_aliases=["stable velocity", "spectrum", "power law", "coarse first"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model whose latents they are."),
                io.Latent.Input(
                    "latents",
                    tooltip="Pictures of the kind that you make, through VAE Encode, as one batch: "
                    "16 are enough.",
                ),
                io.Latent.Input(
                    "smaller",
                    optional=True,
                    tooltip="The same pictures at half their size through VAE Encode: shows "
                    "whether the VAE treats both sizes alike.",
                ),
            ],
            outputs=[
                schema.output(schema.SPECTRUM, "spectrum", "Connect to Coarse First."),
                schema.output(io.Image, "plot", "The picture, 1200 x 660."),
                schema.output(
                    io.Float, "level", "The noise level down to which half the size suffices."
                ),
                schema.output(io.String, "report", "What was found, as text."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, latents: dict, smaller: dict | None = None) -> io.NodeOutput:
        x = _pictures(model, latents)
        law = fit_power_law(x)
        ratio = None if smaller is None else amplitude_ratio(x, _pictures(model, smaller))
        plot, report = plot_spectrum(x, law)[None], describe_spectrum(law, ratio)
        level = transition_time(law.power_at(0.5), 0.05)
        return io.NodeOutput(law, plot, level, report, ui=ui.PreviewImage(plot, cls=cls))


def _pictures(model: Any, latents: dict) -> Any:
    """The latents as the network has them. Raises InvalidInput for sound and picture together."""
    require_latent(latents)
    samples = latents["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim not in (4, 5):
        raise InvalidInput("a spectrum is of pictures or videos: connect latents of those alone")
    return flow.to_model(model, samples.float())
