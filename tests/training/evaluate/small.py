"""A small ComfyUI in words: what its ``/object_info`` says, and a workflow of it."""

from copy import deepcopy

SHARE = ["FLOAT", {"default": 0.5}]
INFO = {
    "Loader": {
        "input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
    },
    "CLIPTextEncode": {
        "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}},
        "output": ["CONDITIONING"],
    },
    "EmptyLatentImage": {
        "input": {"required": {"width": ["INT", {"default": 512}], "batch_size": ["INT", {}]}},
        "output": ["LATENT"],
    },
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "sampler_name": [["euler", "heun", "stable_vs"]],
                "scheduler": ["COMBO", {"options": ["simple", "normal"]}],
                "positive": ["CONDITIONING"],
                "negative": ["CONDITIONING"],
                "latent_image": ["LATENT"],
            }
        },
        "output": ["LATENT"],
    },
    "VAEDecode": {
        "input": {"required": {"samples": ["LATENT"], "vae": ["VAE"]}},
        "output": ["IMAGE"],
    },
    "CreateVideo": {
        "input": {"required": {"images": ["IMAGE"], "fps": ["FLOAT", {"default": 24.0}]}},
        "output": ["VIDEO"],
    },
    "SaveVideo": {"input": {"required": {"video": ["VIDEO"]}}, "output": [], "output_node": True},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
    "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
    "PrimitiveInt": {"input": {"required": {"value": ["INT", {}]}}, "output": ["INT"]},
    "ComfySwitchNode": {
        "input": {"required": {"switch": ["BOOLEAN", {}], "on_false": ["*"], "on_true": ["*"]}},
        "output": ["*"],
    },
    "StringConcatenate": {
        "input": {"required": {"string_a": ["STRING", {}], "string_b": ["STRING", {}]}},
        "output": ["STRING"],
    },
    "FewerCalls": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "calls": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "share", "inputs": {"required": {"share": SHARE}}},
                            {"key": "list", "inputs": {"required": {"nodes": ["STRING", {}]}}},
                        ]
                    },
                ],
            }
        },
        "output": ["MODEL"],
    },
    "EasyCache": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "reuse_threshold": ["FLOAT", {"default": 0.2, "min": 0.0, "max": 3.0}],
                "verbose": ["BOOLEAN", {"default": False}],
            }
        },
        "output": ["MODEL"],
    },
    "CountCalls": {
        "input": {"required": {"model": ["MODEL"]}, "optional": {"label": ["STRING", {}]}},
        "output": ["MODEL", "CALL_COUNTS"],
    },
    "CallReport": {
        "input": {"required": {"counts": ["CALL_COUNTS"], "after": ["*"]}},
        "output": ["STRING"],
        "output_node": True,
    },
}  # fmt: skip


def prompt() -> dict:
    """The plainest text-to-picture prompt."""
    return {
        "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "batch_size": 4}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0], "seed": 7, "steps": 20, "cfg": 3.0, "sampler_name": "euler",
                "scheduler": "simple", "positive": ["2", 0], "negative": ["3", 0],
                "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
    }  # fmt: skip


def info(**changes: dict) -> dict:
    return deepcopy(INFO) | changes
