"""Making a cache, or its missing parts: shard after shard, each written whole.

First the pictures, then the text: the VAE and the text encoders are never in memory together.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sv_core.errors import InvalidInput
from sv_core.models.families import latents

from ..config.prepare import PrepareConfig
from ..data import text
from ..data.format import LATENTS, MASKS, CacheFolder, FeatureSpec, Index, Job, Shard, TextSpec
from ..encoders import dinov2
from ..encoders.comfy import HostText
from ..files import fingerprint
from ..prefetch import ahead, attempt
from .codec import Codec, device_of
from .lock import alone
from .media import Taken, reader
from .plan import check, list_pictures, make_plan, require_same_plan, settings_of


@dataclass(frozen=True)
class Outcome:
    """The index at the end, how many pictures were encoded, whether all was finished before.

    ``texts`` is how many files of text were made.
    """

    index: Index
    encoded: int
    nothing_to_do: bool
    texts: int = 0


def prepare(root: Path, cache: Path, config: PrepareConfig, verify: bool = False) -> Outcome:
    """Make the cache, or what it still lacks; with ``verify`` also what is not as it was written.

    Raises InvalidInput or FloatingPointError, each in one sentence. Whatever ends it, a kill
    included, finished shards stay, and the next run makes only the others.
    """
    latent = check(config)
    listing = list_pictures(root, config)
    settings = settings_of(config, latent, listing.layout)
    with alone(cache):
        if CacheFolder.begun(cache):
            folder = CacheFolder.open(cache, verify)
            require_same_plan(folder, settings, listing, root)
        else:
            folder = CacheFolder(cache, make_plan(root, config, settings, latent, listing))
            folder.update()
        return _run(root, folder, config)


def _run(root: Path, folder: CacheFolder, config: PrepareConfig) -> Outcome:
    encoder = _announce_features(folder, config)
    jobs = list(folder.missing(encoder.name if encoder else None))
    _require_whole_features(folder, encoder)
    _announce_text(folder, config)
    texts = text.missing(folder) if folder.index.text else []
    if texts and not config.text:
        raise InvalidInput(
            f"the text in {folder.path} is not whole: finish it first, with the text= and "
            f"template= that it was begun with"
        )
    if not jobs and not texts and folder.index.complete:
        return Outcome(folder.index, 0, True)
    todo = _pictures(root, folder, config, jobs, encoder)
    encoder = None  # free its memory for the text encoders
    found = _collect(folder)
    if texts:
        assert config.family is not None
        speaker = HostText(config.text, config.family, config.comfy, device_of(config))
        try:
            text.encode(folder, texts, speaker)
        finally:
            speaker.close()
    folder.update(complete=True, **found)
    return Outcome(folder.index, todo, False, len(texts))


def _announce_features(folder: CacheFolder, config: PrepareConfig) -> dinov2.Encoder | None:
    """Load the configured encoder and enter its features in the index."""
    if not config.encoder:
        return None
    encoder = dinov2.load(Path(config.encoder))
    spec = FeatureSpec(fingerprint(Path(config.encoder)), encoder.dim, config.patch_size)
    features = folder.index.features
    known = features.get(encoder.name)
    if known not in (None, spec):
        raise InvalidInput(
            f"{folder.path} has features of another {encoder.name} (or for patches of "
            f"{known.patch_size}): use the same file and patch_size again, or another folder"
        )
    if known is None:
        # Not complete until every shard has them: a reader must not find a part.
        folder.update(complete=False, features=features | {encoder.name: spec})
    return encoder


def _require_whole_features(folder: CacheFolder, encoder: dinov2.Encoder | None) -> None:
    """Check that the features of all other encoders are complete. Raises InvalidInput."""
    for other in folder.index.features.keys() - {encoder.name if encoder else None}:
        if any(job.features for job in folder.missing(other)):
            raise InvalidInput(
                f"the features of {other} in {folder.path} are not whole: finish them first, with "
                f"the encoder= and patch_size= that they were begun with"
            )


def _announce_text(folder: CacheFolder, config: PrepareConfig) -> None:
    """Enter the configured text in the index."""
    spec = None
    if config.text:
        files = sorted(fingerprint(Path(file)) for file in config.text)
        kind = latents(config.family).kind  # as files have it, however the family was spelled
        digest = hashlib.blake2b(json.dumps([kind, files]).encode(), digest_size=8)
        spec = TextSpec(digest.hexdigest(), config.template)
    known = folder.index.text
    bound = known is not None and any(folder.path.glob(f"{text.TEXT}-*.safetensors"))
    if spec == known or (spec is None and bound):
        return
    if bound and spec is not None:
        raise InvalidInput(
            f"{folder.path} has text of other encoders, or of another template than "
            f"{spec.template!r}: use the same again, or another folder"
        )
    # Not complete until all of it is there: a reader must not find a part.
    folder.update(complete=False, text=spec)


def _pictures(
    root: Path,
    folder: CacheFolder,
    config: PrepareConfig,
    jobs: list[Job],
    encoder: dinov2.Encoder | None,
) -> int:
    """Make these shards of latents and features; returns how many pictures they hold."""
    if not jobs:
        return 0
    folder.require_space(jobs, encoder.name if encoder else None)
    index = folder.index
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
                _make(folder, job, codec, decoded, bar)
    finally:
        pool.shutdown(cancel_futures=True)
        codec.close()
    return todo


def _make(folder: CacheFolder, job: Job, codec: Codec, decoded: Iterator[Any], bar: tqdm) -> None:
    """One shard from the next pictures of the stream, written when it is whole."""
    rows: list[int] = []
    contents: list[str] = []
    skipped: dict[str, str] = {}
    sums: dict[str, float] = {}
    made: dict[str, list[Tensor]] = {kind: [] for kind in _kinds(folder, job, codec)}
    waiting: list[Taken] = []
    at_once = max(codec.batch // job.frames, 1)
    for place, picture in enumerate(job.pictures, 1):
        read = next(decoded)
        if isinstance(read, str):
            skipped[str(picture)] = read
        else:
            rows.append(picture)
            contents.append(read.content)
            waiting.append(read)
        if len(waiting) == at_once or (place == len(job.pictures) and waiting):
            for kind, parts in made.items():
                parts.append(_encoded(kind, waiting, codec, sums))
            waiting = []
        bar.update()
    if job.features and not job.latents and not _same(folder, job, rows, contents):
        raise InvalidInput(
            f"of shard {job.number} other pictures can be read than when its latents were made: "
            f"put the pictures back, or prepare another folder"
        )
    for kind, parts in made.items():
        facts = (rows, skipped, sums if kind == LATENTS else {}, contents)
        shard = Shard(_joined(parts), folder.fingerprint(kind), *facts)
        folder.write(kind, job.number, shard)


def _same(folder: CacheFolder, job: Job, rows: list[int], contents: list[str]) -> bool:
    """Whether these are the pictures that the shard's latents were made of."""
    shard = folder.read(LATENTS, job.number)
    return shard.rows == rows and shard.contents in ([], contents)


def _kinds(folder: CacheFolder, job: Job, codec: Codec) -> list[str]:
    """What a job has to make. Masks come first: latents without them are no complete shard."""
    kinds = []
    if job.latents:
        kinds = [MASKS, LATENTS] if "masks" in folder.index.settings else [LATENTS]
    if job.features:
        assert codec.encoder is not None
        kinds.append(codec.encoder.name)
    return kinds


def _encoded(kind: str, taken: list[Taken], codec: Codec, sums: dict[str, float]) -> Tensor:
    """The rows of one kind for these pictures; the latents' moments are added to ``sums``."""
    if kind == MASKS:
        return codec.masks(torch.stack([one.mask for one in taken if one.mask is not None]))
    pixels = torch.stack([one.pixels for one in taken])
    return codec.latents(pixels, sums) if kind == LATENTS else codec.features(pixels)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0)


def _collect(folder: CacheFolder) -> dict[str, Any]:
    """The shards' sums and skipped pictures as fields of the index; the latter also in a file."""
    index = folder.index
    skipped = {k: v for k, v in index.skipped.items() if index.bucket[int(k)] < 0}
    sums: dict[str, float] = {}
    good = 0
    for number in range(len(index.shards())):
        shard = folder.read(LATENTS, number)
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
    folder.list_skipped(skipped)
    return {"skipped": skipped, "posterior_share": share, "model_std": std}
