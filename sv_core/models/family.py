"""The parts of the record of a family of flow models; ``families`` has the records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..latent import LatentSpec
from ..spectrum import PowerLaw

Place = Literal["all", "first part", "second part", "first tokens", "last tokens"]
"""Where the image's tokens are in what a block returns: all of it, one of a pair, or one end."""


@dataclass(frozen=True)
class Sampling:
    """How the paper samples a family: its grid, thinning, guidance and sampler.

    ``scheduler`` is the host's, None for ``sv_core.schedules.qwen_grid``, which no host scheduler
    makes. ``shift`` is the grid's time shift, s t / (1 + (s - 1) t). Of the steps below ``split``
    the ``rule`` (``sv_core.schedules.regime_split``) keeps ``low_steps``: the share of calls there.
    """

    scheduler: str | None
    shift: float
    cfg: float
    sampler: str = "euler"
    rule: str = "flow_match"
    steps: int = 30
    split: float = 0.85
    low_steps: int = 9


@dataclass(frozen=True)
class Template:
    """How the official workflow of a family samples, without a LoRA that distils.

    ``file`` is its name among ComfyUI's templates. ``scheduler`` is the host's, None where a node
    of its own makes the SIGMAS; ``shift`` None is the model's own, or one of the picture's size.
    """

    file: str
    steps: int
    cfg: float
    sampler: str = "euler"
    scheduler: str | None = "simple"
    shift: float | None = None


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder, recognised by a tensor in its file, that tensor's size, and one it lacks.

    ``sign`` is in the encoder's last block, so that a smaller one is not taken for it.
    """

    name: str
    sign: str
    size: int | None = None
    lacks: str = ""


@dataclass(frozen=True)
class Text:
    """The text encoders of a family. ``kind`` is a name of ComfyUI's CLIPType.

    ``literal``: its template already takes brackets literally; for others that is switched on.
    """

    kind: str
    usable: tuple[TextEncoder, ...]
    needed: tuple[TextEncoder, ...]
    literal: bool = False


@dataclass(frozen=True)
class Layout:
    """Where ComfyUI's network of a family keeps what training needs: dotted names of attributes.

    ``blocks``: its lists of blocks in the order of running, and where the image's tokens are in
    what a block returns. ``context`` and ``pooled`` lead to the widths of the text that it takes
    (pooled "": takes none). ``tiny`` is what to change in a file's configuration for a network of
    the same kind that computes in milliseconds, ``tiny_where_set`` the same of entries that only
    some files have. ``architecture`` is what model libraries read in a trained file.
    """

    architecture: str
    blocks: Mapping[str, Place]
    width: str
    context: str
    pooled: str = ""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    tiny_where_set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """The published network in numbers of weights, not bytes, for memory estimates.

    ``rest`` is outside the blocks, ``blocks`` of each block in order; ``features`` is the sum of
    in + out of the blocks' linear layers: the weights of a LoRA of rank 1.
    """

    rest: int
    blocks: tuple[int, ...]
    width: int
    mlp_ratio: float
    features: int

    @property
    def weights(self) -> int:
        """All weights."""
        return self.rest + sum(self.blocks)


@dataclass(frozen=True)
class Family:
    """One family of models. What needs a field that is None is not offered for it.

    ``name`` is the one spelling, for users and in code; ``aliases`` are what files, workflows and
    configurations of earlier versions hold, and stay readable. ``hosts`` are ComfyUI's classes of
    the whole model; where one of them serves several families, ``where`` says which entries of the
    host's configuration, by one of these sets, make it this one. ``kind`` says what its latents
    are: ``pictures`` (b, c, h, w), pictures as videos of ``one frame`` (b, c, 1, h, w), or
    ``video``, of which ``stride`` frames become one of the latent's after the first. ``boundary``
    is the noise level at which a high-noise expert hands over to a low-noise one.
    ``spectrum`` is the published one of its latents. ``time_embedding`` is the part of its network
    to whose output the embedding of an interval is added.
    """

    name: str
    hosts: tuple[str, ...] = ()
    where: tuple[Mapping[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()
    latent: LatentSpec | None = None
    kind: Literal["pictures", "one frame", "video"] = "pictures"
    stride: int = 4
    sampling: Sampling | None = None
    template: Template | None = None
    spectrum: PowerLaw | None = None
    boundary: float | None = None
    time_embedding: str | None = None
    text: Text | None = None
    layout: Layout | None = None
    size: Size | None = None

    @property
    def frames(self) -> bool:
        """Whether its latents have an axis of frames, (c, f, h, w); a picture is one frame."""
        return self.kind != "pictures"

    @property
    def moving(self) -> bool:
        """Whether it makes videos: ``stride`` n + 1 frames become n + 1 of the latent."""
        return self.kind == "video"

    def is_host(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether ComfyUI's class of that name, with its configuration, is this family."""
        matches = (all(config.get(k) == v for k, v in entries.items()) for entries in self.where)
        return name in self.hosts and (not self.where or any(matches))

    def answers_to(self, name: str) -> bool:
        """Whether ``name``, from a file or a user, is this family's name or an alias of it."""
        return name == self.name or name in self.aliases
