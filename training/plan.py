"""The plan of a cache: its settings, each picture's bucket, and whether that still holds."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sv_core.latent import LatentSpec, pixels

from . import images
from .config import knob
from .reading import ahead, attempt
from .shards import Index, fingerprint
from .vae import FAMILIES


@dataclass(frozen=True)
class PrepareConfig:
    """What the cache holds, then (from ``batch`` on) how it is computed.

    ``size``: the side of the square, or of the square of a bucket's area. ``patch_size``: the
    network's, so that features fall on its tokens. ``flip`` both: mirror images are cached too.
    ``shard``: pictures per file, and so what a kill costs at most; unset it follows their number.
    """

    layout: str = knob("auto", choices=["auto", "classes", "captions"])
    size: int = knob(256, low=8)
    buckets: str = knob("square", choices=["square", "aspect"])
    step: int = knob(32, low=1)
    max_aspect: float = knob(2.0, low=1)
    channels: int = knob(3, choices=[1, 3])
    vae: str | None = None
    family: str | None = knob(None, choices=FAMILIES)
    encoder: str | None = None
    patch_size: int = knob(2, low=1)
    flip: str = knob("none", choices=["none", "both"])
    precision: str = knob("fp32", choices=["fp32", "bf16"])
    shard: int | None = knob(None, low=1)
    batch: int = knob(16, low=1)
    workers: int = knob(4, low=1)
    device: str = knob("auto", choices=["auto", "cpu", "cuda"])


def check(config: PrepareConfig) -> LatentSpec:
    """What the latents will be. Raises ValueError for settings that contradict each other."""
    if (config.vae is None) != (config.family is None):
        have, lack = ("vae", "family") if config.family is None else ("family", "vae")
        raise ValueError(
            f"{have} is set and {lack} is not: a VAE's file does not say how its latents are "
            f"scaled, so give both, such as vae=FILE and family={' or '.join(FAMILIES)}"
        )
    if config.vae is not None and config.channels != 3:
        raise ValueError("a VAE takes colour pictures: leave out channels=1")
    if config.max_aspect == float("inf"):
        raise ValueError("max_aspect must be a finite number, such as 2")
    latent = pixels(config.channels) if config.family is None else FAMILIES[config.family]
    token = latent.downscale * (config.patch_size if config.encoder else 1)
    key = "size" if config.buckets == "square" else "step"
    if getattr(config, key) % token:
        raise ValueError(
            f"{key} must be a multiple of {token} pixels ({latent.downscale} per latent cell"
            + (f", patches of {config.patch_size}" if config.encoder else "")
            + f"), got {getattr(config, key)}"
        )
    return latent


def settings_of(config: PrepareConfig, latent: LatentSpec, layout: str) -> dict[str, Any]:
    """What defines the numbers in a cache, and so must not change while it is made."""
    names = ("size", "buckets", "step", "max_aspect", "flip", "precision", "shard")
    return {name: getattr(config, name) for name in names} | {
        "layout": layout,
        "kind": latent.kind,
        "channels": latent.channels,
        "vae": fingerprint(Path(config.vae)) if config.vae else "pixels",
    }


def make_plan(
    root: Path, settings: dict[str, Any], latent: LatentSpec, listing: images.Listing, workers: int
) -> Index:
    """Which bucket each picture goes to; with one bucket no picture need be opened for that."""
    size, pictures = settings["size"], listing.pictures
    buckets, bucket, skipped = [(size, size)], [0] * len(pictures), {}
    if settings["buckets"] == "aspect":
        buckets = images.aspect_buckets(size, settings["step"], settings["max_aspect"])
        if not buckets:
            raise ValueError(
                f"no bucket fits: step = {settings['step']} is too large for size = {size}"
            )
        with ThreadPoolExecutor(workers) as pool:
            tasks = [(root / p.path, images.shape) for p in pictures]
            shapes = ahead(pool, attempt, tasks, 256)
            bar = tqdm(shapes, total=len(tasks), desc="sizes", unit="img", leave=False)
            for i, shape in enumerate(bar):
                if isinstance(shape, str):
                    bucket[i], skipped[str(i)] = -1, shape
                else:
                    bucket[i] = images.nearest_bucket(buckets, *shape)
    number = {name: i for i, name in enumerate(listing.conditions)}
    return Index(
        settings=settings,
        latent=latent,
        conditions=listing.conditions,
        buckets=buckets,
        paths=[p.path for p in pictures],
        sizes=[p.size for p in pictures],
        mtimes=[p.mtime for p in pictures],
        condition=[number[p.condition] for p in pictures],
        held_out=[int(p.held_out) for p in pictures],
        bucket=bucket,
        aside=listing.aside,
        skipped=skipped,
    )


def same_plan(index: Index, settings: dict, listing: images.Listing, cache: Path) -> Index:
    """The index, if it is of these settings and of these very pictures."""
    was = index.settings
    different = [f"{k} = {was.get(k)}, now {v}" for k, v in settings.items() if was.get(k) != v]
    if different:
        raise ValueError(
            f"{cache} was begun with other settings ({'; '.join(different)}): use the same again, "
            f"or another folder"
        )
    before = zip(index.paths, index.sizes, index.mtimes, index.condition, strict=True)
    was = {p: (size, mtime, index.conditions[c]) for p, size, mtime, c in before}
    now = {p.path: (p.size, p.mtime, p.condition) for p in listing.pictures}
    was |= dict.fromkeys(index.aside, ())
    now |= dict.fromkeys(listing.aside, ())
    new, gone = now.keys() - was.keys(), was.keys() - now.keys()
    other = {path for path in now.keys() & was.keys() if now[path] != was[path]}
    if new or gone or other:
        example = sorted(new | gone | other)[0]
        raise ValueError(
            f"the pictures are not those that {cache} was begun with: {len(new)} new, {len(gone)} "
            f"gone, {len(other)} changed (such as {example}); put them back, or prepare another "
            f"folder"
        )
    return index
