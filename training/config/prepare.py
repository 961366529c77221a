"""The configuration of ``training.prepare``: what is made of a folder of pictures, and how."""

from dataclasses import dataclass

from sv_core.models.families import FLUX, latents, names, spelled

from .parse import knob

KINDS = ("one", "lines", "tags")

FPS = 16.0


@dataclass(frozen=True)
class PrepareConfig:
    """What the cache holds, then (from ``batch`` on) how it is computed."""

    layout: str = knob(
        "auto",
        "What the condition of a picture is: the name of its folder, or the text of the .txt "
        "beside it. auto is captions where any picture has such a text.",
        choices=["auto", "classes", "captions"],
    )
    size: int = knob(
        256,
        "The side of the square, or of the square that has a bucket's area.",
        unit="pixels",
        low=8,
        high=16_384,
        example=1024,
    )
    buckets: str = knob(
        "square",
        "What pictures are cropped to: a square, or the bucket whose aspect ratio is nearest.",
        choices=["square", "aspect"],
    )
    step: int = knob(
        32, "The multiple of which a bucket's sides are.", unit="pixels", low=1, example=64
    )
    max_aspect: float = knob(
        2.0,
        "The largest ratio of a bucket's long side to its short one.",
        low=1,
        high=1000,
        example=2.0,
    )
    channels: int = knob(3, "1 for grey pictures, which have no VAE; 3 for colour.", choices=[1, 3])
    vae: str | None = knob(
        None,
        "The file of the VAE that makes latents of the pictures. Unset, the cache holds pixels. It "
        "needs family.",
        example="../../models/vae/ae.safetensors",
    )
    family: str | None = knob(
        None,
        "The model family whose latents these are, because a VAE's file does not say how they are "
        f"scaled: {names('latent', ' or ')}. It needs vae.",
        example=FLUX.name,
    )
    text: tuple[str, ...] = knob(
        (),
        "The files of the family's text encoders, which ComfyUI's own code reads.",
        example=("clip_l.safetensors", "t5xxl_fp16.safetensors"),
    )
    template: str = knob(
        "{}",
        "The sentence that the text encoders get for a class; {} is its name.",
        example="a photo of a {}",
    )
    captions: str = knob(
        "one",
        "What a .txt is: one caption; a caption in every line; or tags between commas, of which "
        "several captions are made.",
        choices=KINDS,
    )
    variants: int = knob(
        4, "How many captions are made of tags by shuffling them.", low=1, example=8
    )
    keep: int = knob(
        1, "How many tags at the beginning are not shuffled.", unit="tags", low=0, example=2
    )
    repeats: str = knob(
        "none",
        "folders: the pictures in a folder that is called 10_name count ten times.",
        choices=["none", "folders"],
    )
    masks: str = knob(
        "none",
        "What says how much each part of a picture counts: the file a.mask.png beside a.png, or "
        "the picture's transparency.",
        choices=["none", "suffix", "alpha"],
    )
    frames: int = knob(
        17,
        "How many frames of a video are taken, from its beginning; a multiple of 4 and one more.",
        unit="frames",
        low=1,
        example=49,
    )
    fps: float = knob(
        FPS,
        "How many frames of a video's second are taken.",
        unit="frames per second",
        low=0.1,
        example=FPS,
    )
    encoder: str | None = knob(
        None,
        "The file of the DINOv2 whose features are cached for alignment. Unset: no features.",
        example="dinov2-base.safetensors",
    )
    patch_size: int = knob(
        2,
        "The network's own patch size, so that a feature falls on each of its tokens.",
        unit="latent cells",
        low=1,
        example=2,
    )
    flip: str = knob(
        "none", "both: the mirror image of every picture is cached too.", choices=["none", "both"]
    )
    precision: str = knob(
        "fp32", "The precision that the VAE and the encoder compute in.", choices=["fp32", "bf16"]
    )
    shard: int | None = knob(
        None,
        "How many pictures a file of the cache holds, and so what is lost at most when the command "
        "is killed. Unset, it follows their number.",
        unit="pictures",
        low=1,
        example=1024,
    )
    batch: int = knob(
        16, "How many pictures are encoded at once.", unit="pictures", low=1, example=4
    )
    workers: int = knob(
        4, "How many threads read and decode files.", unit="threads", low=1, example=8
    )
    device: str = knob(
        "auto", "What computes; auto is a GPU where there is one.", choices=["auto", "cpu", "cuda"]
    )
    comfy: str | None = knob(
        None,
        "The ComfyUI whose code reads text encoders and the VAEs of Qwen-Image and Wan. Unset, it "
        "is looked for at COMFYUI_PATH, around this pack and at comfy-cli's default place.",
        example="../..",
    )

    def __post_init__(self) -> None:
        """One spelling of the family. Raises InvalidInput, in one sentence, for an unknown one."""
        if self.family is not None:
            latents(self.family)
            object.__setattr__(self, "family", spelled(self.family))
