"""Tiny models of families that only newer ComfyUI hosts know, for ``tiny.py``, which fills them.

Each builder gives tensors of the right shapes under the official file's keys, and the metadata from
which the host reads what no shape tells. The pack ``test_nodes`` has hosts read small widths.
"""

import json
from collections.abc import Callable, Iterable

import torch

State = dict[str, torch.Tensor]
Made = tuple[State, dict[str, str]]
HIDDEN = 128

FLUX2 = {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
    "vec_in_dim": None, "context_in_dim": 64, "hidden_size": HIDDEN, "num_heads": 1,
    "mlp_ratio": 3.0, "depth": 1, "depth_single_blocks": 1, "axes_dim": [32, 32, 32, 32],
    "theta": 2000, "qkv_bias": False, "ops_bias": False, "guidance_embed": True,
    "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index",
    "ref_index_scale": 10.0, "txt_ids_dims": [3],
}  # fmt: skip
Z_IMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 2 * HIDDEN, "n_heads": 2,
    "n_kv_heads": 2, "cap_feat_dim": 64, "n_layers": 1, "qk_norm": True, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
ANIMA = {
    "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "concat_padding_mask": True, "model_channels": HIDDEN, "num_blocks": 1, "num_heads": 1,
    "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True,
    "adaln_lora_dim": 256, "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
_RES, _DOWN = ["res_x", {"num_layers": 1}], ["compress_all", {}]
_UP = ["compress_all", {"residual": True, "multiplier": 1}]
LTX2 = {  # as in the file's metadata
    "transformer": {
        "attention_head_dim": 64, "num_attention_heads": 1, "cross_attention_dim": 64,
        "caption_channels": 32, "num_layers": 1, "audio_cross_attention_dim": 64,
        "audio_attention_head_dim": 64, "audio_num_attention_heads": 1,
        "connector_attention_head_dim": 32, "connector_num_attention_heads": 1,
    },
    "vae": {
        "dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4,
        "latent_log_var": "uniform", "encoder_base_channels": 16, "decoder_base_channels": 16,
        "encoder_blocks": [_RES, _DOWN, _RES, _DOWN, _DOWN],
        "decoder_blocks": [_RES, _UP, _UP, _UP, _RES],
    },
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256,
                    "downsample_time": False, "in_channels": 2, "out_ch": 2, "ch": 16,
                    "ch_mult": [1, 2, 4], "num_res_blocks": 1, "attn_resolutions": [],
                    "mid_block_add_attention": False, "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    },
    "vocoder": {
        "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_initial_channel": 64,
    },
}  # fmt: skip
UPSAMPLER = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}


def _network(config: dict) -> State:
    """The tensors of the host's own network for a configuration."""
    import comfy.supported_models as known

    kinds = {"flux2": "Flux2", "lumina2": "ZImage", "anima": "Anima", "ltxav": "LTXAV"}
    made = getattr(known, kinds[config["image_model"]])(dict(config))
    made.set_inference_dtype(torch.float32, None)
    return made.get_model({}, device=torch.device("meta")).diffusion_model.state_dict()


def _prefixed(**parts: State) -> State:
    return {f"{prefix}.{k}": v for prefix, part in parts.items() for k, v in part.items()}


def flux2() -> Made:
    return _network(FLUX2), {}


def z_image() -> Made:
    return _network(Z_IMAGE), {}


def anima() -> Made:
    """Without the adapter that reads T5's tokens, whose size is fixed: one tensor names it."""
    sign = "llm_adapter.blocks.0.cross_attn.q_proj.weight"
    state = _network(ANIMA)
    adapter = [k for k in state if k.startswith("llm_adapter.") and k != sign]
    return {k: v for k, v in state.items() if k not in adapter}, {}


def flux2_vae() -> Made:
    """The host's own autoencoder of Flux.2 with a small decoder; the encoder's width is fixed."""
    import comfy.sd

    signs = {
        "decoder.conv_in.weight": (128, 32, 3, 3), "post_quant_conv.weight": (32, 32, 1, 1),
        "bn.running_mean": (128,), "encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
    }  # fmt: skip
    vae = comfy.sd.VAE(sd={name: torch.zeros(shape) for name, shape in signs.items()})
    state = vae.first_stage_model.state_dict()
    return {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, {}


def ltx2() -> Made:
    """Picture and sound: the network, both autoencoders and the vocoder, in one file."""
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    config = {"config": json.dumps(LTX2)}
    sound = AudioVAE(metadata=config)
    state = _prefixed(
        vae=VideoVAE(config=LTX2["vae"]).state_dict(),
        audio_vae=sound.autoencoder.state_dict(),
        vocoder=sound.vocoder.state_dict(),
    )
    network = _network(LTX2["transformer"] | {"image_model": "ltxav"})
    return state | {f"model.diffusion_model.{k}": v for k, v in network.items()}, config


def ltx2_upsampler() -> Made:
    import comfy.ops
    from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler

    model = LatentUpsampler.from_config(UPSAMPLER, operations=comfy.ops.disable_weight_init)
    return model.state_dict(), {"config": json.dumps(UPSAMPLER)}


FILES: dict[str, tuple[str, int, float, Callable[[], Made]]] = {
    # path under models/ -> class that the host must know, seed, gain of the last layer
    "diffusion_models/flux2_dev_fp8mixed.safetensors": ("Flux2", 9, 0.6, flux2),
    "vae/full_encoder_small_decoder.safetensors": ("Flux2", 9, 0.6, flux2_vae),
    "diffusion_models/z_image_bf16.safetensors": ("ZImage", 10, 0.6, z_image),
    "diffusion_models/anima-base-v1.0.safetensors": ("Anima", 11, 0.6, anima),
    "checkpoints/ltx-2-19b-dev-fp8.safetensors": ("LTXAV", 12, 0.6, ltx2),
    "latent_upscale_models/ltx-2-spatial-upscaler-x2-1.0.safetensors": (
        "LTXAV", 12, 0.6, ltx2_upsampler,
    ),
}  # fmt: skip
TEXT_ENCODERS = (
    "mistral_3_small_flux2_bf16.safetensors",
    "qwen_3_4b.safetensors",
    "qwen_3_06b_base.safetensors",
    "gemma_3_12B_it_fp4_mixed.safetensors",
)
UNUSED_LORAS = (
    "Flux_2-Turbo-LoRA_comfyui.safetensors",
    "anima-turbo-lora-v0.2.safetensors",
    "ltx-2-19b-distilled-lora-384.safetensors",
)


def known_here() -> Iterable[tuple[str, int, float, Callable[[], Made]]]:
    """The files whose families this host knows."""
    import comfy.supported_models as known

    for path, (kind, seed, gain, build) in FILES.items():
        if hasattr(known, kind):
            yield path, seed, gain, build
