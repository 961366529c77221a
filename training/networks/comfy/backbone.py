"""A network of ComfyUI's in our notation.

The network predicts v(x, t) itself. Its other inputs come from the same functions of ComfyUI that
sampling uses, so that training and sampling see the same.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models.interval import IntervalEmbedder, add_embedding, to_file

from ...tensors import Lazy
from ..base import Backbone, Value
from . import families
from .families import Family, Tokens
from .file import ModelFile, beside
from .guard import guard, plain_attention, plainly
from .host import Host
from .texts import Entry, Texts, empty_text, grouped, require


@dataclass
class _Live:
    """The mutable state of a network in use, shared by all adapters over it."""

    tokens: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    watchers: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ComfyBackbone:
    """v(x_t, t, cond) of a network of ComfyUI's; cond numbers the entries of ``texts``.

    With an ``embedder``, which is then a part of the network, also the average velocity.

    ``model`` is the network, perhaps wrapped; ``base`` is ComfyUI's whole model around it, which
    knows conditioning, timestep and latents. ``agree`` makes the number of passes of a call the
    same in all processes of a sharded run (FSDP): it takes this process's number and returns
    the largest.
    """

    model: nn.Module
    base: Any
    family: Family
    file: ModelFile
    latent: LatentSpec
    shift: float
    span: tuple[float, float]
    names: dict[str, str]
    """The file's names without prefix -> the network's own."""
    convert: Callable[..., Any]
    forwards: dict[nn.Module, Callable]
    texts: Texts | None = None
    guidance: float = 1.0
    agree: Callable[[int], int] = int
    embedder: IntervalEmbedder | None = None
    live: _Live = field(default_factory=_Live)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for block, _ in self._numbered()]

    @property
    def width(self) -> int:
        return families.width(self.family, self.base.diffusion_model)

    @property
    def patch_size(self) -> int:
        size = self.base.diffusion_model.patch_size
        return size[-1] if isinstance(size, tuple | list) else size

    @property
    def latent_rank(self) -> int:
        """4 for (b, c, h, w), 5 for (b, c, frames, h, w), of which one frame may be left out."""
        return 5 if self.family.frames else 4

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that it computes in, whatever the weights are stored in."""
        return self.base.manual_cast_dtype or self.base.diffusion_model.dtype

    @property
    def interval(self) -> bool:
        """Whether there is an average velocity, and r = t is the velocity."""
        return self.embedder is not None

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """v: x_t (b, c, h, w) or (b, c, f, h, w), t (b,), cond (b,) -> like x_t.

        Rows of equally long texts run together, and come back in their order. Runs under
        ``torch.func.jvp`` inside ``forward_mode()``.
        """
        return self._over(torch.zeros_like(t), x_t, t, cond)

    def average_velocity(self, x_t: Tensor, r: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u(x_t, r, t, cond) over [r, t] <= 1, for a network with an embedder; else as velocity."""
        return self._over(t - r, x_t, t, cond)

    def _over(self, gap: Tensor, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The average velocity over intervals that are as long as ``gap`` (b,)."""
        x = x_t.unsqueeze(2) if self.family.frames and x_t.ndim == 4 else x_t
        cells = [math.ceil(side / self.patch_size) for side in x.shape[-2:]]
        self.live.tokens = math.prod(cells) * (x.shape[2] if x.ndim == 5 else 1)
        if self.texts is None:
            raise RuntimeError("this network is conditioned by text, and no texts were given to it")
        groups = grouped(self.texts, cond.tolist())
        passes = self.agree(
            len(groups)
        )  # before the first pass, for which other processes may wait
        whole = len(groups) == 1
        parts = [
            self._pass(*((x, t, gap) if whole else (x[rows], t[rows], gap[rows])), entry)
            for rows, entry in groups
        ]
        kept = [len(pieces) for pieces, _ in self.live.watchers]
        idle = [
            self._pass(x[:1], t[:1], gap[:1], {k: v[:1] for k, v in groups[0][1].items()})
            for _ in range(passes - len(groups))
        ]
        for (pieces, _), n in zip(self.live.watchers, kept, strict=True):
            del pieces[n:]
        order = torch.tensor([row for rows, _ in groups for row in rows], device=x.device).argsort()

        def together(pieces: Sequence[Tensor]) -> Tensor:
            return pieces[0] if whole else torch.cat(list(pieces))[order]

        for pieces, found in self.live.watchers:
            if pieces:
                found.append(together(pieces))
                pieces.clear()
        v = together(parts).to(x_t.dtype)
        for nothing in idle:  # they take part in the backward pass, too
            v = v + 0 * nothing.sum().to(v)
        return v.reshape(x_t.shape)

    def _pass(self, x: Tensor, t: Tensor, gap: Tensor, entry: Entry) -> Tensor:
        arguments, options = self.inputs(x, t, entry)
        if self.embedder is None:
            return self.model(*arguments, **options)
        network, family = self.base.diffusion_model, self.family.name
        with add_embedding(network, family, self.embedder, lambda: gap):
            return self.model(*arguments, **options)

    def inputs(self, x: Tensor, t: Tensor, entry: Entry) -> tuple[tuple, dict[str, Any]]:
        """What ComfyUI's sampling would hand to the network: (x, timestep), the rest by name.

        t is the noise level sigma. Texts are (b, L, D).
        """
        entry = {name: value.to(x.device) for name, value in entry.items()}
        mask = entry.get("attention_mask")
        if mask is not None:
            mask = None if mask.all() else mask.long()
        base, dtype = self.base, self.compute_dtype
        conds = base.extra_conds(
            cross_attn=entry["context"],
            pooled_output=entry.get("pooled"),
            attention_mask=mask,
            guidance=self.guidance,
            noise=x,
            device=x.device,
            width=x.shape[-1] * self.latent.downscale,
            height=x.shape[-2] * self.latent.downscale,
            prompt_type="positive",
        )
        values = {
            name: self.convert(
                cond.process_cond(batch_size=len(x), device=x.device, area=None).cond,
                dtype,
                x.device,
            )
            for name, cond in conds.items()
        }
        timestep = base.process_timestep(base.model_sampling.timestep(t).float(), x=x, **values)
        context = values.pop("c_crossattn")
        options = {"transformer_options": dict(self.live.options), **values}
        return (x.to(dtype), timestep), {"context": context, **options}

    @contextmanager
    def forward_mode(self) -> Iterator[None]:
        """Context manager: velocity has a forward derivative, ``torch.func.jvp``.

        Attention is written out, a part of the queries at a time, as fused kernels have no forward
        derivative; blocks are neither recomputed nor compiled nor fetched from elsewhere.
        """
        before = self.live.options
        self.live.options = before | {"optimized_attention_override": plain_attention}
        try:
            with plainly(self.forwards), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            self.live.options = before

    @contextmanager
    def watch(self, number: int) -> Iterator[list[Tensor]]:
        """Context manager: every velocity appends block ``number``'s image tokens (b, n, width).

        Row-major over frames, height, width; blocks count from 1; Flux's single blocks follow its
        double ones.
        """
        block, tokens_of = self._numbered()[number - 1]
        pieces: list[Tensor] = []
        found: list[Tensor] = []

        def keep(_: nn.Module, __: Any, out: Any) -> None:
            pieces.append(tokens_of(out, self.live.tokens).clone())

        handle = block.register_forward_hook(keep)
        self.live.watchers.append((pieces, found))
        try:
            yield found
        finally:
            handle.remove()
            self.live.watchers[:] = [w for w in self.live.watchers if w[0] is not pieces]

    def on(self, model: Callable[..., Any]) -> "ComfyBackbone":
        """The same adapter with ``model``, a wrapped network or its bare ``forward``, in place."""
        return replace(self, model=model)

    def reading(self, texts: Texts) -> "ComfyBackbone":
        """The same with other texts. Raises InvalidInput for those of other text encoders."""
        require(texts, self.family, self.base.diffusion_model, self.file.path)
        return replace(self, texts=texts)

    @property
    def trainable(self) -> bool:
        """Whether its own weights can be trained: they are kept in bf16, fp16 or fp32."""
        kept = {p.dtype for p in self.base.diffusion_model.parameters()}
        plain = all(type(p.data) is Tensor for p in self.base.diffusion_model.parameters())
        return plain and not self._scaled and all(d.itemsize > 1 for d in kept)

    @property
    def _scaled(self) -> bool:
        return any(beside(name) for name in self.base.diffusion_model.state_dict())

    def unfreeze(self) -> list[str]:
        """Train its own weights, all that receive a gradient; the names of those that do not.

        Qwen-Image has six of them, in the last block's half for the text. Found by a backward pass
        without numbers (on torch's meta device). Raises InvalidInput, in one sentence, when the
        weights are kept in 8 bits.
        """
        if not self.trainable:
            raise InvalidInput(
                f"{self.file.path} keeps its weights in 8 bits, too few for training them: set "
                f"comfy.dtype = bf16 or fp32, or train a LoRA"
            )
        network = self.base.diffusion_model
        idle = _without_gradient(self)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in idle)
        return idle

    def weights(self, value: Value = Tensor.detach) -> Mapping[str, Tensor]:
        """The whole file again, by its own names and dtypes, with the network's values of now.

        Raises InvalidInput, in one sentence, when weights kept in 8 bits were not to be trained, or
        when the file, of which other parts are copied, is gone.
        """
        if not self.trainable:
            raise InvalidInput(
                f"{self.file.path} keeps its weights in 8 bits: nothing is to be saved"
            )
        own = self.base.diffusion_model.state_dict()
        return self.file.weights(
            Lazy({key: partial(value, own[name]) for key, name in self.names.items()})
        )

    def sidecar(
        self, value: Value = Tensor.detach
    ) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) of the embedder, which no key of the file's names."""
        if self.embedder is None:
            return None
        tensors, facts = to_file(self.embedder, self.family.name)
        return {name: value(x) for name, x in tensors.items()}, facts

    def metadata(self) -> dict[str, str]:
        """The file's own, and the few words that model libraries read."""
        return self.file.metadata | {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": families.layout(self.family).architecture,
            "modelspec.implementation": "stable-velocity",
            "modelspec.prediction_type": "average velocity" if self.interval else "velocity",
        }

    def _numbered(self) -> list[tuple[nn.Module, Tokens]]:
        return families.blocks(self.family, self.base.diffusion_model)


_PROVED: type[Backbone] = ComfyBackbone  # to the type checker


def wrap(
    base: Any, family: Family, file: ModelFile, host: Host, names: dict[str, str]
) -> ComfyBackbone:
    """A backbone over a model of ComfyUI: frozen, its blocks guarded, its 8-bit layers exact."""
    network = base.diffusion_model.requires_grad_(False).eval()
    for module in network.modules():
        if hasattr(module, "_full_precision_mm"):
            # Activations rounded to 8 bits have no forward derivative, and an inexact gradient.
            module._full_precision_mm = True
    # Buffers are the same in all processes: no call of the network has to wait for others.
    network._ddp_params_and_buffers_to_ignore = [n for n, _ in network.named_buffers()]
    blocks = [block for block, _ in families.blocks(family, network)]
    middle = float(base.model_sampling.percent_to_sigma(0.5))
    return ComfyBackbone(
        network,
        base,
        family,
        file,
        families.latent_of(base.latent_format, family),
        shift=round(middle / (1 - middle), 6),  # of t = 1/2 a shift s makes s / (s + 1)
        span=(0.0, 1.0),
        names=names,
        convert=host.model_base.convert_tensor,
        forwards=guard(blocks),
    )


def blank(backbone: ComfyBackbone, device: str) -> tuple[Tensor, Tensor]:
    """(x, t) of one picture of two by two tokens, for trying a network."""
    side = 2 * backbone.patch_size
    frames = (1,) if backbone.family.frames else ()
    shape = (1, backbone.latent.channels, *frames, side, side)
    return torch.zeros(shape, device=device), torch.full((1,), 0.5, device=device)


def _without_gradient(backbone: ComfyBackbone) -> list[str]:
    """Names of parameters that no gradient reaches, from a backward pass on the meta device."""
    network = backbone.base.diffusion_model
    shadows = {
        name: torch.empty_like(p, device="meta").requires_grad_()
        for name, p in network.named_parameters()
    }
    buffers = {name: torch.empty_like(b, device="meta") for name, b in network.named_buffers()}
    (x, t), options = backbone.inputs(
        *blank(backbone, "meta"), empty_text(backbone.family, network, "meta")
    )
    with plainly(backbone.forwards):  # recomputed, blocks would see the weights themselves
        torch.func.functional_call(network, shadows | buffers, (x, t), options).sum().backward()
    return [name for name, shadow in shadows.items() if shadow.grad is None]
