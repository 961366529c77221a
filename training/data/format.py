"""The files of a latent cache: an index, and shards of which rows are read when they are needed.

    index.json                    what there is: settings, pictures, conditions, buckets
    latents-00000.safetensors     latents (rows, views, c, h, w): uint8 pixels, or float16 means;
                                  of families with a time axis (rows, views, c, f, h, w)
    masks-00000.safetensors       how much each cell counts (rows, views, 1, h, w), uint8
    <encoder>-00000.safetensors   features (rows, views, tokens, dim), float16
    text-00000.safetensors        what text encoders make of the conditions (see text.py)
    skipped.txt                   the pictures that are not in it, and why

A view is the picture, or with flips also its mirror image. Of a VAE the posterior's mean is kept,
not its mean and std to be drawn from at every step: half the space, and StableVM's references stay
the same points in every epoch. How little is lost is measured and reported (``posterior_share``).
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable
from sv_core.latent import LatentSpec
from sv_core.models.families import stride

from ..files import save_weights, write_atomically
from ..tensors import Rows, TensorFile

FORMAT = 1
INDEX = "index.json"
SKIPPED = "skipped.txt"
LATENTS = "latents"
MASKS = "masks"
OPTIONAL = ("others", "repeats", "masks")
MOST_PIXELS = 16_384
"""The longest side of a picture, and the most frames of a video."""
REMEDY = "run training.prepare again with --verify, which makes it anew"


@dataclass(frozen=True)
class FeatureSpec:
    """The features of one encoder: which file they are from, and the grid that they lie on."""

    fingerprint: str
    dim: int
    patch_size: int


@dataclass(frozen=True)
class TextSpec:
    """The conditions' text: from which encoders, and the sentence that a class name stands in."""

    fingerprint: str
    template: str


@dataclass(frozen=True)
class Index:
    """What a cache holds. ``paths`` to ``bucket`` are columns, one entry per picture.

    ``bucket`` -1 marks a picture that could not even be opened. ``skipped`` is known at the end.
    A bucket is (height, width) in pixels, or (frames, height, width) where there is a time axis.
    Three columns are empty where they would say nothing: ``others`` (further conditions of each
    picture), ``repeats`` (how often it counts) and ``masks`` (the path of its mask, or none).
    """

    settings: dict[str, Any]
    latent: LatentSpec
    conditions: list[str]
    buckets: list[tuple[int, ...]]
    paths: list[str]
    sizes: list[int]
    mtimes: list[int]
    condition: list[int]
    held_out: list[int]
    bucket: list[int]
    aside: dict[str, str]
    others: list[list[int]] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    features: dict[str, FeatureSpec] = field(default_factory=dict)
    text: TextSpec | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    posterior_share: float | None = None
    model_std: float | None = None
    complete: bool = False

    @property
    def views(self) -> int:
        return 2 if self.settings["flip"] == "both" else 1

    def shards(self) -> list[tuple[int, list[int]]]:
        """(bucket, pictures) of each shard: a bucket's pictures in order, so many at a time."""
        members: list[list[int]] = [[] for _ in self.buckets]
        for picture, bucket in enumerate(self.bucket):
            if bucket >= 0:
                members[bucket].append(picture)
        # By default some 64 shards, so that a kill loses little of a small set, too.
        length = self.settings["shard"] or min(max(len(self.paths) // 64, 16), 256)
        return [
            (bucket, pictures[start : start + length])
            for bucket, pictures in enumerate(members)
            for start in range(0, len(pictures), length)
        ]


class Shard(NamedTuple):
    """Rows (n, views, ...) of the pictures ``rows``; the others of its plan were ``skipped``.

    ``contents`` are the fingerprints of the rows' picture files, none in older caches.
    """

    data: Tensor | Rows
    fingerprint: str
    rows: list[int]
    skipped: dict[str, str]
    sums: dict[str, float]
    contents: list[str] = []

    def covers(self, pictures: Sequence[int]) -> bool:
        """Whether each picture of the plan is in the shard, in order, or skipped."""
        kept = [p for p in pictures if str(p) not in self.skipped]
        return self.rows == kept and len(self.data) == len(kept)


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


def shard_path(cache: Path, kind: str, number: int) -> Path:
    """``kind`` is ``latents``, ``masks``, ``text`` or an encoder's name."""
    return cache / f"{kind}-{number:05d}.safetensors"


class CacheFolder:
    """The folder of a cache, finished or not: its index, and its shards by kind and number.

    Each file is written whole or not at all. A reader must not find half a cache, so the index says
    ``complete`` only when every shard that it announces is there.
    """

    def __init__(self, path: Path, index: Index, verify: bool = False):
        """With ``verify`` a shard that is not as it was written counts as missing."""
        self.path, self.index, self.verify = path, index, verify

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> "CacheFolder":
        """Raises InvalidInput, in one sentence, when there is no index or another format's."""
        return cls(path, _read_index(path), verify)

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether there is a shard; with only a plan, the settings may still change."""
        return (path / INDEX).exists() and any(path.glob("*.safetensors"))

    def update(self, **changes: Any) -> None:
        """Write the index, with these fields of it changed. Raises Unavailable, in one sentence."""
        self.index = replace(self.index, **changes)
        # vars, not asdict: that would copy a million paths one by one.
        table = {"format": FORMAT} | vars(self.index)
        text = json.dumps(table, default=asdict, ensure_ascii=False)
        write_atomically(self.path / INDEX, lambda file: file.write(text.encode()))

    def shard(self, kind: str, number: int) -> Path:
        """The path of a shard."""
        return shard_path(self.path, kind, number)

    def write(self, kind: str, number: int, shard: Shard) -> None:
        """Raises Unavailable, in one sentence."""
        facts = json.dumps({k: v for k, v in shard._asdict().items() if k != "data"})
        data = shard.data if isinstance(shard.data, Tensor) else shard.data.whole()
        save_weights(self.shard(kind, number), {"data": data}, {"shard": facts})

    def read(self, kind: str, number: int) -> Shard:
        """A shard whose rows are read from the disk when they are asked for, and then verified.

        Raises InvalidInput, in one sentence, when it is missing, cut short or something else.
        """
        path = self.shard(kind, number)
        try:
            file = TensorFile(path, REMEDY)
            if self.verify:
                file.verify()
            return Shard(file.rows("data"), **json.loads(file.metadata["shard"]))
        except InvalidInput:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as e:
            reason = "it is missing" if isinstance(e, FileNotFoundError) else f"{e}"
            raise InvalidInput(
                f"shard {path} cannot be read ({reason}): remove it and run training.prepare "
                f"again, which makes that shard anew"
            ) from e

    def read_all(self, kind: str, parts: list[list[int]]) -> list[Shard]:
        """Every shard of a kind, checked against the pictures of each.

        Raises InvalidInput, in one sentence, when one is missing, damaged or from another
        network.
        """
        shards = []
        for number, pictures in enumerate(parts):
            shard = self.read(kind, number)
            problem = None
            if shard.fingerprint != self.fingerprint(kind):
                what = "VAE" if kind in (LATENTS, MASKS) else "encoder"
                problem = f"from another {what} than the rest of the cache"
            elif not shard.covers(pictures):
                problem = "of other pictures than the rest of the cache"
            elif kind == LATENTS and shard.rows and shard.data.shape[1:3] != self._form():
                problem = "of another shape than the index says"
            if problem:
                raise InvalidInput(
                    f"{self.shard(kind, number)} is {problem}: remove it and run "
                    f"training.prepare again, which makes that shard anew"
                )
            shards.append(shard)
        return shards

    def contents(self) -> dict[str, str]:
        """The fingerprints of the pictures' files by their paths, as far as shards are made."""
        found = {}
        for number in range(len(self.index.shards())):
            with suppress(InvalidInput):
                shard = self.read(LATENTS, number)
                paths = (self.index.paths[i] for i in shard.rows)
                found |= dict(zip(paths, shard.contents, strict=False))  # older shards have none
        return found

    def missing(self, encoder: str | None) -> Iterator[Job]:
        """The shards that are missing or damaged, with what has to be made of each."""
        for number, (bucket, pictures) in enumerate(self.index.shards()):
            latents = not self._has(LATENTS, number, pictures)
            if "masks" in self.index.settings:
                latents = latents or not self._has(MASKS, number, pictures)
            features = encoder is not None and not self._has(encoder, number, pictures)
            if latents or features:
                yield Job(number, self.index.buckets[bucket], pictures, latents, features)

    def require_space(self, jobs: list[Job], encoder: str | None) -> None:
        """Check before the work that the disk has room; text is not counted.

        Raises Unavailable, in one sentence.
        """
        latent, need = self.index.latent, 0
        for job in jobs:
            cells = job.bucket[-2] * job.bucket[-1] // latent.downscale**2
            cells *= 1 + (job.frames - 1) // stride(latent.kind)
            each = 0
            if job.latents:
                each += cells * latent.channels * (1 if latent.kind == "pixels" else 2)
            if job.features and encoder:
                spec = self.index.features[encoder]
                each += cells // spec.patch_size**2 * spec.dim * 2
            need += each * len(job.pictures) * self.index.views
        free = shutil.disk_usage(self.path).free
        if need > free:
            raise Unavailable(
                f"the cache needs {need / 2**30:.1f} GiB more and the disk of {self.path} has "
                f"{free / 2**30:.1f} GiB free: make room or name another folder"
            )

    def list_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write a list of the pictures that are not in it with the reasons, if there are any."""
        lines = [f"{self.index.paths[int(k)]}\t{reason}" for k, reason in skipped.items()]
        lines += [f"{path}\t{reason}" for path, reason in self.index.aside.items()]
        if lines:
            text = "".join(line + "\n" for line in sorted(lines))
            write_atomically(self.path / SKIPPED, lambda file: file.write(text.encode()))

    def fingerprint(self, kind: str) -> str:
        """The fingerprint of the network that a shard of this kind must be from."""
        if kind in (LATENTS, MASKS):
            return self.index.settings["vae"]
        return self.index.features[kind].fingerprint

    def _form(self) -> tuple[int, int]:
        """The axes of latents that are the same in all buckets."""
        return (self.index.views, self.index.latent.channels)

    def _has(self, kind: str, number: int, pictures: list[int]) -> bool:
        with suppress(InvalidInput):
            shard = self.read(kind, number)
            return shard.fingerprint == self.fingerprint(kind) and shard.covers(pictures)
        return False


def _read_index(cache: Path) -> Index:
    try:
        table = json.loads((cache / INDEX).read_text(encoding="utf-8"))
        version = table.pop("format")
        if version != FORMAT:
            raise InvalidInput(f"{cache} is a cache of format {version}, this reads {FORMAT}")
        table["latent"] = LatentSpec(**table["latent"])
        table["buckets"] = [tuple(bucket) for bucket in table["buckets"]]
        table["features"] = {k: FeatureSpec(**v) for k, v in table["features"].items()}
        if table.get("text"):
            table["text"] = TextSpec(**table["text"])
        index = Index(**table)
        _require_sound(index)
        return index
    except OSError:
        raise InvalidInput(
            f"{cache} is no latent cache, it has no {INDEX}: make one with "
            f"python -m training.prepare IMAGES {cache}"
        ) from None
    except (
        KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError,
        RecursionError, _Unsound,
    ) as e:  # fmt: skip
        raise InvalidInput(
            f"{cache / INDEX} is damaged or of something else ({type(e).__name__}: {e}): "
            f"prepare the cache again in another folder"
        ) from e


class _Unsound(Exception):
    """An index contradicts itself."""


def _require_sound(index: Index) -> None:
    """Check that columns are as long as each other and name what there is. Raises _Unsound."""
    n, conditions = len(index.paths), range(len(index.conditions))
    for name in ("sizes", "mtimes", "condition", "held_out", "bucket", *OPTIONAL):
        length = len(getattr(index, name))
        if length != n and not (name in OPTIONAL and length == 0):
            raise _Unsound(f"{name} has {length} entries for {n} pictures")
    named = {*index.condition, *(c for others in index.others for c in others)}
    if not all(type(c) is int and c in conditions for c in named):
        raise _Unsound("a picture has a condition that is not there")
    if not all(type(b) is int and -1 <= b < len(index.buckets) for b in set(index.bucket)):
        raise _Unsound("a picture is in a bucket that is not there")
    sides = {side for bucket in index.buckets for side in bucket}
    if not all(type(side) is int and 1 <= side <= MOST_PIXELS for side in sides):
        raise _Unsound(f"a bucket has a side that is not from 1 to {MOST_PIXELS}")
    if not all(type(k) is int and k > 0 for k in set(index.repeats)):
        raise _Unsound("a picture is repeated a number of times that is none")
    if not all(isinstance(x, str) for x in (*index.paths, *index.conditions)):
        raise _Unsound("a path or a condition is no text")


def share_of(path: str) -> float:
    """A number in [0, 1) that depends on a path alone, the same on every machine."""
    digest = hashlib.blake2b(path.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32
