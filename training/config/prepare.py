"""The configuration of ``training.prepare``: what is made of a folder, and how."""

from dataclasses import dataclass

from sv_core.models.families import latents, spelled

from .parse import knob

KINDS = ("one", "lines", "tags")

FPS = 16.0


@dataclass(frozen=True)
class PrepareConfig:
    """What the cache holds, then (from ``batch`` on) how it is computed.

    ``size``: the side of the square, or of the square of a bucket's area. ``patch_size``: the
    network's, so that features fall on its tokens. ``flip`` both: mirror images are cached too.
    ``shard``: pictures per file, and so what a kill costs at most; unset it follows their number.

    ``text`` are the family's text encoders, read by the ComfyUI in ``comfy`` as the VAEs of Qwen
    and Wan are; a class is told to them as ``template``. ``captions`` lines: each line of a .txt is
    a caption of its own; tags: tags between commas make ``variants`` captions, shuffled but for the
    first ``keep``. ``repeats`` folders: the pictures in a folder 10_name count ten times. ``masks``
    suffix: a.mask.png is the mask of a.png; alpha: its transparency is. Of a video the first
    ``frames`` at ``fps`` are taken.
    """

    layout: str = knob("auto", choices=["auto", "classes", "captions"])
    size: int = knob(256, low=8)
    buckets: str = knob("square", choices=["square", "aspect"])
    step: int = knob(32, low=1)
    max_aspect: float = knob(2.0, low=1)
    channels: int = knob(3, choices=[1, 3])
    vae: str | None = None
    family: str | None = None
    text: tuple[str, ...] = ()
    template: str = "{}"
    captions: str = knob("one", choices=KINDS)
    variants: int = knob(4, low=1)
    keep: int = knob(1, low=0)
    repeats: str = knob("none", choices=["none", "folders"])
    masks: str = knob("none", choices=["none", "suffix", "alpha"])
    frames: int = knob(17, low=1)
    fps: float = knob(FPS, low=0.1)
    encoder: str | None = None
    patch_size: int = knob(2, low=1)
    flip: str = knob("none", choices=["none", "both"])
    precision: str = knob("fp32", choices=["fp32", "bf16"])
    shard: int | None = knob(None, low=1)
    batch: int = knob(16, low=1)
    workers: int = knob(4, low=1)
    device: str = knob("auto", choices=["auto", "cpu", "cuda"])
    comfy: str | None = None

    def __post_init__(self) -> None:
        """One spelling of the family. Raises InvalidInput, in one sentence, for an unknown one."""
        if self.family is not None:
            latents(self.family)
            object.__setattr__(self, "family", spelled(self.family))
