"""The pictures that a run shows of its network as it goes."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.sampling import sample_forecast

from ..caching.codec import open_vae
from ..data.dataset import Dataset
from ..encoders.comfy import HostVae
from ..encoders.vae import Vae
from ..files import fingerprint
from ..networks.base import Backbone
from ..sampling.pictures import SHIFT, native_grid, sample, sample_calls, start_noise, write_grid

CPU = torch.device("cpu")
CALLS = 14
SHEETS = ((16, (10, 10, 100)), (32, (10, 4, 8)), (math.inf, (4, 1, 1)))
"""By the latent's longer side, at most: conditions shown, pictures of each, pictures at a time."""


class Preview:
    """Pictures of a run as it goes: a row per class (the first ten), the same noise every time.

    With ``calls`` they are made of average velocities: all rows in so many calls, then again in the
    next number of them.
    """

    def __init__(
        self,
        data: Dataset,
        vae: Path | None = None,
        calls: tuple[int, ...] = (),
        comfy: str | None = None,
        device: torch.device = CPU,
    ):
        """Without a VAE latents are shown in false colours: their first three channels.

        A VAE that only ComfyUI can read is opened through the ComfyUI in ``comfy``, on ``device``,
        beside the network. Raises InvalidInput, in one sentence, for a VAE that is not the
        data's.
        """
        self.data, self.calls = data, calls
        self.vae: Vae | HostVae | None = None
        if vae is not None and data.latent.kind != "pixels":
            if fingerprint(vae) != data.identity.get("vae"):
                raise InvalidInput(
                    f"run.vae = {vae} is not the VAE that the cache was made with: name that one"
                )
            self.vae = open_vae(vae, data.latent, comfy, device)

    def write(self, backbone: Backbone, path: Path | None) -> None:
        """Sample, and write the PNG unless ``path`` is None.

        One of a pair of experts cannot make pictures alone: then nothing is written.
        """
        if backbone.span != (0.0, 1.0):
            return
        shape = self.data.shapes[0]
        # Of large pictures fewer, and fewer at a time: activations fill the memory.
        rows, columns, chunk = next(sizes for most, sizes in SHEETS if max(shape[-2:]) <= most)
        classes = torch.arange(min(self.data.num_classes, rows))
        labels = classes.repeat_interleave(columns)
        noise = start_noise(shape, len(labels))
        latents = [
            make(y, z)
            for make in self._ways(backbone)
            for y, z in zip(labels.split(chunk), noise.split(chunk), strict=True)
        ]
        if path is not None:
            images = self._pictures(torch.cat(latents))
            write_grid(path, images, columns, max(1, 48 // images.shape[-1]))

    def _ways(self, backbone: Backbone) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Functions that make latents of labels and noise, one for each block of rows."""
        if self.calls:
            return [partial(sample_calls, backbone, calls=n) for n in self.calls]
        null, ts = self.data.num_classes, native_grid(factor=max(SHIFT, backbone.shift))
        forecast = partial(sample_forecast, calls=CALLS)
        return [lambda labels, noise: sample(backbone, labels, null, noise, ts, sampler=forecast)]

    @torch.no_grad()
    def _pictures(self, latents: Tensor) -> Tensor:
        if self.data.latent.kind == "pixels":
            return latents
        if self.vae is None:
            shown = (self.data.latent.to_model(latents)[:, :3] / 4 + 0.5).clamp(0, 1)
        else:
            shown = torch.cat([self.vae.decode(one) for one in latents.split(1)])
            if isinstance(self.vae, HostVae):
                self.vae.rest()
        return shown if shown.ndim == 4 else shown[:, :, shown.shape[2] // 2]  # a video's middle
