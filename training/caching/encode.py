"""Making a cache, or what of it is missing: shard after shard, each written whole.

First the pictures, then the text: the VAE and the text encoders are never in memory together.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sv_core.errors import InvalidInput
from sv_core.models.families import latents

from .. import files
from .. import files as stored_files
from ..config.prepare import PrepareConfig
from ..data import format, text
from ..data.format import (
    LATENTS,
    MASKS,
    FeatureSpec,
    Index,
    Job,
    Shard,
    TextSpec,
    check_room,
    missing,
)
from ..encoders import dinov2
from ..encoders.comfy import HostText
from ..files import write_atomically
from ..prefetch import ahead, attempt
from .codec import Codec, device_of
from .lock import alone
from .media import Taken, reader
from .plan import check, list_pictures, make_plan, same_plan, settings_of


@dataclass(frozen=True)
class Outcome:
    """The index at the end; how many pictures were encoded, and whether nothing was to do at all.

    ``texts`` is how many files of text were made.
    """

    index: Index
    encoded: int
    nothing_to_do: bool
    texts: int = 0


def prepare(root: Path, cache: Path, config: PrepareConfig) -> Outcome:
    """Make the cache, or what it still lacks.

    Raises InvalidInput or FloatingPointError, each in one sentence. Whatever ends it, a kill
    included, finished shards stay, and the next run makes only the others.
    """
    latent = check(config)
    listing = list_pictures(root, config)
    settings = settings_of(config, latent, listing.layout)
    with alone(cache):
        if (cache / format.INDEX).exists() and any(cache.glob("*.safetensors")):
            index = same_plan(format.read_index(cache), settings, listing, cache)
        else:  # also when there is no more than a plan: nothing of it binds yet
            index = make_plan(root, config, settings, latent, listing)
            format.write_index(cache, index)
        return _run(root, cache, config, index)


def _run(root: Path, cache: Path, config: PrepareConfig, index: Index) -> Outcome:
    name = None
    encoder = None
    if config.encoder:
        encoder = dinov2.load(Path(config.encoder))
        name = encoder.name
        spec = FeatureSpec(files.fingerprint(Path(config.encoder)), encoder.dim, config.patch_size)
        known = index.features.get(name)
        if known not in (None, spec):
            raise InvalidInput(
                f"{cache} has features of another {name} (or for patches of {known.patch_size}): "
                f"use the same file and patch_size again, or another folder"
            )
        if known is None:
            # Unfinished until every shard has them: a reader must not find half.
            index = replace(index, complete=False, features=index.features | {name: spec})
            format.write_index(cache, index)
    jobs = list(missing(cache, index, name))
    for other in index.features.keys() - {name}:
        if any(job.features for job in missing(cache, index, other)):
            raise InvalidInput(
                f"the features of {other} in {cache} are not whole: finish them first, with the "
                f"encoder= and patch_size= that they were begun with"
            )
    index = _with_text(cache, config, index)
    texts = text.missing(cache, index) if index.text else []
    if texts and not config.text:
        raise InvalidInput(
            f"the text in {cache} is not whole: finish it first, with the text= and template= that "
            f"it was begun with"
        )
    if not jobs and not texts and index.complete:
        return Outcome(index, 0, True)
    todo = _pictures(root, cache, config, index, jobs, encoder)
    encoder = None  # its memory is the text encoders' now
    index = _collect(cache, index)
    if texts:
        assert config.family is not None
        speaker = HostText(config.text, config.family, config.comfy, device_of(config))
        try:
            text.encode(cache, index, texts, speaker)
        finally:
            speaker.close()
    index = replace(index, complete=True)
    format.write_index(cache, index)
    return Outcome(index, todo, False, len(texts))


def _with_text(cache: Path, config: PrepareConfig, index: Index) -> Index:
    """The index, with the text that is asked for announced in it."""
    spec = None
    if config.text:
        files = sorted(stored_files.fingerprint(Path(file)) for file in config.text)
        kind = latents(config.family).kind  # as files have it, however the family was spelled
        digest = hashlib.blake2b(json.dumps([kind, files]).encode(), digest_size=8)
        spec = TextSpec(digest.hexdigest(), config.template)
    bound = index.text is not None and any(cache.glob(f"{text.TEXT}-*.safetensors"))
    if spec == index.text or (spec is None and bound):
        return index
    if bound and spec is not None:
        raise InvalidInput(
            f"{cache} has text of other encoders, or of another template than {spec.template!r}: "
            f"use the same again, or another folder"
        )
    # Unfinished until all of it is there: a reader must not find half.
    index = replace(index, complete=False, text=spec)
    format.write_index(cache, index)
    return index


def _pictures(
    root: Path,
    cache: Path,
    config: PrepareConfig,
    index: Index,
    jobs: list[Job],
    encoder: dinov2.Encoder | None,
) -> int:
    """Make these shards of latents and features; how many pictures they hold."""
    if not jobs:
        return 0
    check_room(cache, index, jobs, encoder)
    codec = Codec(config, index, encoder, any(job.latents for job in jobs))
    total = sum(len(pictures) for _, pictures in index.shards())
    todo = sum(len(job.pictures) for job in jobs)
    tasks = [
        (root / index.paths[i], reader(root, index, i, codec.channels))
        for job in jobs
        for i in job.pictures
    ]
    at_once = max(config.batch // max(job.frames for job in jobs), 1)
    pool = ThreadPoolExecutor(config.workers)
    bar = tqdm(total=total, initial=total - todo, desc="prepare", unit="img")
    try:
        with bar:
            decoded = ahead(pool, attempt, tasks, 2 * at_once + config.workers)
            for job in jobs:
                _make(cache, job, index, codec, decoded, bar)
    finally:
        pool.shutdown(cancel_futures=True)
        codec.close()
    return todo


def _make(
    cache: Path, job: Job, index: Index, codec: Codec, decoded: Iterator[Any], bar: tqdm
) -> None:
    """One shard from the next pictures of the stream, written when it is whole."""
    rows: list[int] = []
    skipped: dict[str, str] = {}
    sums: dict[str, float] = {}
    latents: list[Tensor] = []
    masks: list[Tensor] = []
    features: list[Tensor] = []
    waiting: list[Taken] = []
    at_once = max(codec.batch // job.frames, 1)
    for place, picture in enumerate(job.pictures, 1):
        read = next(decoded)
        if isinstance(read, str):
            skipped[str(picture)] = read
        else:
            rows.append(picture)
            waiting.append(read)
        if len(waiting) == at_once or (place == len(job.pictures) and waiting):
            batch = torch.stack([taken.pixels for taken in waiting])
            counting = [taken.mask for taken in waiting if taken.mask is not None]
            if job.latents:
                latents.append(codec.latents(batch, sums))
            if job.latents and counting:
                masks.append(codec.masks(torch.stack(counting)))
            if job.features:
                features.append(codec.features(batch))
            waiting = []
        bar.update()
    if job.features and not job.latents:
        before = format.read_shard(cache, LATENTS, job.number).rows
        if before != rows:
            raise InvalidInput(
                f"of shard {job.number} other pictures can be read than when its latents were "
                f"made: put the pictures back, or prepare another folder"
            )
    if job.latents:
        vae = index.settings["vae"]
        if "masks" in index.settings:
            format.write_shard(
                cache, MASKS, job.number, Shard(_joined(masks), vae, rows, skipped, {})
            )
        shard = Shard(_joined(latents), vae, rows, skipped, sums)
        format.write_shard(cache, LATENTS, job.number, shard)
    if job.features:
        assert codec.encoder is not None
        name = codec.encoder.name
        shard = Shard(_joined(features), index.features[name].fingerprint, rows, skipped, {})
        format.write_shard(cache, name, job.number, shard)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0)


def _collect(cache: Path, index: Index) -> Index:
    """What the shards say, in the index; what was skipped is also listed in a file."""
    skipped = {k: v for k, v in index.skipped.items() if index.bucket[int(k)] < 0}
    sums: dict[str, float] = {}
    good = 0
    for number in range(len(index.shards())):
        shard = format.read_shard(cache, LATENTS, number)
        skipped |= shard.skipped
        good += len(shard.rows)
        for key, value in shard.sums.items():
            sums[key] = sums.get(key, 0.0) + value
    if not good:
        reason = next(iter(skipped.values()))
        raise InvalidInput(
            f"none of the {len(index.paths)} pictures could be read (the first: {reason})"
        )
    share = std = None
    if sums:
        variance = sums["square"] / sums["count"] - (sums["sum"] / sums["count"]) ** 2
        std = variance**0.5
        if "posterior" in sums:
            share = (sums["posterior"] / sums["count"] / variance) ** 0.5
    lines = [f"{index.paths[int(k)]}\t{reason}" for k, reason in skipped.items()]
    lines += [f"{path}\t{reason}" for path, reason in index.aside.items()]
    if lines:
        text = "".join(line + "\n" for line in sorted(lines))
        write_atomically(cache / format.SKIPPED, lambda file: file.write(text.encode()))
    return replace(index, skipped=skipped, posterior_share=share, model_std=std)
