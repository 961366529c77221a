"""Reading a latent cache: items by index, batches of one bucket, references."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec, alike, describe
from sv_core.models.families import stride

from .companions import Companions, Conditions
from .format import LATENTS, MASKS, CacheFolder, FeatureSpec, share_of
from .text import TextTable


class Item(NamedTuple):
    """A latent (c, h, w) in the VAE's own scale (pixels: [0, 1]), its condition, its features.

    Of families with a time axis it is (c, f, h, w). The features (tokens, dim) are in the order in
    which the cache was asked for them.
    """

    latent: Tensor
    label: int
    features: tuple[Tensor, ...]


class LatentCache:
    """A finished cache. An index counts views: len = pictures x views.

    ``train`` and ``held_out`` are such indices: of the pictures in val folders, or where there are
    none of a share chosen by their paths, the views unmirrored. ``text`` is what text encoders made
    of the conditions, or None.
    """

    def __init__(
        self,
        path: Path,
        features: Sequence[str] = (),
        held_out: float = 0.0,
        patch_size: int | None = None,
    ):
        """``patch_size`` is the network's, checked against the features' grid.

        Raises InvalidInput, in one sentence: not finished, a shard that is missing, cut short or
        from another VAE or encoder, features that are not there or lie on another grid.
        """
        folder = CacheFolder.open(path)
        self.path, self.index = path, folder.index
        index = self.index
        plan = index.shards()
        if not index.complete:
            raise InvalidInput(
                f"{path} is not finished: run the same python -m training.prepare again, it goes "
                f"on where it stopped"
            )
        self.features = {name: self._feature(name, patch_size) for name in features}
        parts = [pictures for _, pictures in plan]
        self._latents = folder.read_all(LATENTS, parts)
        parts = [shard.rows for shard in self._latents]
        self._features = [folder.read_all(name, parts) for name in self.features]
        self._masks = folder.read_all(MASKS, parts) if "masks" in index.settings else None
        self.text = TextTable(path, index.text, len(index.conditions)) if index.text else None
        self._build(plan, held_out)

    def _feature(self, name: str, patch_size: int | None) -> FeatureSpec:
        have = self.index.features
        if name not in have:
            raise InvalidInput(
                f"{self.path} has no features of {name} (has: {', '.join(have) or 'none'}): add "
                f"them with training.prepare and --set encoder=FILE"
            )
        if patch_size is not None:
            self._require_patch(have[name], patch_size)
        return have[name]

    def _require_patch(self, spec: FeatureSpec, patch_size: int) -> None:
        if spec.patch_size != patch_size:
            raise InvalidInput(
                f"the features in {self.path} lie on the tokens of patches of {spec.patch_size}, "
                f"the network has patches of {patch_size}: prepare a cache with "
                f"--set patch_size={patch_size}"
            )

    def require_patch(self, patch_size: int) -> None:
        """Raises InvalidInput, in one sentence, when a network's tokens are not the features'."""
        for spec in self.features.values():
            self._require_patch(spec, patch_size)

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
            drawn = [held_out > 0 and share_of(path) < held_out for path in index.paths]
            apart = torch.tensor(drawn, dtype=torch.bool)
        apart = apart[self._picture]
        self.train = torch.nonzero(~apart).flatten()
        self.held_out = torch.nonzero(apart & (self._view == 0)).flatten()
        if not len(self.train):
            raise InvalidInput(f"{self.path} has no picture to learn from: all are held out")
        repeats = torch.tensor(index.repeats or [1] * len(index.paths), dtype=torch.long)
        self._repeats = repeats[self._picture]
        self._conditions = Conditions(index.condition, index.others, self._picture)
        drawn = self.train.repeat_interleave(self._repeats[self.train])
        self.groups = {
            index.buckets[bucket]: drawn[self.bucket[drawn] == bucket]
            for bucket in self.bucket[drawn].unique().tolist()
        }
        """The training indices of each bucket, in pixels; repeated ones as often as they count."""

    @property
    def latent(self) -> LatentSpec:
        """The kind of latents: channels, scale and shift."""
        return self.index.latent

    @property
    def conditions(self) -> list[str]:
        """The class names, or the captions, by label."""
        return self.index.conditions

    @property
    def num_classes(self) -> int:
        return len(self.conditions)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The latents' shapes (c, h, w) or (c, f, h, w), one for each of ``groups``."""
        channels, down = self.latent.channels, self.latent.downscale
        each = stride(self.latent.kind)
        return [
            (channels, *(1 + (n - 1) // each for n in frames), height // down, width // down)
            for *frames, height, width in self.groups
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of every latent. Raises InvalidInput when there are several."""
        if len(self.groups) > 1:
            raise InvalidInput(
                f"the latents in {self.path} are of {len(self.groups)} shapes, this network takes "
                f"one: prepare a cache with --set buckets=square"
            )
        return self.shapes[0]

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """The channels of the features, in the order asked for."""
        return tuple(spec.dim for spec in self.features.values())

    @property
    def identity(self) -> dict[str, str]:
        """What must be unchanged when a run is resumed: networks by fingerprint, the pictures."""
        index = self.index
        facts = [index.paths, index.conditions, index.condition, index.views]
        facts.append(self.held_out.tolist())
        facts += [column for column in (index.others, index.repeats, index.masks) if column]
        facts.append([shard.contents for shard in self._latents])
        pictures = json.dumps(facts)
        encoders = {name: spec.fingerprint for name, spec in self.features.items()}
        text = {"text": self.text.fingerprint} if self.text else {}
        return {
            "vae": index.settings["vae"],
            "pictures": hashlib.blake2b(pictures.encode(), digest_size=8).hexdigest(),
        } | (encoders | text)

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

        A bucket is drawn in proportion to its pictures, so every picture has the same chance (where
        they are repeated, a chance in proportion to that). A function of the generator alone:
        resuming needs no more than the step.
        """
        groups = list(self.groups.values())
        weights = torch.tensor([len(g) for g in groups], dtype=torch.float64)
        group = groups[int(torch.multinomial(weights, 1, generator=generator))]
        return group[torch.randint(len(group), (n,), generator=generator)]

    def by_shape(self, indices: Tensor, n: int) -> Iterator[Tensor]:
        """The indices in parts of at most n, those of a part being of one bucket."""
        for bucket in self.bucket[indices].unique():
            yield from indices[self.bucket[indices] == bucket].split(n)

    def gather(self, indices: Tensor | Iterable[int]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Latents (b, c, h, w), labels (b,), features (b, tokens, dim) each; of one bucket."""
        items = [self[int(i)] for i in indices]
        latents, labels, features = zip(*items, strict=True)
        stacked = tuple(torch.stack(kind) for kind in zip(*features, strict=True))
        return torch.stack(latents), torch.tensor(labels), stacked

    def draw_labels(self, indices: Tensor, generator: Generator) -> Tensor:
        """A condition of each item (b,): one of its captions, each with the same chance.

        Its label where it has only one. A function of the generator alone.
        """
        return self._conditions.pick(indices, generator)

    def masks(self, indices: Tensor | Iterable[int]) -> Tensor | None:
        """How much each latent cell counts, in [0, 1]: (b, 1, h, w), with a time axis (b, 1, 1, h,
        w). None for a cache without masks; 1 all over for a picture without one.
        """
        if self._masks is None:
            return None
        rows = [(int(self._shard[i]), int(self._row[i]), int(self._view[i])) for i in indices]
        return torch.stack([self._masks[s].data[r, v].float() / 255 for s, r, v in rows])

    @functools.cached_property
    def _companions(self) -> Companions:
        return Companions(self.train, self.bucket, self._repeats, self._conditions)

    def companions(
        self, i: int, n: int, generator: Generator, condition: int | None = None
    ) -> Tensor:
        """References of item i for StableVM: training indices of its bucket and its condition.

        First i itself, then at most n - 1 others (all of them if they are fewer), a uniformly
        random subset without replacement, views included, nothing held out. ``condition`` is the
        one that was drawn for i, where it has several. A function of the generator alone.
        [extends arXiv 2602.05435, sec. 4.1, to text]
        """
        label = int(self.labels[i]) if condition is None else condition
        return self._companions.choose(i, n, generator, label)

    def pool(self, i: int, n: int, generator: Generator) -> Tensor:
        """References of item i from all conditions of its bucket, for a dropped condition."""
        return self._companions.choose(i, n, generator, None)

    def require_text(self) -> TextTable:
        """The text. Raises InvalidInput, in one sentence, when the cache has none."""
        if self.text is None:
            raise InvalidInput(
                f"{self.path} holds no text, which this network is conditioned by: add it with "
                f"training.prepare and --set text=FILE, the family's text encoders"
            )
        return self.text

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        """Raises InvalidInput, in one sentence, when a network is for other latents than these.

        Channels, scale and shift must agree; the family's name may differ.
        """
        if not alike(latent, self.latent):
            raise InvalidInput(
                f"{network} is for {describe(latent)}, the cache {self.path} holds "
                f"{describe(self.latent)}: prepare one with the network's own VAE"
            )

    def notes(self) -> list[str]:
        """What a person should know before training with it, a sentence each."""
        _, named = self._conditions.of(self.train)
        counts = torch.bincount(named, minlength=len(self.conditions))
        captions = self.index.settings["layout"] == "captions"
        what = "captions" if captions else "classes"
        found = [
            (1, "one picture and no mirror image, so StableVM gives it the plain target"),
            (0, "no picture to learn from"),
        ]
        sentences = []
        for count, meaning in found:
            which = torch.nonzero(counts == count).flatten().tolist()
            # That a caption is wholly held out is usual; that a class is empty is worth a note.
            if which and (count or not captions):
                example = self.conditions[which[0]][:40]
                sentences.append(
                    f"{len(which)} of {len(self.conditions)} {what} (such as {example!r}) "
                    f"{'has' if len(which) == 1 else 'have each'} {meaning}"
                )
        return sentences


def as_latent(stored: Tensor) -> Tensor:
    """A stored latent as float32: bytes are pixels of [0, 1]."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()
