"""The plan of a cache: its settings, each picture's bucket, and whether both are unchanged."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from string import Formatter
from typing import Any

from tqdm import tqdm

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec, pixels
from sv_core.models import families

from ..config.prepare import PrepareConfig
from ..data.format import CacheFolder, Index
from ..encoders.comfy import check_text, is_tiny
from ..files import fingerprint
from ..prefetch import ahead, attempt
from . import images, videos
from .captions import Variants
from .listing import Listing, content, files_of, is_video, scan


def check(config: PrepareConfig) -> LatentSpec:
    """The kind of latents. Raises InvalidInput for settings that contradict each other."""
    if (config.vae is None) != (config.family is None):
        have, lack = ("vae", "family") if config.family is None else ("family", "vae")
        raise InvalidInput(
            f"{have} is set and {lack} is not: a VAE's file does not say how its latents are "
            f"scaled, so give both, such as vae=FILE and family={families.names('latent', ' or ')}"
        )
    if config.vae is not None and config.channels != 3:
        raise InvalidInput("a VAE takes colour pictures: leave out channels=1")
    for key in ("max_aspect", "fps"):
        if getattr(config, key) == float("inf"):
            raise InvalidInput(f"{key} must be a finite number, such as 2")
    stride = families.stride(config.family)
    if config.frames % stride != 1:
        low = max(config.frames - 2, 0) // stride * stride + 1
        raise InvalidInput(
            f"frames must be a multiple of {stride} and one more, as {low} or {low + stride}, got "
            f"{config.frames}"
        )
    if config.text:
        check_text(config.text, config.family)
        _check_template(config.template)
    latent = pixels(config.channels)
    if config.family and config.vae:
        latent = families.latents(config.family)
        if is_tiny(Path(config.vae)):
            latent = replace(latent, downscale=8)
    token = latent.downscale * (config.patch_size if config.encoder else 1)
    key = "size" if config.buckets == "square" else "step"
    if getattr(config, key) % token:
        raise InvalidInput(
            f"{key} must be a multiple of {token} pixels ({latent.downscale} per latent cell"
            + (f", patches of {config.patch_size}" if config.encoder else "")
            + f"), got {getattr(config, key)}"
        )
    return latent


def _check_template(template: str) -> None:
    try:
        places = [name for _, name, *_ in Formatter().parse(template) if name is not None]
    except ValueError:
        places = []
    if places != [""]:
        raise InvalidInput(
            f"template must hold {{}} once, where the class's name goes, such as 'a photo of {{}}',"
            f" got {template!r}"
        )


def list_pictures(root: Path, config: PrepareConfig) -> Listing:
    """The pictures to use. Raises InvalidInput, in one sentence, when there are none."""
    listing = scan(
        root,
        config.layout,
        variants=Variants(config.captions, config.variants, config.keep),
        repeats=config.repeats == "folders",
        masks=config.masks == "suffix",
        videos=families.is_moving(config.family),
    )
    paths = [p.path for p in listing.pictures if moving(config.family, p.path)]
    if any(not (root / path).is_dir() for path in paths):
        videos.require_decoder()
    return listing


def moving(family: str | None, path: str) -> bool:
    """Whether a picture of a cache of that family is a video."""
    return families.is_moving(family) and is_video(path)


def settings_of(config: PrepareConfig, latent: LatentSpec, layout: str) -> dict[str, Any]:
    """The settings that define the numbers in a cache, and so must not change while it is made.

    Settings of later versions are included only if they differ from their defaults.
    """
    names = ("size", "buckets", "step", "max_aspect", "flip", "precision", "shard")
    later = ("captions", "variants", "keep", "repeats", "masks", "frames", "fps")
    usual = {f.name: f.default for f in fields(PrepareConfig)}
    chosen = {name: getattr(config, name) for name in (*names, *later)}
    return {k: v for k, v in chosen.items() if k in names or v != usual[k]} | {
        "layout": layout,
        "kind": latent.kind,
        "channels": latent.channels,
        "vae": fingerprint(Path(config.vae)) if config.vae else "pixels",
    }


def make_plan(
    root: Path, config: PrepareConfig, settings: dict[str, Any], latent: LatentSpec, found: Listing
) -> Index:
    """The index with each picture's bucket; with a single bucket no picture has to be opened."""
    pictures = found.pictures
    films = [moving(latent.kind, p.path) for p in pictures]
    shapes = [(config.size, config.size)]
    bucket, skipped = [0] * len(pictures), {}
    if config.buckets == "aspect":
        shapes = images.aspect_buckets(config.size, config.step, config.max_aspect)
        if not shapes:
            raise InvalidInput(
                f"no bucket fits: step = {config.step} is too large for size = {config.size}"
            )
        with ThreadPoolExecutor(config.workers) as pool:
            tasks = [
                (root / p.path, videos.shape if film else images.shape)
                for p, film in zip(pictures, films, strict=True)
            ]
            sizes = ahead(pool, attempt, tasks, 256)
            bar = tqdm(sizes, total=len(tasks), desc="sizes", unit="img", leave=False)
            for i, shape in enumerate(bar):
                if isinstance(shape, str):
                    bucket[i], skipped[str(i)] = -1, shape
                else:
                    bucket[i] = images.nearest_bucket(shapes, *shape)
    buckets: list[tuple[int, ...]] = list(shapes)
    if families.has_frames(latent.kind):
        buckets = [(1, *shape) for shape in shapes]
        if any(films) and config.frames > 1:
            buckets += [(config.frames, *shape) for shape in shapes]
            bucket = [
                b + len(shapes) * film if b >= 0 else b
                for b, film in zip(bucket, films, strict=True)
            ]
    number = {name: i for i, name in enumerate(found.conditions)}
    several, counted = any(p.others for p in pictures), any(p.repeats != 1 for p in pictures)
    return Index(
        settings=settings,
        latent=latent,
        conditions=found.conditions,
        buckets=buckets,
        paths=[p.path for p in pictures],
        sizes=[p.size for p in pictures],
        mtimes=[p.mtime for p in pictures],
        condition=[number[p.condition] for p in pictures],
        held_out=[int(p.held_out) for p in pictures],
        bucket=bucket,
        aside=found.aside,
        others=[[number[c] for c in p.others] for p in pictures] if several else [],
        repeats=[p.repeats for p in pictures] if counted else [],
        masks=[p.mask for p in pictures] if config.masks == "suffix" else [],
        skipped=skipped,
    )


def require_same_plan(
    folder: CacheFolder, settings: dict[str, Any], found: Listing, root: Path
) -> None:
    """Raises InvalidInput when a cache was begun with other settings or other pictures."""
    index, cache = folder.index, folder.path
    was, unset = index.settings, object()
    usual = {f.name: f.default for f in fields(PrepareConfig)}
    different = []
    for key in settings | was:
        before, now = (s.get(key, usual.get(key, unset)) for s in (was, settings))
        if before != now:
            different.append(f"{key} = {before}, now {now}")
    if different:
        raise InvalidInput(
            f"{cache} was begun with other settings ({'; '.join(different)}): use the same again, "
            f"or another folder"
        )
    new, gone, other = _changes(folder, found, root)
    if new or gone or other:
        example = sorted(new | gone | other)[0]
        raise InvalidInput(
            f"the pictures are not those that {cache} was begun with: {len(new)} new, {len(gone)} "
            f"gone, {len(other)} changed (such as {example}); put them back, or prepare another "
            f"folder"
        )


def _changes(
    folder: CacheFolder, found: Listing, root: Path
) -> tuple[set[str], set[str], set[str]]:
    """The paths of pictures that are new, that are gone, and of which something has changed.

    One that was written again, or any when the folder is verified, is compared by its content.
    """
    index = folder.index
    n, conditions = len(index.paths), index.conditions
    columns = (
        index.sizes,
        [conditions[c] for c in index.condition],
        [tuple(conditions[c] for c in o) for o in index.others or [[]] * n],
        index.repeats or [1] * n,
        index.masks or [None] * n,
    )
    before = dict(zip(index.paths, zip(*columns, strict=True), strict=True))
    now = {p.path: (p.size, p.condition, p.others, p.repeats, p.mask) for p in found.pictures}
    before |= dict.fromkeys(index.aside, ())
    now |= dict.fromkeys(found.aside, ())
    both = now.keys() & before.keys()
    other = {path for path in both if now[path] != before[path]}
    times = dict(zip(index.paths, index.mtimes, strict=True))
    again = [p for p in found.pictures if p.path in both - other and p.path in times]
    again = [p for p in again if folder.verify or not _same_time(times[p.path], p.mtime)]
    contents = folder.contents() if again else {}
    other |= {
        p.path
        for p in again
        if contents.get(p.path) != content(files_of(root, p.path, p.mask))
        and not (folder.verify and p.path not in contents and _same_time(times[p.path], p.mtime))
    }
    return now.keys() - before.keys(), before.keys() - now.keys(), other


def _same_time(before: int, now: int) -> bool:
    """Whether a file is as old as it was: older caches have seconds in place of nanoseconds."""
    return before == (now if before > 10**12 else now // 10**9)
