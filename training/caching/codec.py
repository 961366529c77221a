"""The networks that make a cache: from pictures to latents and features."""

import contextlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models.families import has_frames, stride

from ..config.prepare import PrepareConfig
from ..data.format import Index
from ..encoders.comfy import HostVae, is_tiny
from ..encoders.dinov2 import Encoder
from ..encoders.vae import Vae
from ..encoders.vae import load as load_vae
from ..networks.comfy.folder import find


def device_of(config: PrepareConfig) -> torch.device:
    """The device of the networks. Raises InvalidInput when it is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device is cuda, but torch sees no such GPU: use auto or cpu")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


class Codec:
    """Bytes (b, c, h, w) of pictures -> latents and features, with flips as a second view.

    Of videos, and of pictures for families with a time axis, (b, c, frames, h, w).
    """

    def __init__(
        self,
        config: PrepareConfig,
        index: Index,
        encoder: Encoder | None,
        latents: bool,
    ):
        self.device = device_of(config)
        self.views, self.batch, self.latent = index.views, config.batch, index.latent
        self.channels = 3 if config.vae else config.channels
        self.bf16 = config.precision == "bf16"
        self.vae: Vae | HostVae | None = None
        if config.vae and latents:
            self.vae = open_vae(
                Path(config.vae), index.latent, config.comfy, self.device, self.bf16
            )
        self.encoder, self.patch_size = encoder, config.patch_size
        for part in (self.vae, self.encoder):
            if part is not None and not isinstance(part, HostVae):
                part.model.to(self.device)

    def close(self) -> None:
        """Free the networks' memory."""
        if isinstance(self.vae, HostVae):
            self.vae.close()
        self.vae = self.encoder = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _each_view(self, images: Tensor) -> Iterable[Tensor]:
        images = images.to(self.device).float() / 255
        return [images, images.flip(-1)][: self.views]

    @torch.no_grad()
    def latents(self, images: Tensor, sums: dict[str, float]) -> Tensor:
        """(b, c, h, w) bytes -> (b, views, c, h', w'), and into ``sums`` the latents' moments."""
        if self.vae is None:
            return torch.stack([images, images.flip(-1)][: self.views], 1)
        # ComfyUI has already converted the weights to bfloat16, and knows where to compute finer.
        cast = self.bf16 and not isinstance(self.vae, HostVae)
        means = []
        for view in self._each_view(images):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=cast):
                mean, std = self.vae.encode(view)
            mean = mean.float()
            x = self.latent.to_model(mean).double()
            moments = {"sum": x.sum(), "square": x.square().sum()}
            if std is not None:
                moments["posterior"] = self.latent.std_to_model(std.float()).double().square().sum()
            for key, value in moments.items():
                sums[key] = sums.get(key, 0.0) + value.item()
            sums["count"] = sums.get("count", 0.0) + x.numel()
            means.append(_half(mean, "the VAE's latents"))
        return torch.stack(means, 1)

    def masks(self, masks: Tensor) -> Tensor:
        """(b, 1, h, w) bytes -> (b, views, 1, h', w') bytes, or with a time axis of one frame.

        A latent cell counts as much as its pixels do on average.
        """
        cells = avg_pool2d(masks.float(), self.latent.downscale).round().byte()
        if has_frames(self.latent.kind):
            cells = cells[:, :, None]
        return torch.stack([cells, cells.flip(-1)][: self.views], 1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(b, c, h, w) bytes -> (b, views, tokens, dim).

        Of a video those of the frames 0, 4, 8, ..., one for each frame of the latent, in order.
        """
        assert self.encoder is not None
        token = self.latent.downscale * self.patch_size
        grid = (images.shape[-2] // token, images.shape[-1] // token)
        found = []
        for view in self._each_view(images):
            if view.ndim == 5:
                view = view[:, :, :: stride(self.latent.kind)].movedim(2, 1).flatten(0, 1)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                z = self.encoder.features(view.expand(-1, 3, -1, -1), grid)
            z = z.unflatten(0, (len(images), -1)).flatten(1, 2)
            found.append(_half(z, "the encoder's features"))
        return torch.stack(found, 1)


def open_vae(
    path: Path, latent: LatentSpec, comfy: str | None, device: torch.device, bf16: bool = False
) -> Vae | HostVae:
    """Open a VAE by diffusers, or by ComfyUI where only that can read it or its folder is named.

    Raises InvalidInput, in one sentence, for another family's file or a damaged one.
    """
    through_host = comfy is not None or has_frames(latent.kind) or is_tiny(path)
    if not through_host and importlib.util.find_spec("diffusers") is None:
        with contextlib.suppress(InvalidInput):
            find()
            through_host = True
    if through_host:
        return HostVae(path, latent, comfy, device, bf16)
    return load_vae(path, latent.kind)


def _half(x: Tensor, what: str) -> Tensor:
    """As float16. Raises FloatingPointError, in one sentence, when that is not finite."""
    x = x.half().cpu()
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"{what} are not finite numbers: use precision=fp32, and if it is, another file"
        )
    return x
