"""A small autoencoder for the emoji, in the layout of a TAESD, which ComfyUI's VAE loader knows.

python -m models.emoji.vae PICTURES FOLDER [--encoder MINUTES] [--decoder MINUTES]

A TAESD is 64 channels wide at every size, and most of that work would be at 64 x 64 pixels. So each
half is trained as a narrower network, which layout.py writes as a TAESD with zeros elsewhere:

encoder   patches of 8 x 8 pixels -> 64 numbers, three blocks, 16 latent channels. Learnt with a
          stand-in decoder on the same grid, which is then thrown away; both begin as the principal
          components of the patches.
decoder   16 channels -> blocks at 8, 16, 32 and 64, of 64, 64, 40 and 24 channels.

Latents come out with mean 0 and variance 1 in SD3's space, z = (raw - 0.0609) * 1.5305.
"""

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sv_core.latent import LatentSpec
from sv_core.models.families import latents

CELL, WIDTH, CHANNELS = 8, 64, 16
SD3: LatentSpec = latents("sd3")
WIDTHS = (64, 64, 40, 24)
"""Channels of the decoder at an eighth, a quarter, a half and the whole of the picture's side."""
DECODER = ((3, 4, 5), (8, 9), (13,), (18,))
"""Which of a TAESD decoder's blocks are learnt at each of these sizes; the others pass on."""
UPSAMPLED = (7, 12, 17)
NOISE = 0.05
"""Added to the latents in training: a sampler's latents are not exact either."""


class Block(nn.Module):
    """x -> ReLU(x + conv ReLU conv ReLU conv x); at the start x -> ReLU(x)."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        nn.init.zeros_(convs[2].weight)
        nn.init.zeros_(convs[2].bias)
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class Encoder(nn.Module):
    """Pictures (b, 3, h, w) of [0, 1] -> latents (b, 16, h / 8, w / 8) in SD3's space."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, CELL, stride=CELL, bias=False)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(3)))
        self.out = nn.Conv2d(WIDTH, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.patches(x)))


class StandIn(nn.Module):
    """A decoder on the latents' own grid: every cell says its 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(3)))
        self.out = nn.Conv2d(WIDTH, 3 * CELL**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(self.out(self.blocks(F.relu(self.enter(z)))), CELL)


class Decoder(nn.Module):
    """Latents in SD3's space -> pictures: a TAESD's decoder, narrower and with fewer blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(CHANNELS, WIDTHS[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in numbers))
            for width, numbers in zip(WIDTHS, DECODER, strict=True)
        )
        self.larger = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(WIDTHS)
        )
        self.out = nn.Conv2d(WIDTHS[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        raw = z / SD3.scale + SD3.shift
        x = F.relu(self.enter(torch.tanh(raw / 3) * 3))
        for number, blocks in enumerate(self.blocks):
            if number:
                x = self.larger[number - 1](F.interpolate(x, scale_factor=2.0))
            x = blocks(x)
        return self.out(x)


def load_pictures(folder: Path) -> Tensor:
    """(n, 3, h, w) of [0, 1], in the order of their names."""
    files = sorted(folder.glob("*.png"))
    pictures = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    """In dB, over all pixels, for values of [0, 1]."""
    return -10 * math.log10(float((a.clamp(0, 1) - b).square().mean()))


def begin(encoder: Encoder, decoder: StandIn, pictures: Tensor) -> None:
    """Both as the first principal components of the patches, each as itself and its negative."""
    patches = F.pixel_unshuffle(pictures, CELL).movedim(1, -1).flatten(0, -2)
    mean = patches.mean(0)
    _, values, basis = torch.linalg.svd((patches - mean)[::2], full_matrices=False)
    half = WIDTH // 2
    basis = basis[:half]
    spread = (values[:CHANNELS] / len(patches[::2]) ** 0.5)[:, None]
    with torch.no_grad():
        both = torch.cat([basis, -basis])
        encoder.patches.weight.copy_(both.unflatten(1, (3, CELL, CELL)))
        offset = basis[:CHANNELS] @ mean
        for layer in (encoder.out, decoder.enter, decoder.out):
            layer.weight.mul_(0.01)
            layer.bias.zero_()
        rows = torch.arange(CHANNELS)
        encoder.out.weight[rows, rows, 1, 1] += 1 / spread[:, 0]
        encoder.out.weight[rows, rows + half, 1, 1] -= 1 / spread[:, 0]
        encoder.out.bias.sub_(offset / spread[:, 0])
        decoder.enter.weight[rows, rows, 1, 1] += 1
        decoder.enter.weight[rows + half, rows, 1, 1] -= 1
        decoder.out.weight[:, :CHANNELS, 1, 1] += (basis[:CHANNELS] * spread).T
        decoder.out.weight[:, half : half + CHANNELS, 1, 1] -= (basis[:CHANNELS] * spread).T
        decoder.out.bias.copy_(mean)


def standardise(encoder: Encoder, pictures: Tensor) -> None:
    """Mean 0 and variance 1 of every channel over these pictures."""
    with torch.no_grad():
        z = encoder(pictures).movedim(1, 0).flatten(1)
        std = z.std(1)
        encoder.out.weight.div_(std[:, None, None, None])
        encoder.out.bias.sub_(z.mean(1)).div_(std)


def fit(
    modules: list[nn.Module],
    loss: Callable[[], Tensor],
    report: Callable[[], str],
    minutes: float,
    lr: float,
) -> None:
    """AdamW with a cosine over the time; every hundred steps ``report()`` is printed."""
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.98), weight_decay=1e-4)
    began, steps = time.monotonic(), 0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        warm = min(1.0, (steps + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            print(f"{steps} steps, {share:.0%} of the time, {report()}", flush=True)


def train_encoder(pictures: Tensor, minutes: float) -> Encoder:
    """With a stand-in for the decoder; 64 pictures a step."""
    encoder, decoder = Encoder(), StandIn()
    begin(encoder, decoder, pictures)

    def loss() -> Tensor:
        x = pictures[torch.randint(len(pictures), (64,))]
        z = encoder(x)
        y = decoder(z + NOISE * torch.randn_like(z))
        return F.mse_loss(y, x) + 1e-5 * (z.var((0, 2, 3)) - 1).square().sum()

    def report() -> str:
        with torch.no_grad():
            return f"{psnr(decoder(encoder(pictures[::3])), pictures[::3]):.2f} dB"

    print(f"principal components: {report()}", flush=True)
    fit([encoder, decoder], loss, report, minutes, 1e-3)
    standardise(encoder, pictures)
    return encoder


def train_decoder(decoder: Decoder, encoder: Encoder, pictures: Tensor, minutes: float) -> None:
    """Eight pictures a step; the encoder stays as it is."""
    with torch.no_grad():
        latents = encoder(pictures)

    def loss() -> Tensor:
        rows = torch.randint(len(pictures), (8,))
        z = latents[rows]
        return F.mse_loss(decoder(z + NOISE * torch.randn_like(z)), pictures[rows])

    def report() -> str:
        with torch.no_grad():
            return f"{psnr(decoder(latents[::12]), pictures[::12]):.2f} dB"

    fit([decoder], loss, report, minutes, 3e-3)


def begin_decoder() -> Decoder:
    """White all over, and layers that keep the size of what they are given."""
    decoder = Decoder()
    nn.init.constant_(decoder.out.bias, 0.9)
    for layer in decoder.larger:
        nn.init.kaiming_normal_(layer.weight)
    return decoder


def train(pictures: Tensor, folder: Path, minutes: tuple[float, float]) -> tuple[Encoder, Decoder]:
    """Both halves, each kept in ``folder``: an encoder that is there stays, a decoder goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.safetensors" for name in ("encoder", "decoder")]
    torch.manual_seed(0)
    if files[0].exists():
        encoder = Encoder()
        encoder.load_state_dict(load_file(files[0]))
    else:
        encoder = train_encoder(pictures, minutes[0])
        save_file(encoder.state_dict(), files[0])
    decoder = begin_decoder()
    if files[1].exists():
        decoder.load_state_dict(load_file(files[1]))
    train_decoder(decoder, encoder, pictures, minutes[1])
    save_file({k: v.contiguous() for k, v in decoder.state_dict().items()}, files[1])
    return encoder, decoder


def main(arguments: list[str] | None = None) -> int:
    from .layout import taesd

    parser = argparse.ArgumentParser(prog="python -m models.emoji.vae")
    parser.add_argument("pictures", metavar="PICTURES", type=Path, help="of models.emoji.render")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="gets vae.safetensors")
    parser.add_argument("--encoder", metavar="MINUTES", type=float, default=6.0)
    parser.add_argument("--decoder", metavar="MINUTES", type=float, default=25.0)
    options = parser.parse_args(arguments)
    pictures = load_pictures(options.pictures)
    minutes = (options.encoder, options.decoder)
    encoder, decoder = train(pictures, options.folder, minutes)
    save_file(taesd(encoder, decoder), options.folder / "vae.safetensors")
    with torch.no_grad():
        print(f"the whole set: {psnr(decoder(encoder(pictures)), pictures):.2f} dB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
