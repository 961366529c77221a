"""SiT: a class-conditional transformer for latents, with the published checkpoints' names.

Architecture: Ma et al. 2024 (arXiv 2401.08740), after DiT. Parameter names are those of the SiT and
REPA checkpoints, so that their files load; the code is our own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InvalidInput
from ..latent import is_count
from .interval import IntervalEmbedder, TimestepEmbedder, has_interval, linear


class Sizes(TypedDict):
    """The sizes that the letter in a SiT's name stands for."""

    hidden_size: int
    depth: int
    num_heads: int


SIT_SIZES: dict[str, Sizes] = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
_HEADS = {size["hidden_size"]: size["num_heads"] for size in SIT_SIZES.values()}


@dataclass(frozen=True)
class SiTConfig:
    """The sizes of a SiT, and the conventions of its inputs and outputs."""

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learn_sigma: bool = False
    """The published SiT files predict twice the channels; the second half is not used."""
    data_time: int = 0
    """The time of data in the checkpoint: 0 as here (ours, REPA), 1 reversed (the SiT paper's)."""
    interval: bool = False
    """Whether t - r is an input too, so that average velocities are predicted (MeanFlow)."""

    def __post_init__(self) -> None:
        """Raise InvalidInput for sizes that no SiT can have."""
        counts = (
            *(self.input_size, self.patch_size, self.in_channels),
            *(self.hidden_size, self.depth, self.num_heads, self.num_classes),
        )
        if not all(map(is_count, counts)):
            raise InvalidInput(f"a SiT's sizes must be whole numbers from 1, got {counts!r:.120}")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise InvalidInput(
                f"a SiT's hidden_size must be a multiple of 4 and of num_heads, got "
                f"{self.hidden_size} and {self.num_heads}"
            )
        if self.input_size % self.patch_size:
            raise InvalidInput(
                f"a SiT's input_size must be a multiple of patch_size, got {self.input_size} and "
                f"{self.patch_size}"
            )
        if not isinstance(self.mlp_ratio, int | float) or not 0 < self.mlp_ratio < math.inf:
            raise InvalidInput(f"a SiT's mlp_ratio must be above 0, got {self.mlp_ratio!r:.40}")
        if self.data_time not in (0, 1) or not {self.learn_sigma, self.interval} <= {False, True}:
            raise InvalidInput("a SiT's data_time, learn_sigma and interval are switches: 0 or 1")

    @classmethod
    def named(cls, name: str, **changes) -> "SiTConfig":
        """The configuration of a name such as ``SiT-B/2``. Raises InvalidInput for other names."""
        size, _, patch = name.removeprefix("SiT-").partition("/")
        if size not in SIT_SIZES or patch not in ("2", "4", "8"):
            raise InvalidInput(
                f"unknown model {name!r}: use SiT-S, -B, -L or -XL with /2, /4 or /8"
            )
        return replace(cls(**SIT_SIZES[size], patch_size=int(patch)), **changes)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "SiTConfig":
        """The configuration by a checkpoint's shapes; the width decides the number of heads.

        A file with twice the output channels is taken for one of the SiT paper's, in which time is
        reversed. Raises InvalidInput when the tensors are not a SiT's.
        """
        try:
            patches = state["x_embedder.proj.weight"]
            hidden, channels, patch, _ = patches.shape
            out = state["final_layer.linear.weight"].shape[0] // patch**2
            blocks = {int(k.split(".")[1]) for k in state if k.startswith("blocks.")}
            if blocks != set(range(len(blocks))):
                raise InvalidInput("some of its blocks are missing")
            config = cls(
                input_size=math.isqrt(state["pos_embed"].shape[1]) * patch,
                patch_size=patch,
                in_channels=channels,
                hidden_size=hidden,
                depth=len(blocks),
                num_heads=_HEADS.get(hidden, max(1, hidden // 64)),
                mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / hidden,
                num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
                learn_sigma=out == 2 * channels,
                data_time=int(out == 2 * channels),
                interval=has_interval(state),
            )
        except InvalidInput as e:
            raise InvalidInput(f"this is not a SiT checkpoint: {e}") from e
        except KeyError as e:
            raise InvalidInput(f"this is not a SiT checkpoint: it has no tensor {e}") from e
        except (ValueError, IndexError, ZeroDivisionError) as e:
            raise InvalidInput("this is not a SiT checkpoint: its tensors have other shapes") from e
        return config


class LabelEmbedder(nn.Module):
    """One row per class and a last one for "no class"."""

    def __init__(self, num_classes: int, hidden_size: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class PatchEmbed(nn.Module):
    """(b, c, h, w) -> (b, n, d), row-major."""

    def __init__(self, patch_size: int, channels: int, hidden_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "b d h w -> b (h w) d")


class Attention(nn.Module):
    """Multi-head self-attention: (b, n, d) -> (b, n, d)."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (k h d) -> k b h n d", k=3, h=self.num_heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(x, "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, hidden_size: int, width: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, width)
        self.fc2 = nn.Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scale and shift from the conditioning (b, d)."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x * (1 + scale[:, None]) + shift[:, None]


class SiTBlock(nn.Module):
    """Attention and MLP, gated and modulated by the conditioning (adaLN-Zero)."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        d = config.hidden_size
        self.attn = Attention(d, config.num_heads)
        self.mlp = Mlp(d, int(d * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, 1)
        x = x + gate_a[:, None] * self.attn(modulated_norm(x, shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulated_norm(x, shift_m, scale_m))


class FinalLayer(nn.Module):
    """Modulated norm, then every token's patch of output: (b, n, d) -> (b, n, p p c)."""

    def __init__(self, config: SiTConfig):
        super().__init__()
        d, out = config.hidden_size, config.in_channels * (1 + config.learn_sigma)
        self.linear = nn.Linear(d, config.patch_size**2 * out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, 1)
        return self.linear(modulated_norm(x, shift, scale))


def position_embedding(hidden_size: int, grid: int) -> Tensor:
    """Fixed 2-D sinusoids (1, grid^2, d): half of d for the column, half for the row."""
    omega = 10000.0 ** (-torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, d/2)
    row, column = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    return rearrange(torch.cat([column, row], dim=-1), "h w d -> 1 (h w) d").float()


class SiT(nn.Module):
    """v(x_t, t, y): x_t (b, c, s, s), t (b,) with 0 = data, y (b,) class or num_classes for none.

    With ``config.interval`` also u(x_t, t, y, r), the average over [r, t], r (b,); None is r = t.
    A new network is the zero function. LoRA and feature hooks attach to parts of ``blocks``.
    """

    def __init__(self, config: SiTConfig):
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, d)
        self.t_embedder = TimestepEmbedder(d)
        self.y_embedder = LabelEmbedder(config.num_classes, d)
        grid = config.input_size // config.patch_size
        self.pos_embed = nn.Parameter(position_embedding(d, grid), requires_grad=False)
        self.blocks = nn.ModuleList(SiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        self._initialize()
        if config.interval:  # last, so that a seed gives the rest the weights of a plain SiT
            self.interval_embedder = IntervalEmbedder(d)

    def _initialize(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(m.weight.view(len(m.weight), -1))
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        times = self.t_embedder.mlp
        for embedding in (self.y_embedder.embedding_table, linear(times, 0), linear(times, 2)):
            nn.init.normal_(embedding.weight, std=0.02)
        # Every block begins as the identity and the output as 0 (adaLN-Zero).
        for layer in self.modules():
            if isinstance(layer, SiTBlock | FinalLayer):
                nn.init.zeros_(linear(layer.adaLN_modulation, 1).weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor, r: Tensor | None = None) -> Tensor:
        size = self.config.input_size
        if x_t.shape[-2:] != (size, size):
            raise InvalidInput(
                f"this SiT was made for {size}x{size} latents, got "
                f"{x_t.shape[-2]}x{x_t.shape[-1]}: change the size of the latent"
            )
        if r is not None and not self.config.interval:
            raise InvalidInput("this SiT knows no average velocity: train it with MeanFlow first")
        c = self.t_embedder(1 - t if self.config.data_time else t) + self.y_embedder(y)
        if self.config.interval:
            c = c + self.interval_embedder(torch.zeros_like(t) if r is None else t - r)
        # With reversed time the interval is as long; velocity and average velocity change sign.
        v = self._network(x_t, c)
        return -v if self.config.data_time else v

    def _network(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        p, grid = self.config.patch_size, self.config.input_size // self.config.patch_size
        out = rearrange(
            self.final_layer(h, c), "b (h w) (p q c) -> b c (h p) (w q)", h=grid, p=p, q=p
        )
        return out[:, : self.config.in_channels]


def with_interval(model: SiT) -> SiT:
    """MeanFlow's start: a copy that embeds t - r and predicts the same as the model for every r."""
    copy = SiT(replace(model.config, interval=True)).to(model.pos_embed).train(model.training)
    copy.load_state_dict(copy.state_dict() | model.state_dict())
    return copy
