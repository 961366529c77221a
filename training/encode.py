"""Making a cache, or what of it is missing: shard after shard, each written whole."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from . import encoders, images
from . import shards as store
from .checkpoint import write_atomically
from .codec import Codec
from .plan import PrepareConfig, check, make_plan, same_plan, settings_of
from .reading import ahead, attempt
from .shards import LATENTS, FeatureSpec, Index, Shard

_LOCK = ".lock"


class Outcome(NamedTuple):
    """The index at the end, how many pictures this run encoded, whether all was there already."""

    index: Index
    encoded: int
    nothing_to_do: bool


def prepare(root: Path, cache: Path, config: PrepareConfig) -> Outcome:
    """Make the cache, or what it still lacks.

    Raises ValueError, OSError or FloatingPointError, each in one sentence. Whatever ends it, a kill
    included, finished shards stay, and the next run makes only the others.
    """
    latent = check(config)
    listing = images.scan(root, config.layout)
    settings = settings_of(config, latent, listing.layout)
    with alone(cache):
        if (cache / store.INDEX).exists() and any(cache.glob("*.safetensors")):
            index = same_plan(store.read_index(cache), settings, listing, cache)
        else:  # also when there is no more than a plan: nothing of it binds yet
            index = make_plan(root, settings, latent, listing, config.workers)
            store.write_index(cache, index)
        return _run(root, cache, config, index)


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Make the folder, and keep a second run out of it until this one ends, however it ends."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        others = [p for p in cache.iterdir() if not p.name.startswith(".")]
        if others and not (cache / store.INDEX).exists():
            raise ValueError(
                f"{cache} holds other files (such as {others[0].name}) and no cache: name a new "
                f"or an empty folder"
            )
        lock = open(cache / _LOCK, "a+b")  # noqa: SIM115  closed below
    except OSError as e:
        raise OSError(f"cannot write into {cache}: {e.strerror or e}") from e
    with lock:
        try:
            _lock(lock.fileno())
        except OSError:
            raise ValueError(
                f"another training.prepare is at work in {cache}: wait for it"
            ) from None
        for stale in cache.glob(".*.partial"):
            stale.unlink()
        yield


def _lock(handle: int) -> None:
    """The system drops the lock with the process, so a kill leaves none behind."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Job(NamedTuple):
    """A shard to make: its number, its bucket, its pictures, and what of it is missing."""

    number: int
    bucket: tuple[int, int]
    pictures: list[int]
    latents: bool
    features: bool


def _run(root: Path, cache: Path, config: PrepareConfig, index: Index) -> Outcome:
    name = None
    encoder = None
    if config.encoder:
        encoder = encoders.load(Path(config.encoder))
        name = encoder.name
        spec = FeatureSpec(store.fingerprint(Path(config.encoder)), encoder.dim, config.patch_size)
        known = index.features.get(name)
        if known not in (None, spec):
            raise ValueError(
                f"{cache} has features of another {name} (or for patches of {known.patch_size}): "
                f"use the same file and patch_size again, or another folder"
            )
        if known is None:
            # Unfinished until every shard has them: a reader must not find half.
            index = replace(index, complete=False, features=index.features | {name: spec})
            store.write_index(cache, index)
    jobs = list(_missing(cache, index, name))
    for other in index.features.keys() - {name}:
        if any(job.features for job in _missing(cache, index, other)):
            raise ValueError(
                f"the features of {other} in {cache} are not whole: finish them first, with the "
                f"encoder= and patch_size= that they were begun with"
            )
    if not jobs and index.complete:
        return Outcome(index, 0, True)
    _room(cache, index, jobs, encoder)
    codec = Codec(config, index, encoder, any(job.latents for job in jobs))
    total = sum(len(pictures) for _, pictures in index.shards())
    todo = sum(len(job.pictures) for job in jobs)
    tasks = [
        (root / index.paths[i], lambda p, b=job.bucket: images.pixels(p, b, codec.channels))
        for job in jobs
        for i in job.pictures
    ]
    pool = ThreadPoolExecutor(config.workers)
    bar = tqdm(total=total, initial=total - todo, desc="prepare", unit="img")
    try:
        with bar:
            decoded = ahead(pool, attempt, tasks, 2 * config.batch + config.workers)
            for job in jobs:
                _make(cache, job, index, codec, decoded, bar)
    finally:
        pool.shutdown(cancel_futures=True)
    index = _finish(cache, index)
    return Outcome(index, todo, False)


def _missing(cache: Path, index: Index, encoder: str | None) -> Iterator[_Job]:
    """The shards that are not there whole. A damaged one is as good as none."""
    for number, (bucket, pictures) in enumerate(index.shards()):
        latents = not _there(cache, LATENTS, number, index.settings["vae"], pictures)
        features = encoder is not None and not _there(
            cache, encoder, number, index.features[encoder].fingerprint, pictures
        )
        if latents or features:
            yield _Job(number, index.buckets[bucket], pictures, latents, features)


def _there(cache: Path, kind: str, number: int, wanted: str, pictures: list[int]) -> bool:
    with suppress(ValueError):
        shard = store.read_shard(cache, kind, number)
        return shard.fingerprint == wanted and shard.covers(pictures)
    return False


def _room(cache: Path, index: Index, jobs: list[_Job], encoder: encoders.Encoder | None) -> None:
    """Say now, not after a night, that the disk is too small."""
    latent, need = index.latent, 0
    for job in jobs:
        cells = job.bucket[0] * job.bucket[1] // latent.downscale**2
        each = 0
        if job.latents:
            each += cells * latent.channels * (1 if latent.kind == "pixels" else 2)
        if job.features and encoder:
            spec = index.features[encoder.name]
            each += cells // spec.patch_size**2 * spec.dim * 2
        need += each * len(job.pictures) * index.views
    free = shutil.disk_usage(cache).free
    if need > free:
        raise OSError(
            f"the cache needs {need / 2**30:.1f} GiB more and the disk of {cache} has "
            f"{free / 2**30:.1f} GiB free: make room or name another folder"
        )


def _make(
    cache: Path, job: _Job, index: Index, codec: Codec, decoded: Iterator[Any], bar: tqdm
) -> None:
    """One shard from the next pictures of the stream, written when it is whole."""
    rows: list[int] = []
    skipped: dict[str, str] = {}
    sums: dict[str, float] = {}
    latents: list[Tensor] = []
    features: list[Tensor] = []
    waiting: list[Tensor] = []
    for place, picture in enumerate(job.pictures, 1):
        read = next(decoded)
        if isinstance(read, str):
            skipped[str(picture)] = read
        else:
            rows.append(picture)
            waiting.append(read)
        if len(waiting) == codec.batch or (place == len(job.pictures) and waiting):
            batch = torch.stack(waiting)
            if job.latents:
                latents.append(codec.latents(batch, sums))
            if job.features:
                features.append(codec.features(batch))
            waiting = []
        bar.update()
    if job.features and not job.latents:
        before = store.read_shard(cache, LATENTS, job.number).rows
        if before != rows:
            raise ValueError(
                f"of shard {job.number} other pictures can be read than when its latents were "
                f"made: put the pictures back, or prepare another folder"
            )
    if job.latents:
        shard = Shard(_joined(latents), index.settings["vae"], rows, skipped, sums)
        store.write_shard(cache, LATENTS, job.number, shard)
    if job.features:
        assert codec.encoder is not None
        name = codec.encoder.name
        shard = Shard(_joined(features), index.features[name].fingerprint, rows, skipped, {})
        store.write_shard(cache, name, job.number, shard)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0)


def _finish(cache: Path, index: Index) -> Index:
    """Collect what the shards say, list what was skipped, and declare the cache whole."""
    skipped = {k: v for k, v in index.skipped.items() if index.bucket[int(k)] < 0}
    sums: dict[str, float] = {}
    good = 0
    for number in range(len(index.shards())):
        shard = store.read_shard(cache, LATENTS, number)
        skipped |= shard.skipped
        good += len(shard.rows)
        for key, value in shard.sums.items():
            sums[key] = sums.get(key, 0.0) + value
    if not good:
        reason = next(iter(skipped.values()))
        raise ValueError(
            f"none of the {len(index.paths)} pictures could be read (the first: {reason})"
        )
    share = std = None
    if sums:
        variance = sums["square"] / sums["count"] - (sums["sum"] / sums["count"]) ** 2
        share = (sums["posterior"] / sums["count"] / variance) ** 0.5
        std = variance**0.5
    lines = [f"{index.paths[int(k)]}\t{reason}" for k, reason in skipped.items()]
    lines += [f"{path}\t{reason}" for path, reason in index.aside.items()]
    if lines:
        text = "".join(line + "\n" for line in sorted(lines))
        write_atomically(cache / store.SKIPPED, lambda file: file.write(text.encode()))
    index = replace(index, skipped=skipped, posterior_share=share, model_std=std, complete=True)
    store.write_index(cache, index)
    return index
