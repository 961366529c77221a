"""Pictures in, latents and features out: the networks that a cache is made with."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from .encoders import Encoder
from .plan import PrepareConfig
from .shards import Index
from .vae import load as load_vae


class Codec:
    """Bytes (b, c, h, w) of pictures -> latents and features, with flips as a second view."""

    def __init__(
        self,
        config: PrepareConfig,
        index: Index,
        encoder: Encoder | None,
        latents: bool,
    ):
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no such GPU: use auto or cpu")
        cuda = config.device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.views, self.batch, self.latent = index.views, config.batch, index.latent
        self.channels = 3 if config.vae else config.channels
        self.bf16 = config.precision == "bf16"
        self.vae = load_vae(Path(config.vae), config.family) if config.vae and latents else None
        self.encoder, self.patch_size = encoder, config.patch_size
        for part in (self.vae, self.encoder):
            if part is not None:
                part.model.to(self.device)

    def _each_view(self, images: Tensor) -> Iterable[Tensor]:
        images = images.to(self.device).float() / 255
        return [images, images.flip(-1)][: self.views]

    @torch.no_grad()
    def latents(self, images: Tensor, sums: dict[str, float]) -> Tensor:
        """(b, c, h, w) bytes -> (b, views, c, h', w'), and into ``sums`` the latents' moments."""
        if self.vae is None:
            return torch.stack([images, images.flip(-1)][: self.views], 1)
        means = []
        for view in self._each_view(images):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                mean, std = (x.float() for x in self.vae.encode(view))
            x = self.latent.to_model(mean).double()
            moments = (x.sum(), x.square().sum(), (std * self.latent.scale).double().square().sum())
            for key, value in zip(("sum", "square", "posterior"), moments, strict=True):
                sums[key] = sums.get(key, 0.0) + value.item()
            sums["count"] = sums.get("count", 0.0) + x.numel()
            means.append(_half(mean, "the VAE's latents"))
        return torch.stack(means, 1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(b, c, h, w) bytes -> (b, views, tokens, dim)."""
        assert self.encoder is not None
        token = self.latent.downscale * self.patch_size
        grid = (images.shape[-2] // token, images.shape[-1] // token)
        found = []
        for view in self._each_view(images):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                z = self.encoder.features(view.expand(-1, 3, -1, -1), grid)
            found.append(_half(z, "the encoder's features"))
        return torch.stack(found, 1)


def _half(x: Tensor, what: str) -> Tensor:
    """As float16, which must hold it. Raises FloatingPointError, in one sentence."""
    x = x.half().cpu()
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"{what} are not finite numbers: use precision=fp32, and if it is, another file"
        )
    return x
