"""Test-only nodes: what tiny models (tests/host/tiny.py) need in place of text encoders.

Put this folder into custom_nodes. It replaces the text encoder behind the host's own CLIP loaders
and behind checkpoints, so that a workflow runs unchanged, and lets older hosts read a small
Flux file and decode a video with a picture's autoencoder as newer ones do. Diffusion models and
VAEs are built, loaded and run by the host's own code.
"""

import zlib

import comfy.model_detection
import comfy.sd
import torch

# Widths of a family's text features and of its pooled vector, as the official encoders give them.
WIDTHS = {"sd3": (4096, 2048), "flux": (4096, 768), "qwen_image": (3584, 768), "wan": (4096, 768)}
TOKENS = 16


def text_features(family: str, text: str) -> list:
    """A CONDITIONING drawn from the text's checksum: equal texts agree, others do not."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    width, pooled_width = WIDTHS[family]
    tokens = torch.randn(1, TOKENS, width, generator=generator)
    pooled = torch.randn(1, pooled_width, generator=generator)
    return [[tokens, {"pooled_output": pooled}]]


class StandInText:
    """Just enough of a CLIP for the nodes that encode a prompt."""

    def __init__(self, family: str):
        self.family = family

    def tokenize(self, text, **options):
        return text

    def encode_from_tokens_scheduled(self, tokens, **options):
        return text_features(self.family, tokens)


def load_stand_in(ckpt_paths, embedding_directory=None, clip_type=None, **options):
    return StandInText(clip_type.name.lower())


load_checkpoint = comfy.sd.load_checkpoint_guess_config


def load_checkpoint_with_text(*args, **options):
    model, clip, *rest = load_checkpoint(*args, **options)
    return (model, clip or StandInText("sd3"), *rest)


detect_unet_config = comfy.model_detection.detect_unet_config


def detect_small_flux(state_dict, key_prefix, **options):
    config = detect_unet_config(state_dict, key_prefix, **options)
    if config is not None and config.get("image_model") == "flux":
        width = state_dict[key_prefix + "img_in.weight"].shape[0]
        config |= {"hidden_size": width, "num_heads": width // sum(config["axes_dim"])}
    return config


decode = comfy.sd.VAE.decode


def decode_first_frame(vae, samples, *args, **options):
    """A picture's autoencoder decodes the first frame of a video, as in newer hosts."""
    if vae.latent_dim == 2 and samples.ndim == 5:
        samples = samples[:, :, 0]
    return decode(vae, samples, *args, **options)


comfy.sd.VAE.decode = decode_first_frame
comfy.sd.load_clip = load_stand_in
comfy.sd.load_checkpoint_guess_config = load_checkpoint_with_text
comfy.model_detection.detect_unet_config = detect_small_flux  # newer hosts read the same widths


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
        return (text_features(family, text),)


NODE_CLASS_MAPPINGS = {"TinyConditioning": TinyConditioning}
