"""The demonstration in colour: the shipped emoji model, sampled with fewer calls, in seconds.

Twelve words, each way from the same noise at the same guidance: 30 Euler steps; the paper's grid
that keeps 20 of those; 20 and 14 plain Euler steps; and 30 steps of which 14, 10 and 8 call the
network. Nothing is trained, and no ComfyUI is needed.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sv_core.fidelity import psnr
from sv_core.sampling import sample_euler, sample_forecast, sample_stable
from sv_core.schedules import regime_split

from ..networks.base import Conditional
from ..sampling.pictures import native_grid, sample, start_noise
from .picture_model import PictureModel, load
from .sheet import Strip, write_sheet

MODELS = Path(__file__).parents[2] / "models"
WORDS = (
    *("grinning face", "red apple", "rainbow", "cat face", "rocket", "sunflower"),
    *("pizza", "blue heart", "automobile", "penguin", "hamburger", "guitar"),
)
GUIDANCE = 3.0
SPLIT, LOW_STEPS = 0.85, 9
"""The paper's setting for 30 steps."""


class Row(NamedTuple):
    """One way of sampling: its name, calls of the network, seconds, pictures (n, 3, h, w)."""

    name: str
    calls: int
    seconds: float
    images: Tensor


def ways() -> dict[str, tuple[Callable[..., Tensor], Tensor]]:
    """The samplers and time grids that are compared, the reference first."""
    full = native_grid(30)
    forecasts = {
        f"forecast and replay, {calls} calls": (partial(sample_forecast, calls=calls), full)
        for calls in (14, 10, 8)
    }
    return {
        "Euler, 30 steps": (sample_euler, full),
        "the paper's grid": (sample_stable, regime_split(full, SPLIT, LOW_STEPS)),
        "Euler, 20 steps": (sample_euler, native_grid(20)),
        "Euler, 14 steps": (sample_euler, native_grid(14)),
    } | forecasts


def draw(
    model: Conditional, decode: Callable[[Tensor], Tensor], words: Sequence[str], seed: int = 0
) -> list[Row]:
    """A picture of each word, each way, from the same noise. ``cond`` len(words) is no text."""
    noise, labels = start_noise((16, 8, 8), len(words), seed), torch.arange(len(words))
    sample(model, labels, len(words), noise, native_grid(2), GUIDANCE)  # warm up, for the timing
    rows = []
    for name, (sampler, ts) in ways().items():
        called: list[int] = []
        began = time.perf_counter()
        latents = sample(
            model, labels, len(words), noise, ts, GUIDANCE, sampler,
            lambda k, x, v, t, called=called: called.append(k),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        with torch.no_grad():
            rows.append(Row(name, len(called), seconds, decode(latents)))
    return rows


def nearness(row: Row, reference: Row) -> float:
    """Mean PSNR over the pictures, in dB."""
    return float(psnr(row.images, reference.images).mean())


def table(rows: Sequence[Row]) -> str:
    """Calls, seconds and nearness to the first row, as text."""
    lines = [f"{'':30}{'calls':>6}{'seconds':>9}{'PSNR to 30':>13}"]
    for row in rows:
        near = "-" if row is rows[0] else f"{nearness(row, rows[0]):.1f} dB"
        lines.append(f"{row.name:30}{row.calls:6}{row.seconds:9.2f}{near:>13}")
    return "\n".join(lines)


def strips(rows: Sequence[Row]) -> list[Strip]:
    """The rows as the picture shows them."""
    return [
        Strip(
            row.name.split(", ")[0],
            f"{row.calls} calls",
            "what they are compared with" if row is rows[0] else f"{nearness(row, rows[0]):.1f} dB",
            row.images,
        )
        for row in rows
    ]


def run(out: Path) -> int:
    """Draw, write the picture, print the table."""
    began = time.perf_counter()
    model: PictureModel = load(MODELS / "emoji.ckpt", MODELS / "emoji/words.json", [*WORDS, ""])
    rows = draw(model, model.decode, WORDS)
    out.mkdir(parents=True, exist_ok=True)
    write_sheet(out / "compare.png", WORDS, strips(rows))
    print(f"\nTwelve words, guidance {GUIDANCE:g}, the same noise each way\n\n{table(rows)}\n")
    print("network   models/emoji.ckpt, made by models/emoji (nothing was trained now)")
    print(f"picture   {out / 'compare.png'} ({time.perf_counter() - began:.0f} s)")
    print("digits    python dev.py demo --train trains a network first, and judges what it draws")
    return 0
