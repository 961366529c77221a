"""Every flow model that ComfyUI knows, tiny: its own classes, random weights, milliseconds a call.

``FAMILIES`` has for each class of ``comfy.supported_models`` the smallest configuration that still
has every kind of layer, a latent of its layout, and what its conditioning must hold.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

TOKENS = 6
"""Of every text."""
Draw = Callable[..., Tensor]
"""Random numbers of a shape."""
Extra = Callable[[Draw], dict[str, Any]]


@dataclass(frozen=True)
class Tiny:
    """One class of the host, made small."""

    name: str
    """What our records call it."""
    config: Mapping[str, Any]
    """What the host would read off a file."""
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]
    """Of the latent of one sample, or of each part of a nested one."""
    text: int
    """Width of the text's tokens."""
    pooled: int = 0
    more: Extra = field(default=lambda draw: {})
    """What else its conditioning holds."""
    tokens: int = TOKENS
    state: Callable[[Draw], dict[str, Tensor]] = field(default=lambda draw: {})
    """What of the file the host reads beside the network."""
    idle: tuple[str, ...] = ()
    """Parts of fixed size that do not run here."""
    shorten: str = ""
    """A list of blocks, of a length that the host fixes, that is cut down to one."""


_FLUX = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 24, "context_in_dim": 32,
    "hidden_size": 128, "num_heads": 1, "mlp_ratio": 2.0, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    "image_model": "flux", "txt_ids_dims": [],
}  # fmt: skip
_CHROMA = {k: v for k, v in _FLUX.items() if k != "guidance_embed"} | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 128,
    "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
_HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
    "vec_in_dim": 24, "context_in_dim": 32, "hidden_size": 128, "num_heads": 1, "mlp_ratio": 2.0,
    "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False, "meanflow_sum": False,
    "use_cond_type_embedding": False, "vision_in_dim": None,
}  # fmt: skip
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "num_heads": 1, "ffn_dim": 128,
    "num_layers": 1, "patch_size": (1, 2, 2), "freq_dim": 32, "window_size": (-1, -1),
    "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "in_dim": 16, "out_dim": 16,
    "text_dim": 32,
}  # fmt: skip
_COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 8,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "concat_padding_mask": True, "model_channels": 128, "num_blocks": 1, "num_heads": 1,
    "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True,
    "adaln_lora_dim": 16, "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": 32,
    "n_layers": 1, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 1, "n_kv_heads": 1,
    "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
    "ffn_dim_multiplier": 1.0,
}  # fmt: skip
_ZIMAGE = _LUMINA | {
    "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "num_attention_heads": 1,
    "attention_head_dim": 128, "joint_attention_dim": 32,
}  # fmt: skip
_KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 128, "axes_dims": (32, 48, 48), "time_dim": 32,
    "ff_dim": 128, "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 1,
    "in_text_dim": 32, "in_text_dim2": 24,
}  # fmt: skip
_OMNIGEN = {
    "image_model": "omnigen2", "axes_dim_rope": [40, 40, 40], "axes_lens": [64, 64, 64],
    "hidden_size": 120, "in_channels": 16, "multiple_of": 32, "num_attention_heads": 1,
    "num_kv_heads": 1, "num_layers": 1, "num_refiner_layers": 1, "text_feat_dim": 32,
    "timestep_scale": 1000.0,
}  # fmt: skip
_HUNYUAN3D = {
    "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 32, "hidden_size": 64,
    "mlp_ratio": 2.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "qkv_bias": True,
    "guidance_embed": False,
}  # fmt: skip
_LTX = {
    "num_layers": 1, "attention_head_dim": 64, "num_attention_heads": 1, "cross_attention_dim": 64,
    "caption_channels": 32, "in_channels": 128,
}  # fmt: skip


def _seconds(draw: Draw) -> dict[str, Tensor]:
    embedding = "conditioner.conditioners.seconds_total.embedder.embedding.1."
    return {f"{embedding}weight": draw(768, 256) / 16, f"{embedding}bias": 0.02 * draw(768)}


PICTURE, FRAME, VIDEO = (16, 8, 8), (16, 1, 8, 8), (16, 2, 8, 8)


def _masked(draw: Draw) -> dict[str, Any]:
    return {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}


def _first_frame(draw: Draw) -> dict[str, Any]:
    return {"concat_latent_image": draw(1, *VIDEO), "concat_mask": torch.ones(1, 1, 2, 8, 8)}


FAMILIES: dict[str, Tiny] = {
    "SD3": Tiny(
        "SD3.5",
        {
            "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 1, "num_blocks": 2,
            "input_size": None, "adm_in_channels": 24, "num_patches": 64, "pos_embed_max_size": 8,
            "qk_norm": "rms", "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [0],
            "context_embedder_config": {
                "target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 64},
            },
        },
        PICTURE, 32, 24,
    ),
    "AuraFlow": Tiny(
        "AuraFlow",
        {
            "cond_seq_dim": 2048, "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 1,
            "global_conddim": 64, "max_seq": 64,
        },
        (4, 8, 8), 2048,
    ),
    "Flux": Tiny("Flux", _FLUX, PICTURE, 32, 24),
    "FluxInpaint": Tiny("Flux", _FLUX | {"in_channels": 96}, PICTURE, 32, 24),
    "FluxSchnell": Tiny("Flux", _FLUX | {"guidance_embed": False}, PICTURE, 32, 24),
    "LongCatImage": Tiny(
        "LongCat-Image",
        _FLUX | {
            "guidance_embed": False, "vec_in_dim": None, "context_in_dim": 3584,
            "txt_ids_dims": [1, 2],
        },
        PICTURE, 3584,
    ),
    "Flux2": Tiny(
        "Flux.2",
        _FLUX | {
            "image_model": "flux2", "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000,
            "in_channels": 128, "out_channels": 128, "patch_size": 1, "global_modulation": True,
            "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "vec_in_dim": None,
            "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
        },
        (128, 4, 4), 32,
    ),
    "Lens": Tiny(
        "Lens",
        {
            "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 1,
            "num_attention_heads": 1, "enc_hidden_dim": 32, "multi_layer_encoder_feature": True,
            "selected_layer_index": (0, 1),
        },
        (128, 4, 4), 64,
    ),
    "GenmoMochi": Tiny(
        "Mochi",
        {
            "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2,
            "hidden_size_x": 64, "hidden_size_y": 64, "mlp_ratio_x": 192.0, "mlp_ratio_y": 96.0,
            "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False,
            "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
            "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False,
            "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": 32, "t5_token_length": TOKENS,
            "rope_theta": 10000.0,
        },
        (12, 2, 8, 8), 32, more=_masked,
    ),
    "LTXV": Tiny(
        "LTX-Video", _LTX | {"image_model": "ltxv"}, (128, 2, 4, 4), 32,
        more=_masked,
    ),
    "LTXAV": Tiny(
        "LTX-2",
        _LTX | {
            "image_model": "ltxav", "audio_in_channels": 128, "audio_cross_attention_dim": 64,
            "audio_attention_head_dim": 64, "audio_num_attention_heads": 1,
            "connector_attention_head_dim": 32, "connector_num_attention_heads": 1,
        },
        ((128, 2, 4, 4), (8, 5, 16)), 64,
    ),
    "HunyuanVideo": Tiny("HunyuanVideo", _HUNYUAN, VIDEO, 32, 24),
    "HunyuanVideoI2V": Tiny(
        "HunyuanVideo", _HUNYUAN | {"in_channels": 33}, VIDEO, 32, 24, _first_frame
    ),
    "HunyuanVideoSkyreelsI2V": Tiny(
        "HunyuanVideo", _HUNYUAN | {"in_channels": 32}, VIDEO, 32, 24, _first_frame
    ),
    "HunyuanVideo15": Tiny(
        "HunyuanVideo 1.5",
        _HUNYUAN | {
            "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
            "byt5": True, "vision_in_dim": 1152, "use_cond_type_embedding": True,
            "meanflow_sum": True, "guidance_embed": False,
        },
        (32, 2, 4, 4), 32, 24,
    ),
    "HunyuanVideo15_SR_Distilled": Tiny(
        "HunyuanVideo 1.5",
        _HUNYUAN | {
            "in_channels": 98, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
            "byt5": True, "vision_in_dim": 1152, "use_cond_type_embedding": True,
            "meanflow_sum": True, "guidance_embed": False,
        },
        (32, 2, 4, 4), 32, 24,
    ),
    "HunyuanImage21": Tiny(
        "HunyuanImage 2.1",
        _HUNYUAN | {
            "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "vec_in_dim": None,
            "axes_dim": [64, 64], "byt5": True,
        },
        (64, 4, 4), 32,
    ),
    "HunyuanImage21Refiner": Tiny(
        "HunyuanImage 2.1",
        _HUNYUAN | {
            "in_channels": 128, "out_channels": 64, "patch_size": [1, 1, 1], "vec_in_dim": None,
        },
        (64, 1, 4, 4), 32,
    ),
    "CosmosT2IPredict2": Tiny("Cosmos-Predict2", _COSMOS, FRAME, 1024),
    "CosmosI2VPredict2": Tiny(
        "Cosmos-Predict2", _COSMOS | {"in_channels": 17}, VIDEO, 1024
    ),
    "Anima": Tiny("Anima", _COSMOS | {"image_model": "anima"}, FRAME, 1024, idle=("llm_adapter.",)),
    "Lumina2": Tiny("Lumina 2", _LUMINA, PICTURE, 32, more=_masked),
    "ZImage": Tiny("Z-Image", _ZIMAGE, PICTURE, 32),
    "ZImagePixelSpace": Tiny(
        "Z-Image pixels",
        _ZIMAGE | {
            "image_model": "zimage_pixel", "patch_size": 16, "in_channels": 3,
            "decoder_in_channels": 768, "decoder_hidden_size": 128, "decoder_num_res_blocks": 1,
            "decoder_max_freqs": 2,
        },
        (3, 32, 32), 32,
    ),
    "PixelDiTT2I": Tiny(
        "PixelDiT",
        {
            "image_model": "pixeldit_t2i", "num_groups": 1, "hidden_size": 64,
            "pixel_hidden_size": 16, "pixel_attn_hidden_size": 64, "pixel_num_groups": 1,
            "patch_depth": 1, "pixel_depth": 1, "txt_embed_dim": 32, "txt_max_length": 16,
        },
        (3, 32, 32), 32,
    ),
    "PiD": Tiny(
        "PiD",
        {
            "image_model": "pid", "num_groups": 1, "hidden_size": 64, "pixel_hidden_size": 16,
            "pixel_attn_hidden_size": 64, "pixel_num_groups": 1, "patch_depth": 2, "pixel_depth": 1,
            "txt_embed_dim": 32, "txt_max_length": 16, "lq_hidden_dim": 32, "lq_interval": 1,
            "lq_latent_channels": 16, "latent_spatial_down_factor": 8, "lq_num_res_blocks": 1,
        },
        (3, 32, 32), 32,
        more=lambda draw: {"lq_latent": draw(1, 16, 1, 1), "degrade_sigma": torch.zeros(1)},
    ),
    "WAN21_T2V": Tiny("Wan2.2 14B", _WAN, VIDEO, 32),
    "WAN21_I2V": Tiny(
        "Wan2.1", _WAN | {"model_type": "i2v", "in_dim": 36}, VIDEO, 32, more=_first_frame
    ),
    "WAN21_FunControl2V": Tiny(
        "Wan2.1", _WAN | {"model_type": "i2v", "in_dim": 48}, VIDEO, 32,
        more=lambda draw: {"concat_latent_image": draw(1, 32, 2, 8, 8)},
    ),
    "WAN21_CausalAR_T2V": Tiny("Wan causal", _WAN, VIDEO, 32),
    "WAN21_Vace": Tiny(
        "Wan VACE",
        _WAN | {"model_type": "vace", "vace_in_dim": 96, "vace_layers": 1}, VIDEO, 32,
    ),
    "WAN21_Camera": Tiny(
        "Wan2.1", _WAN | {"model_type": "camera", "in_dim": 32}, VIDEO, 32,
        more=lambda draw: {
            "concat_latent_image": draw(1, *VIDEO),
            "camera_conditions": draw(1, 24, 2, 64, 64),
        },
    ),
    "WAN22_Camera": Tiny(
        "Wan2.2 camera", _WAN | {"model_type": "camera_2.2", "in_dim": 36}, VIDEO, 32,
        more=lambda draw: {**_first_frame(draw), "camera_conditions": draw(1, 24, 2, 64, 64)},
    ),
    "WAN22_S2V": Tiny("Wan2.2 S2V", _WAN | {"model_type": "s2v"}, VIDEO, 32),
    "WAN21_HuMo": Tiny(
        "Wan HuMo", _WAN | {"model_type": "humo", "in_dim": 36}, VIDEO, 32,
        idle=("audio_proj.",),
    ),
    "WAN22_Animate": Tiny(
        "Wan2.2 Animate", _WAN | {"model_type": "animate", "in_dim": 36}, VIDEO, 32,
        idle=("motion_encoder.",),
    ),
    "WAN22_T2V": Tiny("Wan2.2 5B", _WAN | {"in_dim": 48, "out_dim": 48}, (48, 2, 8, 8), 32),
    "WAN21_SCAIL": Tiny("Wan SCAIL", _WAN | {"model_type": "scail", "in_dim": 20}, VIDEO, 32),
    "WAN21_SCAIL2": Tiny("Wan SCAIL", _WAN | {"model_type": "scail2", "in_dim": 20}, VIDEO, 32),
    "WAN22_WanDancer": Tiny(
        "WanDancer", _WAN | {"model_type": "wandancer", "in_dim": 36}, VIDEO, 32
    ),
    "Hunyuan3Dv2mini": Tiny("Hunyuan3D 2", _HUNYUAN3D, (64, 16), 32),
    "Hunyuan3Dv2": Tiny("Hunyuan3D 2", _HUNYUAN3D, (64, 16), 32),
    "Hunyuan3Dv2_1": Tiny(
        "Hunyuan3D 2.1",
        {
            "image_model": "hunyuan3d2_1", "in_channels": 64, "context_dim": 32, "hidden_size": 64,
            "mlp_ratio": 2.0, "num_heads": 1, "depth": 3, "num_moe_layers": 1, "num_experts": 2,
            "qkv_bias": False, "guidance_cond_proj_dim": None,
        },
        (64, 16), 32,
    ),
    "TripoSplat": Tiny(
        "TripoSplat",
        {
            "image_model": "triposplat", "q_token_length": 16, "model_channels": 64,
            "cond_channels": 32, "num_blocks": 1, "num_refiner_blocks": 1, "mlp_ratio": 2,
        },
        ((16, 16), (1, 5)), 32,
    ),
    "HiDream": Tiny(
        "HiDream-I1",
        {
            "image_model": "hidream", "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32],
            "caption_channels": [32, 48], "max_resolution": [128, 128], "in_channels": 16,
            "llama_layers": [0, 1], "num_attention_heads": 1, "num_routed_experts": 2,
            "num_activated_experts": 1, "num_layers": 1, "num_single_layers": 1,
            "out_channels": 16, "patch_size": 2, "text_emb_dim": 24,
        },
        PICTURE, 32, 24, lambda draw: {"conditioning_llama3": draw(1, 2, TOKENS, 48)},
    ),
    "HiDreamO1": Tiny(
        "HiDream-O1",
        {
            "image_model": "hidream_o1",
            "text_config_overrides": {
                "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                "num_attention_heads": 1, "num_key_value_heads": 1,
            },
            "vision_config_overrides": {
                "hidden_size": 32, "num_heads": 1, "intermediate_size": 32, "depth": 1,
                "num_position_embeddings": 16, "deepstack_visual_indexes": (),
            },
        },
        (3, 64, 64), 32, more=lambda draw: {"text_input_ids": torch.arange(TOKENS)[None]},
    ),
    "Chroma": Tiny("Chroma", _CHROMA, PICTURE, 32, 24),
    "ChromaRadiance": Tiny(
        "Chroma",
        _CHROMA | {
            "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16,
            "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 2,
            "nerf_tile_size": 512, "nerf_final_head_type": "conv",
            "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False,
        },
        (3, 32, 32), 32, 24,
    ),
    "SeedVR2": Tiny(
        "SeedVR2",
        {
            "image_model": "seedvr2", "vid_dim": 128, "heads": 1, "num_layers": 2, "mm_layers": 1,
            "norm_eps": 1e-5, "mlp_type": "swiglu", "txt_in_dim": 32, "vid_out_norm": True,
        },
        FRAME, 32, more=lambda draw: {"condition": draw(1, 17, 1, 8, 8)},
    ),
    "ACEStep": Tiny(
        "ACE-Step",
        {
            "audio_model": "ace", "attention_head_dim": 64, "in_channels": 8, "inner_dim": 64,
            "max_height": 16, "max_position": 64, "max_width": 64, "mlp_ratio": 2.5,
            "num_attention_heads": 1, "num_layers": 1, "out_channels": 8, "patch_size": [16, 1],
            "rope_theta": 1000000.0, "speaker_embedding_dim": 512, "text_embedding_dim": 32,
            "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [16, 16],
            "ssl_names": ["mert", "m-hubert"], "lyric_encoder_vocab_size": 32,
            "lyric_hidden_size": 1024,
        },
        (8, 16, 8), 32,
        more=lambda draw: {
            "conditioning_lyrics": torch.ones(1, TOKENS, dtype=torch.long), "lyrics_strength": 1.0,
        },
        shorten="lyric_encoder.encoders",
    ),
    "ACEStep15": Tiny(
        "ACE-Step 1.5",
        {
            "audio_model": "ace1.5", "hidden_size": 128, "intermediate_size": 128, "num_heads": 1,
            "num_kv_heads": 1, "encoder_hidden_size": 128, "encoder_num_heads": 1,
            "encoder_intermediate_size": 128, "num_dit_layers": 1, "num_lyric_layers": 1,
            "num_timbre_layers": 1, "num_tokenizer_layers": 1, "text_hidden_dim": 32,
            "fsq_dim": 128,
        },
        (64, 20), 32,
        more=lambda draw: {"conditioning_lyrics": draw(1, TOKENS, 32)},
    ),
    "Omnigen2": Tiny("OmniGen2", _OMNIGEN, PICTURE, 32, more=_masked),
    "Boogu": Tiny(
        "Boogu",
        {
            "image_model": "boogu", "hidden_size": 120, "num_layers": 1, "num_attention_heads": 1,
            "num_kv_heads": 1, "num_double_stream_layers": 1, "num_refiner_layers": 1,
            "instruction_feat_dim": 32, "multiple_of": 32, "axes_lens": [64, 64, 64],
        },
        PICTURE, 32, more=_masked,
    ),
    "MageFlow": Tiny(
        "Mage-Flow",
        {
            "image_model": "mage_flow", "in_channels": 128, "num_layers": 1,
            "num_attention_heads": 1, "joint_attention_dim": 32,
        },
        (128, 4, 4), 32,
    ),
    "QwenImage": Tiny("Qwen-Image", _QWEN, FRAME, 32),
    "JoyImage": Tiny(
        "JoyImage",
        {
            "image_model": "joyimage", "in_channels": 16, "hidden_size": 128,
            "patch_size": [1, 2, 2], "num_layers": 1, "num_attention_heads": 1, "text_dim": 32,
        },
        FRAME, 32,
    ),
    "Ideogram4": Tiny(
        "Ideogram 4",
        {
            "image_model": "ideogram4", "in_channels": 128, "num_layers": 1,
            "num_attention_heads": 1, "attention_head_dim": 128, "intermediate_size": 128,
            "adaln_dim": 16, "llm_features_dim": 32,
        },
        (128, 4, 4), 32,
    ),
    "Krea2": Tiny(
        "Krea",
        {
            "image_model": "krea2", "features": 128, "tdim": 32, "txtdim": 128, "heads": 1,
            "kvheads": 1, "multiplier": 2, "layers": 1, "txtlayers": 2, "txtheads": 1,
            "txtkvheads": 1,
        },
        FRAME, 256,
    ),
    "Kandinsky5": Tiny("Kandinsky 5", _KANDINSKY, VIDEO, 32, 24),
    "Kandinsky5Image": Tiny(
        "Kandinsky 5 Image", _KANDINSKY | {"visual_embed_dim": 64}, PICTURE, 32, 24
    ),
    "ErnieImage": Tiny(
        "Ernie-Image",
        {
            "image_model": "ernie", "hidden_size": 128, "num_attention_heads": 1, "num_layers": 1,
            "ffn_hidden_size": 128, "text_in_dim": 32,
        },
        (128, 4, 4), 32,
    ),
    "StableAudio3": Tiny(
        "Stable Audio 3",
        {
            "audio_model": "dit1.0", "global_cond_shared_embed": True, "global_cond_type": "adaLN",
            "io_channels": 8, "embed_dim": 64, "cond_token_dim": 768, "global_cond_dim": 768,
            "project_cond_tokens": True, "depth": 1, "num_heads": 1, "input_concat_dim": 0,
            "local_add_cond_dim": 9, "timestep_features_type": "expo", "num_memory_tokens": 2,
            "norm_type": "rms_norm", "attn_kwargs": {"qk_norm": "rms"},
        },
        (8, 16), 768, state=_seconds,
    ),
}  # fmt: skip


def drawer(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def fill(network: torch.nn.Module, draw: Draw, idle: tuple[str, ...] = ()) -> None:
    """Random values: norms 1, biases small, weights N(0, 1 / fan-in)."""
    for name, value in network.state_dict().items():
        if name.startswith(idle) or not value.is_floating_point():
            continue
        if value.ndim <= 1:
            norm = name.endswith(("weight", "scale", "gamma"))
            value.copy_(torch.ones(value.shape) if norm else 0.02 * draw(*value.shape))
        else:
            value.copy_(draw(*value.shape) * math.prod(value.shape[1:]) ** -0.5)


NEWER = (
    "meanflow_sum", "rope_theta", "txt_ids_dims", "use_cond_type_embedding",
    "use_sequential_txt_ids", "use_x0", "vec_in_dim", "vision_in_dim",
)  # fmt: skip
"""Entries that some networks of ComfyUI 0.3.64 do not have yet."""


def _model(host: str, entries: Mapping[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
    config = getattr(comfy.supported_models, host)(dict(entries))
    config.unet_config |= entries  # also over what the host always adds
    config.set_inference_dtype(torch.float32, None)
    try:
        return config.get_model(state, device=torch.device("cpu"))
    except TypeError as e:
        lacks = re.search(r"unexpected keyword argument '(\w+)'", str(e))
        if lacks is None or lacks[1] not in NEWER or lacks[1] not in entries:
            raise
        return _model(host, {k: v for k, v in entries.items() if k != lacks[1]}, state)


def build(host: str, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A tiny model of one of the host's classes."""
    tiny, draw = FAMILIES[host], drawer(seed)
    model = _model(host, tiny.config, tiny.state(draw))
    if tiny.shorten:
        del attrgetter(tiny.shorten)(model.diffusion_model)[1:]
    fill(model.diffusion_model, draw, tiny.idle)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def is_nested(tiny: Tiny) -> bool:
    return isinstance(tiny.shape[0], tuple)


def latent(tiny: Tiny, batch: int = 1) -> Any:
    """An empty latent of the family's layout."""
    if is_nested(tiny):
        from comfy.nested_tensor import NestedTensor  # newer hosts only

        return NestedTensor([torch.zeros(batch, *s) for s in tiny.shape])
    return torch.zeros(batch, *tiny.shape)


def conditioning(tiny: Tiny, seed: int) -> list:
    """Random text, and what else the family needs."""
    draw = drawer(seed)
    options = {"pooled_output": draw(1, tiny.pooled)} if tiny.pooled else {}
    return [[draw(1, tiny.tokens, tiny.text), options | tiny.more(draw)]]
