"""A family that the product does not train: its record and its tiny checkpoint, and nothing else.

docs/adding_a_family.md shows this code and goes through it. ``test_new_family.py`` in
tests/training adds the record to the tuple of records, in each ComfyUI.
"""

from sv_core.latent import LatentSpec
from sv_core.models.families import CLIP_L, Family, Layout, Sampling, Size, Text, TextEncoder

# The record: in sv_core/models/families.py.

LLAMA3_8B = TextEncoder("Llama-3-8B", "model.layers.31.self_attn.k_proj.weight", 1024)

HUNYUAN_VIDEO = Family(
    "HunyuanVideo",
    hosts=("HunyuanVideo",),
    aliases=("hunyuanvideo",),
    latent=LatentSpec("hunyuanvideo", 16, scale=0.476986, shift=0.0, downscale=8),
    kind="video",
    stride=4,
    sampling=Sampling("simple", shift=7.0, cfg=1.0),
    time_embedding="time_in",
    text=Text("HUNYUAN_VIDEO", usable=(CLIP_L, LLAMA3_8B), needed=(CLIP_L, LLAMA3_8B)),
    layout=Layout(
        "hunyuan-video",
        # In a single block text stands before the image (in ComfyUI 0.3.64 behind it).
        blocks={"double_blocks": "first part", "single_blocks": "last tokens"},
        width="hidden_size",
        context="params.context_in_dim",
        pooled="params.vec_in_dim",
        tiny={
            "hidden_size": 64,
            "num_heads": 1,
            "axes_dim": [8, 28, 28],
            "depth": 1,
            "depth_single_blocks": 1,
            "vec_in_dim": 24,
            "context_in_dim": 32,
        },
    ),
    size=Size(360_714_304, (339_831_296,) * 20 + (141_591_808,) * 40, 3072, 4, 5_038_080),
)

# The tiny checkpoint: in tests/host/tiny.py, as the configuration that ComfyUI reads off a file.

HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 128,
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
}

# The end of what the page shows.

NEWER = {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
"""What newer versions of ComfyUI also read off a file, and what this one's is."""
