"""A trained network as a flow: its ODE is what it says, converged, and no exact one is known."""

from pathlib import Path

import torch
from torch import Tensor

from sv_core.guidance import guided
from sv_core.sampling import VelocityFn
from training.data.digits import load as load_digits
from training.demo.recogniser import Recogniser
from training.networks.sit import load

from .flows import Flow

CHECKPOINT = Path(__file__).parents[1] / "out" / "demo" / "digits_sit.safetensors"
"""What ``python dev.py demo`` trains."""
CLASSES, SIZE = 10, 8


def digits_sit(scale: float = 2.0) -> Flow:
    """The demo's digits transformer under guidance, sample i asked for digit i mod 10.

    A mode is the digit that the demo's classifier sees.
    """
    backbone, judge = load(CHECKPOINT), Recogniser()

    def pictures(x: Tensor) -> Tensor:
        return x.view(-1, 1, SIZE, SIZE)

    def evaluated(cond: int | None) -> VelocityFn:
        """With sample i's own digit, or without any."""

        @torch.inference_mode()
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            asked = torch.arange(len(x)) % CLASSES if cond is None else torch.full((len(x),), cond)
            v = backbone.velocity(pictures(x).float(), t.float().expand(len(x)), asked)
            return v.flatten(1).to(x)

        return velocity

    pair = evaluated(None), evaluated(CLASSES)
    velocity = guided(*pair, scale)

    def modes(x: Tensor) -> Tensor:
        return judge.classes(backbone.latent.from_model(pictures(x)).clamp(0, 1))

    std = float(backbone.latent.to_model(load_digits()[0].images).std(0).square().mean().sqrt())
    name = f"trained digits SiT, cfg {scale:g}"
    return Flow(name, SIZE**2, 30, std, velocity, modes, pair if scale != 1 else None, pictures)
