"""The shipped configurations load, and what their comments say of memory and files is calculated.

Tables are read as they stand in the comments. ``#   24 GB   fp8   480   49   4   10   22.8 GB`` is
the card, the file, the pixels, (of videos) the frames, accumulate, offload_blocks, what it takes.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sv_core.interpolant import LINEAR
from sv_core.posterior import effective_size, posterior_weights
from training.config.load import load
from training.config.schema import Config
from training.data.cache import LatentCache
from training.engine.memory import CARDS, GIB, RESERVE, footprint, least_offload, size_of
from training.prepare import main as prepare

ROOT = Path(__file__).resolve().parents[3]
FILES = {path.stem: path for path in sorted((ROOT / "training/configs").glob("*.toml"))}
LORAS = {
    "flux_lora": "Flux",
    "sd35_lora": "SD3.5",
    "qwen_image_lora": "Qwen-Image",
    "wan22_14b_lora": "Wan2.2 14B",
    "wan22_5b_lora": "Wan2.2 5B",
}
FULL = {"flux_full": "Flux", "sd35_full": "SD3.5"}
MENTIONED = 24  # the card that the values of a LoRA's file are for
FREE = 0.05
TEXT = 512  # tokens: as many as any of the families takes
ROW = re.compile(
    r"#\s+(\d+) GB\s+(fp8|bf16)\s+(\d+)\s+(?:(\d+)\s+)?(\d+)\s+(\d+)\s+([\d.]+) GB", re.ASCII
)


class Row(NamedTuple):
    card: int
    weights: str
    pixels: int
    frames: int
    parts: int
    offload_blocks: int
    takes: float

    def tokens(self, network: str) -> int:
        """A token is 16 pixels wide, of Wan 5B 32; a frame of the latent is four of the video."""
        side = self.pixels // (32 if network == "Wan2.2 5B" else 16)
        return TEXT + (1 + (self.frames - 1) // 4) * side**2


def rows(name: str) -> list[Row]:
    found = []
    for line in FILES[name].read_text("utf-8").splitlines():
        if match := ROW.fullmatch(line):
            card, weights, pixels, frames, parts, offloaded, takes = match.groups()
            numbers = int(pixels), int(frames or 1), int(parts), int(offloaded)
            found.append(Row(int(card), weights, *numbers, float(takes)))
    return found


def said(name: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, FILES[name].read_text("utf-8"))
    assert match, f"{name} says nothing like {pattern}"
    return tuple(map(int, match.groups()))


def config(name: str, *overrides: str) -> Config:
    return load(FILES[name], overrides)


@pytest.mark.parametrize("name", FILES)
def test_loads(name):
    assert isinstance(config(name), Config)
    own = name not in LORAS | FULL and name != "emoji"  # a SiT, or one of ComfyUI's models
    assert own == (config(name).comfy.checkpoint is None)


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_s_table_is_calculated(name):
    network, run = size_of(LORAS[name]), config(name)
    assert [row.card for row in rows(name)] == list(CARDS)
    for row in rows(name):
        options = {
            "rank": run.lora.rank,
            "weights": row.weights,
            "batch": run.data.batch_size // row.parts,
            "averages": len(run.optim.ema),
            "optimizer": run.optim.optimizer,
        }
        tokens, budget = row.tokens(LORAS[name]), row.card * (1 - FREE) * GIB
        assert row.offload_blocks == least_offload(budget, network, tokens, **options), row
        size = footprint(network, tokens, offload_blocks=row.offload_blocks, **options)
        assert row.takes == round((size.total + RESERVE) / GIB, 1), row
        assert run.data.batch_size % row.parts == 0


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_s_values_are_those_of_a_row(name):
    run = config(name)
    (row,) = (row for row in rows(name) if row.card == MENTIONED)
    assert (run.optim.accumulate, run.comfy.offload_blocks) == (row.parts, row.offload_blocks)
    assert run.comfy.dtype == {"fp8": "file", "bf16": "bf16"}[row.weights]
    assert ("fp8" in Path(run.comfy.checkpoint).name) == (row.weights == "fp8")
    assert run.run.recompute and run.run.precision == "bf16"


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_s_size_is_calculated(name):
    rank, millions, megabytes = said(name, r"# (\d+) is (\d+) million numbers, (\d+) MB")
    numbers = size_of(LORAS[name]).features * rank
    assert rank == config(name).lora.rank
    assert (millions, megabytes) == (round(numbers / 1e6), round(4 * numbers / 1e6))
    (blocks,) = said(name, r"of the (\d+) blocks")
    assert blocks == len(size_of(LORAS[name]).blocks)


@pytest.mark.parametrize("name", FULL)
def test_full_training_fits_by_calculation(name):
    network, run = size_of(FULL[name]), config(name)
    (row,) = rows(name)
    batch = run.data.batch_size // row.parts
    options = {"weights": row.weights, "batch": batch, "averages": len(run.optim.ema)}
    size = footprint(network, row.tokens(FULL[name]), optimizer=run.optim.optimizer, **options)
    assert row.takes == round((size.total + RESERVE) / GIB, 1) <= row.card * (1 - FREE)
    assert (run.optim.accumulate, run.comfy.dtype) == (row.parts, row.weights)
    assert row.offload_blocks == run.comfy.offload_blocks == 0 and run.lora.rank is None
    weights, state = said(name, r"takes (\d+) GB for the weights and (\d+) GB for the state")
    assert weights == round(2 * network.weights / 1e9)
    assert state == round((size.trained + size.moments) / 1e9)


def test_where_references_begin_to_share_a_target():
    """0.96 to 0.99: of unrelated latents late, of those that are alike to nine tenths earlier."""
    assert said("flux_lora", r"until\n# t is 0.(\d+) to 0.(\d+)") == (96, 99)
    drawn = torch.Generator().manual_seed(0)

    def shares(side: int, own: float, time: float) -> float:
        """The effective number of 32 references, of which a share of the variance is their own."""
        common = torch.randn(1, 16, side, side, generator=drawn)
        refs = torch.randn(32, 16, side, side, generator=drawn)
        refs = (1 - own) ** 0.5 * common + own**0.5 * refs
        t = torch.full((8,), time)
        x_t = LINEAR.x_t(refs[:8], torch.randn(8, 16, side, side, generator=drawn), t)
        return float(effective_size(posterior_weights(LINEAR, x_t, refs, t)).mean())

    for side, own, before, after in ((64, 0.1, 0.94, 0.98), (128, 1.0, 0.985, 0.998)):
        assert shares(side, own, before) < 1.1 and shares(side, own, after) > 2


def test_both_experts_of_wan_are_said():
    high = config("wan22_14b_lora")
    low = config("wan22_14b_lora", "comfy.expert=low", "run.out=runs/wan22_14b_low")
    assert (high.comfy.expert, low.comfy.expert) == ("high", "low")
    assert "high_noise" in high.comfy.checkpoint and high.run.out != low.run.out


def test_the_example_pictures_share_a_caption(tmp_path):
    """What makes StableVM more than flow matching: each caption of one picture, and one of all."""
    command = [
        str(ROOT / "docs/example_dataset"),
        str(tmp_path / "cache"),
        "--set",
        "captions=lines",
    ]
    assert prepare([*command, "--set", "size=32"]) == 0
    cache = LatentCache(tmp_path / "cache")
    assert len(cache) == 4 and len(cache.conditions) == 5
    shared = cache.conditions.index("a drawing of zibo the round robot")
    for i in range(4):
        drawn = torch.Generator().manual_seed(i)
        assert len(cache.companions(i, 32, drawn, int(cache.labels[i]))) == 1
        assert sorted(cache.companions(i, 32, drawn, shared).tolist()) == [0, 1, 2, 3]
    labels = cache.draw_labels(torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0))
    assert set(labels.tolist()) == {int(cache.labels[0]), shared}
