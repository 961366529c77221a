"""MMDiT: the transformer of SD3.5 over a text's tokens and a picture's together.

Architecture: Esser et al. 2024 (arXiv 2403.03206, section 4), with the normalised queries and keys
of SD3.5. Parameter names are those of its files, so that they load; the code is our own. SD3.5
Medium's second attention is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InvalidInput
from .interval import TimestepEmbedder
from .sit import Mlp, PatchEmbed, modulated_norm

HEAD = 64
"""Width of a head; a network has width / HEAD of them."""
TIMES = 1000.0
"""What the embedder of time calls t = 1."""


@dataclass(frozen=True)
class MMDiTConfig:
    """The sizes of an MMDiT, all of them visible in its tensors' shapes."""

    hidden_size: int
    depth: int
    channels: int = 16
    patch_size: int = 2
    grid: int = 16
    """Picture tokens a side that have a place; smaller pictures take those in the middle."""
    context: int = 4096
    pooled: int = 2048

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "MMDiTConfig":
        """Raises InvalidInput when the tensors are not an MMDiT's."""
        try:
            hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
            return cls(
                hidden_size=hidden,
                depth=1 + max(int(k.split(".")[1]) for k in state if k.startswith("joint_")),
                channels=channels,
                patch_size=patch,
                grid=round(state["pos_embed"].shape[1] ** 0.5),
                context=state["context_embedder.weight"].shape[1],
                pooled=state["y_embedder.mlp.0.weight"].shape[1],
            )
        except (KeyError, ValueError, IndexError) as e:
            raise InvalidInput(f"this is not a checkpoint of SD3.5's network ({e})") from e


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2), weighted, over the last axis."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


class Projections(nn.Module):
    """A stream's queries, keys and values (3, b, heads, n, HEAD), and what leads back."""

    def __init__(self, hidden_size: int, last: bool):
        super().__init__()
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.ln_q, self.ln_k = RMSNorm(HEAD), RMSNorm(HEAD)
        if not last:
            self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (k h d) -> k b h n d", k=3, d=HEAD)
        return torch.stack([self.ln_q(q), self.ln_k(k), v])


class Stream(nn.Module):
    """One block's layers for one kind of token; in the last block text is only attended to."""

    def __init__(self, hidden_size: int, last: bool = False):
        super().__init__()
        self.last = last
        self.attn = Projections(hidden_size, last)
        if not last:
            self.mlp = Mlp(hidden_size, 4 * hidden_size)
        out = (2 if last else 6) * hidden_size
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, out))

    def before(self, x: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What goes into the attention, and the modulation of the rest."""
        shift, scale, *rest = self.adaLN_modulation(c).chunk(2 if self.last else 6, 1)
        return self.attn(modulated_norm(x, shift, scale)), tuple(rest)

    def after(self, x: Tensor, attended: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        gate_a, shift, scale, gate_m = rest
        x = x + gate_a[:, None] * self.attn.proj(attended)
        return x + gate_m[:, None] * self.mlp(modulated_norm(x, shift, scale))


class JointBlock(nn.Module):
    """Both streams attend to all tokens, the text's first."""

    def __init__(self, hidden_size: int, last: bool):
        super().__init__()
        self.context_block = Stream(hidden_size, last)
        self.x_block = Stream(hidden_size)

    def forward(
        self, context: Tensor, x: Tensor, c: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        of_text, text_rest = self.context_block.before(context, c)
        of_picture, picture_rest = self.x_block.before(x, c)
        q, k, v = torch.cat([of_text, of_picture], dim=3)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        attended = rearrange(attended, "b h n d -> b n (h d)")
        text, picture = attended.split([context.shape[1], x.shape[1]], dim=1)
        if not self.context_block.last:
            context = self.context_block.after(context, text, text_rest)
        return context, self.x_block.after(x, picture, picture_rest)


class Output(nn.Module):
    """Modulated norm, then every token's patch of output: (b, n, d) -> (b, n, p p c)."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        d = config.hidden_size
        self.linear = nn.Linear(d, config.patch_size**2 * config.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(modulated_norm(x, *self.adaLN_modulation(c).chunk(2, 1)))


class PooledEmbedder(nn.Module):
    """Two linear layers: (b, pooled) -> (b, d)."""

    def __init__(self, pooled: int, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(pooled, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        return self.mlp(pooled)


class MMDiT(nn.Module):
    """v(x_t, t, context, pooled): (b, c, h, w), (b,) with 0 = data, (b, n, context), (b, pooled).

    ``times`` (n,) says how many tokens each of the text's stands for: equal tokens stay equal in
    every block, and m equal keys count in a softmax as one whose logit is larger by log m.
    """

    pos_embed: Tensor

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.x_embedder = PatchEmbed(config.patch_size, config.channels, d)
        self.register_buffer("pos_embed", torch.zeros(1, config.grid**2, d))
        self.t_embedder = TimestepEmbedder(d)
        self.y_embedder = PooledEmbedder(config.pooled, d)
        self.context_embedder = nn.Linear(config.context, d)
        self.joint_blocks = nn.ModuleList(
            JointBlock(d, number == config.depth - 1) for number in range(config.depth)
        )
        self.final_layer = Output(config)

    def forward(
        self, x_t: Tensor, t: Tensor, context: Tensor, pooled: Tensor, times: Tensor | None = None
    ) -> Tensor:
        p = self.config.patch_size
        height, width = x_t.shape[-2] // p, x_t.shape[-1] // p
        c = self.t_embedder(TIMES * t) + self.y_embedder(pooled)
        x = self.x_embedder(x_t) + self._places(height, width)
        text = self.context_embedder(context)
        bias = None
        if times is not None:
            bias = F.pad(times.to(x).log(), (0, x.shape[1]))[
                None
            ]  # the picture's tokens count once
        for block in self.joint_blocks:
            text, x = block(text, x, c, bias)
        out = self.final_layer(x, c)
        return rearrange(out, "b (h w) (p q c) -> b c (h p) (w q)", h=height, p=p, q=p)

    def _places(self, height: int, width: int) -> Tensor:
        """Those in the middle of the grid: (1, height * width, d)."""
        grid = self.config.grid
        if max(height, width) > grid:
            raise InvalidInput(
                f"this network has places for {grid} x {grid} tokens, got {height} x {width}: "
                f"choose a smaller picture"
            )
        places = rearrange(self.pos_embed, "1 (h w) d -> 1 h w d", h=grid)
        top, left = (grid - height) // 2, (grid - width) // 2
        return places[:, top : top + height, left : left + width].flatten(1, 2)


def from_state_dict(state: Mapping[str, Tensor]) -> MMDiT:
    """The network of a file in float32, for evaluation. Raises InvalidInput for other networks."""
    model = MMDiT(MMDiTConfig.from_state_dict(state))
    try:
        model.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()
        raise InvalidInput(f"this is not SD3.5's network as it is known here: {reason}") from e
    return model.eval()
