"""Test-only nodes: what tiny models (tests/host/tiny.py) need in place of text encoders.

Put this folder into custom_nodes. It replaces the text encoder behind the host's own CLIP loaders
and behind checkpoints, so that a workflow runs unchanged. A file's ``stand_in`` may say how many
tokens, how wide, and the pooled width; else they are the family's own. It also lets hosts read
small Flux and Qwen files, encode a video with a picture's autoencoder, and older ones decode one as
newer ones do. Diffusion models and VAEs are built, loaded and run by the host's own code.
"""

import zlib

import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch

# Widths of a family's text features and of its pooled vector, as the official encoders give them.
WIDTHS = {
    "sd3": (4096, 2048), "flux": (4096, 768), "qwen_image": (3584, 768), "wan": (4096, 768),
    "stable_diffusion": (1024, 768),  # Anima's too
    "flux2": (64, 768), "lumina2": (64, 768), "ltxv": (64, 768),  # tiny_newer.py's
}  # fmt: skip
TOKENS = 16
LARGE = 512 * 512  # pixels
HEAD = 128  # the width of one of Qwen-Image's attention heads


def text_features(text: str, tokens: int, width: int, pooled_width: int) -> list:
    """A CONDITIONING drawn from the text's checksum: equal texts agree, others do not."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    features = torch.randn(1, tokens, width, generator=generator)
    pooled = torch.randn(1, pooled_width, generator=generator)
    return [[features, {"pooled_output": pooled}]]


class StandInText:
    """Just enough of a CLIP for the nodes that encode a prompt."""

    def __init__(self, family: str, sizes: tuple[int, int, int] | None = None):
        self.sizes = sizes or (TOKENS, *WIDTHS[family])

    def tokenize(self, text, **options):
        return text

    def encode_from_tokens_scheduled(self, tokens, **options):
        return text_features(tokens, *self.sizes)


def load_stand_in(ckpt_paths, embedding_directory=None, clip_type=None, **options):
    said = comfy.utils.load_torch_file(ckpt_paths[0])["stand_in"].tolist()
    return StandInText(clip_type.name.lower(), tuple(said) if len(said) == 3 else None)


load_checkpoint = comfy.sd.load_checkpoint_guess_config


def load_checkpoint_with_text(*args, **options):
    model, clip, *rest = load_checkpoint(*args, **options)
    return (model, clip or StandInText("sd3"), *rest)


detect_unet_config = comfy.model_detection.detect_unet_config


def detect_small(state_dict, key_prefix, *args, **options):
    config = detect_unet_config(state_dict, key_prefix, *args, **options)
    kind = None if config is None else config.get("image_model")
    if kind in ("flux", "qwen_image"):
        width = state_dict[key_prefix + "img_in.weight"].shape[0]
        if kind == "flux":
            config |= {"hidden_size": width, "num_heads": width // sum(config["axes_dim"])}
        else:
            config["num_attention_heads"] = width // HEAD
    elif kind == "lumina2" and config["dim"] == 2 * HEAD:
        config |= Z_IMAGE
    elif kind == "anima" and config["model_channels"] == HEAD:
        config |= {"num_blocks": 1, "num_heads": 1}
    return config


Z_IMAGE = {
    "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
if hasattr(comfy.supported_models, "ZImage"):
    comfy.supported_models.ZImage.unet_config["dim"] = 2 * HEAD  # by which the host knows it

decode = comfy.sd.VAE.decode


def decode_first_frame(vae, samples, *args, **options):
    """A picture's autoencoder decodes the first frame of a video, as in newer hosts."""
    if vae.latent_dim == 2 and samples.ndim == 5:
        samples = samples[:, :, 0]
    return decode(vae, samples, *args, **options)


encode = comfy.sd.VAE.encode


def encode_every_fourth_frame(vae, pixel_samples, *args, **options):
    """A picture's autoencoder encodes the frames 0, 4, 8, ... of a video, as many as Wan's has.

    A picture of a megapixel, which Qwen-Image-Edit makes of any reference, is reduced to an eighth
    of its width: the network's attention over it would take a CPU minutes.
    """
    frames, height, width = pixel_samples.shape[:3]
    if height * width > LARGE:
        pixel_samples = pixel_samples[:, ::8, ::8]
    if vae.latent_dim == 2 and frames > 1 and frames % 4 == 1:
        return encode(vae, pixel_samples[::4], *args, **options).transpose(0, 1)[None]
    return encode(vae, pixel_samples, *args, **options)


comfy.sd.VAE.encode = encode_every_fourth_frame
comfy.sd.VAE.decode = decode_first_frame
comfy.sd.load_clip = load_stand_in
comfy.sd.load_checkpoint_guess_config = load_checkpoint_with_text
comfy.model_detection.detect_unet_config = detect_small  # of Flux newer hosts read the same


class TinyConditioning:
    """A CONDITIONING without a text encoder."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "family": (list(WIDTHS), {"tooltip": "The model family that it is for."}),
                "text": ("STRING", {"default": "", "tooltip": "Equal texts give equal features."}),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "test"

    def encode(self, family, text):
        return (text_features(text, TOKENS, *WIDTHS[family]),)


NODE_CLASS_MAPPINGS = {"TinyConditioning": TinyConditioning}
