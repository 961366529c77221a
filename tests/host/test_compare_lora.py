"""workflows/compare_lora.json: A is the base, B the base with as much of the LoRA as is asked."""

import pytest
import torch

from tests.host.server import Server
from tests.host.test_workflows import find, latent, twin

pytestmark = pytest.mark.comfy


def sampled(server: Server, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents of A and of B."""
    prompt = twin("compare_lora")
    prompt[find(prompt, "LoraLoaderModelOnly")]["inputs"]["strength_model"] = strength
    report = prompt[find(prompt, "FidelityReport")]["inputs"]
    pictures = (prompt[report[side][0]] for side in ("reference", "candidate"))
    a, b = (latent(server, prompt, picture["inputs"]["samples"][0]) for picture in pictures)
    return a, b


def test_strength_scales_what_the_lora_changes_and_0_changes_nothing(server: Server) -> None:
    runs = {strength: sampled(server, strength) for strength in (0.0, 0.25, 1.0)}
    base = runs[0.0][0]
    assert torch.equal(*runs[0.0])
    assert all(torch.equal(a, base) for a, _ in runs.values())
    changes = [float((b - a).std() / a.std()) for a, b in runs.values()]
    assert changes[0] < 0.5 * changes[1] and changes[1] < 0.5 * changes[2]
    assert changes[2] > 0.01, changes
