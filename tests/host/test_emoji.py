"""The emoji model in running servers: opened by ComfyUI's own loader, it draws what is asked."""

import numpy as np
import pytest
from PIL import Image

from tests.host.server import Server
from tests.host.test_workflows import find, latent, twin, with_share, without_node

pytestmark = pytest.mark.comfy


def asking(words: str) -> dict:
    """The workflow's twin with another word."""
    prompt = twin("emoji")
    node = prompt[find(prompt, "KSampler")]["inputs"]["positive"][0]
    prompt[node]["inputs"]["text"] = words
    return prompt


def drawn(server: Server, words: str) -> np.ndarray:
    """Four pictures (4, 64, 64, 3)."""
    prompt = asking(words)
    files = server.pictures(server.run(prompt)[find(prompt, "SaveImage")])
    return np.stack([np.asarray(Image.open(f).convert("RGB"), float) for f in files])


def test_words_decide_the_colours(server: Server) -> None:
    hearts = {c: drawn(server, f"{c} heart") for c in ("blue", "green")}
    for channel, colour in ((2, "blue"), (1, "green")):
        pictures = hearts[colour]
        assert pictures.shape == (4, 64, 64, 3)
        middle = pictures[:, 24:40, 24:40].mean((0, 1, 2))
        assert middle.argmax() == channel, (colour, middle)
        assert middle[channel] - middle[0] > 40, (colour, middle)
        assert pictures[:, :4, :4].mean() > 230, "the ground is not white"


def test_the_file_is_whole(server: Server) -> None:
    drawn(server, "red apple")
    assert "clip missing" not in server.log and "unexpected" not in server.log.lower()


def test_half_of_the_calls_make_the_sampler_s_own_picture(server: Server) -> None:
    prompt = asking("rocket")
    node = find(prompt, "KSampler")
    own = latent(server, without_node(prompt), node)

    def error(changed: dict) -> float:
        return float((latent(server, changed, node) - own).square().mean().sqrt() / own.std())

    assert error(with_share(prompt, 1.0)) == 0
    steps = without_node(prompt)
    steps[node]["inputs"]["steps"] = 15
    half, fewer_steps = error(prompt), error(steps)
    assert 0 < half < 0.1 and half < fewer_steps, (half, fewer_steps)
