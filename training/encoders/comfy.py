"""VAEs and text encoders of ComfyUI's families, from the user's files, by ComfyUI's own code."""

import gc
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models import families
from sv_core.models.families import Text

from ..networks.comfy.folder import find

# Tensors that files may lack: encoding text does not use them.
_OPTIONAL = re.compile(r"text_projection|logit_scale|position_ids|visual\.|lm_head")


def check_text(files: Sequence[str], family: str | None) -> None:
    """Check by the files' headers alone that these are the text encoders of the family.

    Raises InvalidInput, in one sentence, when they are not.
    """
    text = _text_of(family)
    usable = sorted(encoder.name for encoder in text.usable)
    needed = {encoder.name for encoder in text.needed}
    found: list[str] = []
    for file in files:
        name = identify(Path(file))
        if name not in usable:
            raise InvalidInput(
                f"{file} is {name or 'no text encoder that is known here'}, and family "
                f"{families.spelled(str(family))} takes {' and '.join(usable)}"
            )
        found.append(name)
    lacking = needed - set(found)
    if lacking or len(set(found)) < len(found):
        raise InvalidInput(
            f"family {families.spelled(str(family))} takes one file each of "
            f"{' and '.join(usable)}, text= names {' and '.join(found) or 'none'}"
        )


def _text_of(family: str | None) -> Text:
    """The text part of a family's record. Raises InvalidInput, in one sentence, if it has none."""
    record = families.find(family)
    if record is None or record.text is None:
        raise InvalidInput(
            f"text encoders need the family that they belong to: set family= to one of "
            f"{families.names('text')}"
            + (f", {families.spelled(family)} has none here" if family else "")
        )
    return record.text


def identify(path: Path) -> str | None:
    """Which text encoder a .safetensors file holds. Raises InvalidInput when it cannot be read."""
    shapes = _shapes(path)
    known = {encoder: None for f in families.FAMILIES if f.text for encoder in f.text.usable}
    for encoder in known:
        size = shapes.get(encoder.sign, [None])[0]
        if encoder.sign in shapes and encoder.size in (None, size) and encoder.lacks not in shapes:
            return encoder.name
    return None


def is_tiny(path: Path) -> bool:
    """Whether a VAE's file holds a TAESD, which takes single pictures and shrinks them 8 times."""
    try:
        return any("taesd_encoder." in key for key in _shapes(path))
    except InvalidInput:
        return False


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}") from None
    except (OSError, SafetensorError) as e:
        raise InvalidInput(
            f"{path} cannot be read as .safetensors ({e}): name another file of it"
        ) from e


class HostVae:
    """A VAE that ComfyUI loaded, as an encoder."""

    vae: Any  # ComfyUI's own, until it is closed

    def __init__(
        self, path: Path, latent: LatentSpec, folder: str | None, device: torch.device, bf16: bool
    ):
        """Raises InvalidInput, in one sentence, when it is no VAE or one of another family."""
        self.host = _host(folder, device)
        dtype = torch.bfloat16 if bf16 else torch.float32
        with _complete(f"{path} is not a whole VAE"):
            state, metadata = self.host.utils.load_torch_file(
                str(path), safe_load=True, return_metadata=True
            )
            vae = self.host.sd.VAE(sd=_inner(state), metadata=metadata, dtype=dtype)
        if vae.first_stage_model is None:
            raise InvalidInput(
                f"{path} holds no VAE that this ComfyUI knows: name the VAE's own file"
            )
        self.vae, self.latent, self.timed = vae, latent, families.has_frames(latent.kind)
        has = (int(vae.latent_channels), vae.spacial_compression_encode())
        if has != (latent.channels, latent.downscale):
            raise InvalidInput(
                f"{path} makes latents of {has[0]} channels, {has[1]} times smaller than the "
                f"picture; family {families.spelled(latent.kind)} has {latent.channels} and "
                f"{latent.downscale}"
            )

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """Images (b, 3, h, w), or (b, 3, frames, h, w), in [0, 1] -> the posterior's mean.

        The second value would be its std, which ComfyUI does not return: None. A VAE of single
        pictures gets the frames 0, 4, 8, ... of a video, the last one of each latent frame.
        """
        if not self.timed:
            return self._encode(images.movedim(1, -1)), None
        means = []
        for video in images:  # ComfyUI takes a batch (f, h, w, 3) for one video, or for pictures
            frames = video.movedim(0, -1)
            if self.vae.latent_dim == 3:
                means.append(self._encode(frames)[0])
            else:
                means.append(
                    self._encode(frames[:: families.stride(self.latent.kind)]).movedim(0, 1)
                )
        return torch.stack(means), None

    def _encode(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.vae.encode(images).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, h, w), or (b, c, f, h, w), -> images (b, 3, ...) in [0, 1], likewise."""
        with torch.no_grad():
            if self.timed and self.vae.latent_dim == 2:  # one picture a frame
                flat = latents.movedim(2, 1).flatten(0, 1)
                return self._decode(flat).unflatten(0, (len(latents), -1)).movedim(1, 2)
            return self._decode(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).float().movedim(-1, 1).clamp(0, 1).cpu()

    def rest(self) -> None:
        """Move it off the GPU until it is used again."""
        self.host.management.unload_all_models()

    def close(self) -> None:
        """Free its memory."""
        self.vae = None
        _free(self.host)


class HostText:
    """Text encoders that ComfyUI loaded: ``encoder(text)`` -> its tensors by name."""

    clip: Any  # ComfyUI's own, until it is closed

    def __init__(self, files: Sequence[str], family: str, folder: str | None, device: torch.device):
        """Raises InvalidInput, in one sentence, when a file of them is not whole."""
        self.host = _host(folder, device)
        text = _text_of(family)
        # Brackets in a caption are no emphasis; the templates of some families already ensure it.
        self.options = {} if text.literal else {"disable_weights": True}
        with _complete(f"{' and '.join(files)} are not whole text encoders"):
            self.clip = self.host.sd.load_clip(
                list(files), clip_type=getattr(self.host.sd.CLIPType, text.kind)
            )

    def __call__(self, text: str) -> dict[str, Tensor]:
        """``context`` (L, D) and, where the family has them, ``pooled`` (P,), ``attention_mask``.

        The text is taken literally: brackets change no weights.
        """
        with torch.no_grad():
            tokens = self.clip.tokenize(text, **self.options)
            ((context, extra),) = self.clip.encode_from_tokens_scheduled(tokens)
        found = {"context": context, "pooled": extra.get("pooled_output")}
        found["attention_mask"] = extra.get("attention_mask")
        return {name: x[0].cpu() for name, x in found.items() if x is not None}

    def close(self) -> None:
        """Free their memory."""
        self.clip = None
        _free(self.host)


def _inner(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's tensors, also out of a whole checkpoint."""
    for prefix in ("first_stage_model.", "vae."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside:
            return inside
    return dict(state)


def _host(folder: str | None, device: torch.device) -> Any:
    """ComfyUI, imported only when it is needed: that takes seconds."""
    from ..networks.comfy.host import open_host

    try:
        found = find(folder)
    except InvalidInput as e:
        raise InvalidInput(f"{e} (training.prepare: --set comfy=FOLDER)") from e
    return open_host(found, device)


def _free(host: Any) -> None:
    gc.collect()
    host.management.unload_all_models()
    host.management.soft_empty_cache()


@contextmanager
def _complete(problem: str) -> Iterator[None]:
    """Context manager: InvalidInput when ComfyUI fails, or logs that a file lacks tensors.

    ComfyUI only logs it, and goes on with uninitialised memory in their place.
    """
    logged: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger().addHandler(listener)
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # on unexpected tensors it raises all kinds of exceptions
        reason = str(e).strip().splitlines()
        raise InvalidInput(
            f"{problem}, or of another kind: {reason[0] if reason else type(e).__name__}"
        ) from e
    finally:
        logging.getLogger().removeHandler(listener)
    for line in logged:
        if "missing" in line.lower():
            names = [n for n in re.findall(r"'([^']+)'", line) if not _OPTIONAL.search(n)]
            if names:
                raise InvalidInput(
                    f"{problem}: {names[0]} is missing (and {len(names) - 1} others)"
                )
