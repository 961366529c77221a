"""The emoji model as the demo reads it is the one that ComfyUI opens: text, network, pictures."""

from functools import cache

import pytest
import torch

from tests.host.server import PACK
from tests.training.in_comfy import HOST
from training.demo import picture_model

pytestmark = pytest.mark.inside
CHECKPOINT, TABLE = PACK / "models/emoji.ckpt", PACK / "models/emoji/words.json"
TEXTS = ("red apple", "smiling face with heart eyes", "penguin", "")


@cache
def theirs():
    """(network, text encoder, autoencoder) as CheckpointLoaderSimple opens the file."""
    return HOST.sd.load_checkpoint_guess_config(str(CHECKPOINT))[:3]


@cache
def ours():
    return picture_model.load(CHECKPOINT, TABLE, TEXTS)


def in_full(context, times):
    """Every token as often as it stands for."""
    return context.repeat_interleave(times.long(), dim=1)


def encoded():
    clip = theirs()[1]
    said = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in TEXTS]
    return [torch.cat(parts).float() for parts in zip(*said, strict=True)]


def test_a_text_is_encoded_as_by_the_host():
    context, pooled = encoded()
    torch.testing.assert_close(in_full(ours()._context, ours()._times), context)
    torch.testing.assert_close(ours()._pooled, pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
def test_the_velocity_is_the_host_s(size):
    network = theirs()[0].model.diffusion_model.float()
    context, pooled = encoded()
    draw = torch.Generator().manual_seed(0)
    x, t = torch.randn(len(TEXTS), 16, *size, generator=draw), torch.tensor([0.95, 0.6, 0.3, 0.05])
    with torch.no_grad():
        wanted = network(x, 1000 * t, context, pooled)
        made = ours().velocity(x, t, torch.arange(len(TEXTS)))
    torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-4)


def test_a_latent_is_decoded_as_by_the_host():
    vae = theirs()[2]
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = vae.decode(latents).movedim(-1, 1)
        made = ours().decode(latents)
    torch.testing.assert_close(made, wanted.float(), rtol=0, atol=2e-3)
