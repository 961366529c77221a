"""Reading a latent cache: items by index, batches of one bucket, what the latents are."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sv_core.latent import LatentSpec

from .shards import LATENTS, FeatureSpec, Shard, read_index, read_shard, shard_path


class Item(NamedTuple):
    """A latent (c, h, w) in the VAE's own scale (pixels: [0, 1]), its condition, its features.

    The features (tokens, dim) are in the order in which the cache was asked for them.
    """

    latent: Tensor
    label: int
    features: tuple[Tensor, ...]


class LatentCache:
    """A finished cache. An index counts views: len = pictures x views.

    ``train`` and ``held_out`` are such indices: of the pictures in val folders, or where there are
    none of a share chosen by their paths, the views unmirrored. ``classes`` counts conditions.
    """

    def __init__(
        self,
        path: Path,
        features: Sequence[str] = (),
        held_out: float = 0.0,
        patch_size: int | None = None,
    ):
        """``patch_size`` is the network's, checked against the features' grid.

        Raises ValueError, in one sentence: not finished, a shard that is missing, cut short or
        from another VAE or encoder, features that are not there or lie on another grid.
        """
        self.path, self.index = path, read_index(path)
        index = self.index
        plan = index.shards()
        if not index.complete:
            raise ValueError(
                f"{path} is not finished: run the same python -m training.prepare again, it goes "
                f"on where it stopped"
            )
        self.features = {name: self._feature(name, patch_size) for name in features}
        parts = [pictures for _, pictures in plan]
        self._latents = self._open(LATENTS, parts, index.settings["vae"])
        parts = [shard.rows for shard in self._latents]
        self._features = [
            self._open(name, parts, spec.fingerprint) for name, spec in self.features.items()
        ]
        self._build(plan, held_out)

    def _feature(self, name: str, patch_size: int | None) -> FeatureSpec:
        have = self.index.features
        if name not in have:
            raise ValueError(
                f"{self.path} has no features of {name} (has: {', '.join(have) or 'none'}): add "
                f"them with training.prepare and --set encoder=FILE"
            )
        if patch_size is not None:
            self._require_patch(have[name], patch_size)
        return have[name]

    def _require_patch(self, spec: FeatureSpec, patch_size: int) -> None:
        if spec.patch_size != patch_size:
            raise ValueError(
                f"the features in {self.path} lie on the tokens of patches of {spec.patch_size}, "
                f"the network has patches of {patch_size}: prepare a cache with "
                f"--set patch_size={patch_size}"
            )

    def require_patch(self, patch_size: int) -> None:
        """Raises ValueError, in one sentence, when a network's tokens are not the features'."""
        for spec in self.features.values():
            self._require_patch(spec, patch_size)

    def _open(self, kind: str, parts: list[list[int]], wanted: str) -> list[Shard]:
        shards = []
        for number, pictures in enumerate(parts):
            shard = read_shard(self.path, kind, number)
            problem = None
            if shard.fingerprint != wanted:
                what = "VAE" if kind == LATENTS else "encoder"
                problem = f"from another {what} than the rest of the cache"
            elif not shard.covers(pictures):
                problem = "of other pictures than the rest of the cache"
            if problem:
                raise ValueError(
                    f"{shard_path(self.path, kind, number)} is {problem}: remove it and run "
                    f"training.prepare again, which makes that shard anew"
                )
            shards.append(shard)
        return shards

    def _build(self, plan: list[tuple[int, list[int]]], held_out: float) -> None:
        index, views = self.index, self.index.views
        place = [
            (number, row, picture, bucket)
            for number, (bucket, _) in enumerate(plan)
            for row, picture in enumerate(self._latents[number].rows)
        ]
        table = torch.tensor(place, dtype=torch.long).reshape(-1, 4).repeat_interleave(views, 0)
        self._shard, self._row, self._picture, self.bucket = table.unbind(1)
        self._view = torch.arange(len(table)) % views
        self.labels = torch.tensor(index.condition, dtype=torch.long)[self._picture]
        if any(index.held_out):
            apart = torch.tensor(index.held_out, dtype=torch.bool)
        else:
            drawn = [held_out > 0 and _share(path) < held_out for path in index.paths]
            apart = torch.tensor(drawn, dtype=torch.bool)
        apart = apart[self._picture]
        self.train = torch.nonzero(~apart).flatten()
        self.held_out = torch.nonzero(apart & (self._view == 0)).flatten()
        if not len(self.train):
            raise ValueError(f"{self.path} has no picture to learn from: all are held out")
        self.groups = {
            index.buckets[bucket]: self.train[self.bucket[self.train] == bucket]
            for bucket in self.bucket[self.train].unique().tolist()
        }
        """The training indices of each bucket (height, width) in pixels."""

    @property
    def latent(self) -> LatentSpec:
        """What the latents are, for the network."""
        return self.index.latent

    @property
    def conditions(self) -> list[str]:
        """The class names, or the captions, by label."""
        return self.index.conditions

    @property
    def num_classes(self) -> int:
        return len(self.conditions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every latent. Raises ValueError when they are of several shapes."""
        if len(self.groups) > 1:
            raise ValueError(
                f"the latents in {self.path} are of {len(self.groups)} shapes, this network takes "
                f"one: prepare a cache with --set buckets=square"
            )
        ((height, width),) = self.groups
        down = self.latent.downscale
        return self.latent.channels, height // down, width // down

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """The channels of the features, in the order asked for."""
        return tuple(spec.dim for spec in self.features.values())

    @property
    def identity(self) -> dict[str, str]:
        """What a run that is resumed must find again: networks by fingerprint, and the pictures."""
        index = self.index
        pictures = json.dumps([index.paths, index.condition, index.views, self.held_out.tolist()])
        encoders = {name: spec.fingerprint for name, spec in self.features.items()}
        return {
            "vae": index.settings["vae"],
            "pictures": hashlib.blake2b(pictures.encode(), digest_size=8).hexdigest(),
        } | encoders

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, i: int) -> Item:
        shard, row, view = (int(x[i]) for x in (self._shard, self._row, self._view))
        return Item(
            as_latent(self._latents[shard].data[row, view]),
            int(self.labels[i]),
            tuple(kind[shard].data[row, view].float() for kind in self._features),
        )

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n training indices, independent and with replacement, all of one bucket.

        A bucket is drawn in proportion to its pictures, so every picture has the same chance. A
        function of the generator alone: resuming needs no more than the step.
        """
        groups = list(self.groups.values())
        weights = torch.tensor([len(g) for g in groups], dtype=torch.float64)
        group = groups[int(torch.multinomial(weights, 1, generator=generator))]
        return group[torch.randint(len(group), (n,), generator=generator)]

    def gather(self, indices: Iterable[int]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Latents (b, c, h, w), labels (b,), features (b, tokens, dim) each; of one bucket."""
        items = [self[int(i)] for i in indices]
        latents, labels, features = zip(*items, strict=True)
        stacked = tuple(torch.stack(kind) for kind in zip(*features, strict=True))
        return torch.stack(latents), torch.tensor(labels), stacked

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        """Raises ValueError, in one sentence, when a network is for other latents than these."""
        if latent != self.latent:
            raise ValueError(
                f"{network} is for {_describe(latent)}, the cache {self.path} holds "
                f"{_describe(self.latent)}: prepare one with the network's own VAE"
            )

    def notes(self) -> list[str]:
        """What a person should know before training with it, a sentence each."""
        counts = torch.bincount(self.labels[self.train], minlength=len(self.conditions))
        captions = self.index.settings["layout"] == "captions"
        what = "captions" if captions else "classes"
        found = [
            (1, "one picture and no mirror image, so StableVM gives it the plain target"),
            (0, "no picture to learn from"),
        ]
        said = []
        for count, meaning in found:
            which = torch.nonzero(counts == count).flatten().tolist()
            # Captions that are all held out are no surprise, an empty class is one.
            if which and (count or not captions):
                example = self.conditions[which[0]][:40]
                said.append(
                    f"{len(which)} of {len(self.conditions)} {what} (such as {example!r}) "
                    f"{'has' if len(which) == 1 else 'have each'} {meaning}"
                )
        return said


def as_latent(stored: Tensor) -> Tensor:
    """A stored latent as float32: bytes are pixels of [0, 1]."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()


def _share(path: str) -> float:
    """A number in [0, 1) of a path's own, the same on any machine."""
    digest = hashlib.blake2b(path.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32


def _describe(latent: LatentSpec) -> str:
    return f"{latent.kind} latents of {latent.channels} channels (scale {latent.scale:g})"
