"""The emoji's autoencoder as a TAESD's tensors, for ComfyUI's VAE loader."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .vae import CHANNELS, DECODER, SD3, UPSAMPLED, WIDTH, Block, Decoder, Encoder

PLACES = (0, 2, 4)
"""Where the convolutions of a block are."""


class _Layout:
    """A state dict that is filled layer by layer, with zeros where nothing is said."""

    def __init__(self) -> None:
        self.state = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}

    def conv(self, name: str, n_in: int, n_out: int, bias: bool = True) -> Tensor:
        """An empty 3 x 3 convolution; its weight, to be filled."""
        self.state[f"{name}.weight"] = torch.zeros(n_out, n_in, 3, 3)
        if bias:
            self.state[f"{name}.bias"] = torch.zeros(n_out)
        return self.state[f"{name}.weight"]

    def learnt(self, name: str, n_in: int, n_out: int, layer: nn.Conv2d) -> None:
        """A narrower convolution in the first channels of a wide one."""
        n, m = layer.weight.shape[:2]
        self.conv(name, n_in, n_out, layer.bias is not None)[:n, :m] = layer.weight.detach()
        if layer.bias is not None:
            self.state[f"{name}.bias"][:n] = layer.bias.detach()

    def blocks(self, part: str, numbers: Iterable[int], learnt: dict[int, Block]) -> None:
        """Those in ``learnt`` as they are; the others pass on what is positive."""
        for number in numbers:
            for place in PLACES:
                name = f"{part}.{number}.conv.{place}"
                if number in learnt:
                    self.learnt(name, WIDTH, WIDTH, learnt[number].conv[place])
                else:
                    self.conv(name, WIDTH, WIDTH)


def taesd(encoder: Encoder, decoder: Decoder) -> dict[str, Tensor]:
    """Both in a TAESD's layout: narrower layers in the first channels, zeros elsewhere."""
    layout = _Layout()
    _encoder(layout, encoder)
    _decoder(layout, decoder)
    return layout.state


def _encoder(layout: _Layout, encoder: Encoder) -> None:
    """The patches' layer in three: the pixels of 2 x 2, then 4 x 4 side by side, then its sums."""
    part = "taesd_encoder"
    layout.conv(f"{part}.0", 3, WIDTH)[range(3), range(3), 1, 1] = 1
    layout.blocks(part, (1, 3, 4, 5, 7, 8, 9), {})
    layout.conv(f"{part}.2", WIDTH, WIDTH, bias=False)[:12, :3, 1:, 1:] = _beside(3)
    layout.conv(f"{part}.6", WIDTH, WIDTH, bias=False)[:48, :12, 1:, 1:] = _beside(12)
    # Rows of a patch are 4 p + 2 q + a: q and a are in the 48 channels, p is in the kernel.
    patches = encoder.patches.weight.detach().reshape(WIDTH, 3, *[2] * 6)  # p, q, a; p, q, a
    last = patches.permute(0, 1, 4, 7, 3, 6, 2, 5).reshape(WIDTH, 48, 2, 2)
    layout.conv(f"{part}.10", WIDTH, WIDTH, bias=False)[:, :48, 1:, 1:] = last
    layout.blocks(part, (11, 12, 13), dict(zip((11, 12, 13), encoder.blocks, strict=True)))
    layout.learnt(f"{part}.14", WIDTH, CHANNELS, encoder.out)
    # From SD3's space to the autoencoder's own.
    layout.state[f"{part}.14.weight"] /= SD3.scale
    layout.state[f"{part}.14.bias"] /= SD3.scale
    layout.state[f"{part}.14.bias"] += SD3.shift


def _decoder(layout: _Layout, decoder: Decoder) -> None:
    part = "taesd_decoder"
    layout.learnt(f"{part}.1", CHANNELS, WIDTH, decoder.enter)
    learnt = {
        number: block
        for numbers, group in zip(DECODER, decoder.blocks, strict=True)
        for number, block in zip(numbers, group, strict=True)
    }
    layout.blocks(part, (3, 4, 5, 8, 9, 10, 13, 14, 15, 18), learnt)
    for number, layer in zip(UPSAMPLED, decoder.larger, strict=True):
        name = f"{part}.{number}"
        layout.learnt(name, WIDTH, WIDTH, layer)
    layout.learnt(f"{part}.19", WIDTH, 3, decoder.out)


def _beside(channels: int) -> Tensor:
    """(4 c, c, 2, 2): the four pixels of a cell side by side, as channels (c, row, column)."""
    return torch.eye(4 * channels).reshape(4 * channels, channels, 2, 2)
