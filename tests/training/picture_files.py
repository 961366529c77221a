"""Folders of pictures to make caches of, and the bytes of what comes out."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from training.config.prepare import PrepareConfig

DIGITS = PrepareConfig(size=8, channels=1, shard=16, batch=8, workers=2)


def write_digits(root, n=100):
    data = load_digits()
    for i in range(n):
        path = root / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).save(path)
    return root


def write_photos(root):
    root.mkdir()
    for name, array in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(array).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"a photo of {name}\n")
    return root


def contents(cache):
    """The bytes of every file but the lock."""
    files = (p for p in cache.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(cache)): p.read_bytes() for p in files}
