"""A trained network as a flow: its ODE is what it says, converged, and no exact one is known."""

from pathlib import Path

import torch
from torch import Tensor

from training.data.digits import load as load_digits
from training.demo.recogniser import Recogniser
from training.networks.sit import load
from training.sampling.pictures import guided_velocity

from .flows import Flow

CHECKPOINT = Path(__file__).parents[1] / "out" / "demo" / "digits_sit.safetensors"
"""What ``python dev.py demo`` trains."""
CLASSES, SIZE = 10, 8


def digits_sit() -> Flow:
    """The demo's digits transformer, guidance 2, sample i asked for digit i mod 10.

    A mode is the digit that the demo's classifier sees.
    """
    backbone, judge = load(CHECKPOINT), Recogniser()

    def pictures(x: Tensor) -> Tensor:
        return x.view(-1, 1, SIZE, SIZE)

    @torch.inference_mode()
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        guided = guided_velocity(backbone, torch.arange(len(x)) % CLASSES, CLASSES)
        return guided(pictures(x).float(), t.float()).flatten(1).to(x)

    def modes(x: Tensor) -> Tensor:
        return judge.classes(backbone.latent.from_model(pictures(x)).clamp(0, 1))

    std = float(backbone.latent.to_model(load_digits()[0].images).std(0).square().mean().sqrt())
    return Flow("trained digits SiT, guided, 64-D", SIZE**2, 30, std, velocity, modes)
