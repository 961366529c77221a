"""Pictures for caches, and one that diffusers makes of them: python -m ... FOLDER.

By this repository's own Python, for ComfyUI's, which has neither scikit-learn nor diffusers.
"""

import shutil
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from training.caching.encode import prepare
from training.config.prepare import PrepareConfig


def write_digits(pictures: Path) -> None:
    """Twenty digits of four classes, and few: those of one."""
    data = load_digits()
    for i in np.flatnonzero(data.target < 4)[:20]:
        path = pictures / "digits" / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digit = Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8))
        digit.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    shutil.copytree(pictures / "digits/0", pictures / "few/0")


def write_flux_vae(pictures: Path) -> None:
    """A VAE of Flux's own size and of random numbers, and the cache that diffusers makes by it."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    path = pictures / "flux_vae.safetensors"
    save_file({k: v.half() for k, v in model.state_dict().items()}, path)
    config = PrepareConfig(family="flux", vae=str(path), size=32)
    prepare(pictures / "few", pictures / "flux", config)


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
    write_flux_vae(Path(sys.argv[1]))
