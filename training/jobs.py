"""What a cache still lacks: the shards to make, and the room that they take."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sv_core.errors import InvalidInput, Unavailable

from . import shards as store
from .encoders import Encoder
from .shards import LATENTS, MASKS, Index
from .vae import STRIDE


class Job(NamedTuple):
    """A shard to make: its number, its bucket, its pictures, and what of it is missing."""

    number: int
    bucket: tuple[int, ...]
    pictures: list[int]
    latents: bool
    features: bool

    @property
    def frames(self) -> int:
        return self.bucket[0] if len(self.bucket) == 3 else 1


def missing(cache: Path, index: Index, encoder: str | None) -> Iterator[Job]:
    """The shards that are not there whole. A damaged one is as good as none."""
    for number, (bucket, pictures) in enumerate(index.shards()):
        vae = index.settings["vae"]
        latents = not _there(cache, LATENTS, number, vae, pictures)
        if "masks" in index.settings:
            latents = latents or not _there(cache, MASKS, number, vae, pictures)
        features = encoder is not None and not _there(
            cache, encoder, number, index.features[encoder].fingerprint, pictures
        )
        if latents or features:
            yield Job(number, index.buckets[bucket], pictures, latents, features)


def _there(cache: Path, kind: str, number: int, wanted: str, pictures: list[int]) -> bool:
    with suppress(InvalidInput):
        shard = store.read_shard(cache, kind, number)
        return shard.fingerprint == wanted and shard.covers(pictures)
    return False


def check_room(cache: Path, index: Index, jobs: list[Job], encoder: Encoder | None) -> None:
    """Say now, not after a night, that the disk is too small (without the text's share)."""
    latent, need = index.latent, 0
    for job in jobs:
        cells = job.bucket[-2] * job.bucket[-1] // latent.downscale**2
        cells *= 1 + (job.frames - 1) // STRIDE
        each = 0
        if job.latents:
            each += cells * latent.channels * (1 if latent.kind == "pixels" else 2)
        if job.features and encoder:
            spec = index.features[encoder.name]
            each += cells // spec.patch_size**2 * spec.dim * 2
        need += each * len(job.pictures) * index.views
    free = shutil.disk_usage(cache).free
    if need > free:
        raise Unavailable(
            f"the cache needs {need / 2**30:.1f} GiB more and the disk of {cache} has "
            f"{free / 2**30:.1f} GiB free: make room or name another folder"
        )
