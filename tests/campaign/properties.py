"""Laws that hold for every input, tried on many that are drawn."""

import contextlib
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from sv_core.errors import InvalidInput
from sv_core.latent import pixels
from training.caching.captions import Variants
from training.config import reference
from training.config.load import dump
from training.config.parse import build, override, read_text
from training.config.schema import Config
from training.data.format import CacheFolder
from training.files import read_weights, save_weights
from training.run.checkpoint import shareable
from training.run.metrics import Metrics
from training.sample import parse_classes
from training.sampling import parts
from training.tensors import DTYPES

from . import grid_laws
from .counts import Counts

KIND = "property cases"
ROUND = 100
"""How many examples of a law are drawn at a time."""


class Law(NamedTuple):
    """A function that raises where the law is broken, and what its arguments are drawn from."""

    holds: Callable[..., None]
    of: Mapping[str, st.SearchStrategy[Any]]


def assignment_is_taken_or_refused_in_words(key: str, text: str) -> None:
    """And what is taken comes back from the file that is written of it."""
    table: dict = {}
    try:
        override(table, f"{key}={text}")
        config = build(Config, table)
    except InvalidInput as e:
        assert str(e)
    else:
        assert build(Config, read_text(dump(config), "it")) == config
        assert not {"/", "\\"} & set(shareable(config).run.out.rstrip("/\\"))


def tensors_come_back_and_a_flipped_bit_is_noticed(
    forms: dict[str, tuple[str, list[int]]], facts: dict[str, str], seed: int
) -> None:
    draw, here = random.Random(seed), Path(FOLDER.name) / "tensors.safetensors"
    facts.pop("checksum", None)
    made = {}
    for name, (dtype, shape) in forms.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        data = bytearray(draw.randbytes(size) if dtype != "BOOL" else bytes(size))
        flat = (
            torch.frombuffer(data, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
        )
        made[name] = flat.view(DTYPES[dtype]).reshape(shape)
    save_weights(here, made, facts)
    found, said = read_weights(here)
    assert said == facts and _bits(found) == _bits(made)
    data = bytearray(here.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    here.write_bytes(data)
    with contextlib.suppress(InvalidInput):
        assert _bits(read_weights(here)[0]) == _bits(made)  # in the checksum's own name


def _bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    flat = {name: x.contiguous().reshape(-1).view(torch.uint8) for name, x in tensors.items()}
    return {name: (x.dtype, x.shape, flat[name].numpy().tobytes()) for name, x in tensors.items()}


def metrics_go_on_where_they_can(lines: list[bytes], last: int) -> None:
    here = Path(FOLDER.name) / "metrics.jsonl"
    here.write_bytes(b"\n".join(lines))
    metrics = Metrics(here, last)
    metrics.add({"step": last + 1})
    metrics.close()
    steps = [json.loads(line)["step"] for line in here.read_bytes().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == last + 1
    assert bool(metrics.notes) == (steps != list(range(1, last + 2)))


def index_is_read_or_refused_in_words(changes: dict[str, Any], cut: int) -> None:
    folder = Path(FOLDER.name)
    text = json.dumps(INDEX | changes)
    (folder / "index.json").write_text(text[: len(text) - cut], "utf-8")
    try:
        index = CacheFolder.open(folder).index
        pictures = [p for _, part in index.shards() for p in part]
        assert sorted(pictures) == [p for p, b in enumerate(index.bucket) if b >= 0]
    except InvalidInput as e:
        assert str(e)


def classes_are_numbers_of_the_network_or_refused(text: str, count: int) -> None:
    try:
        found = parse_classes(text, count)
    except InvalidInput as e:
        assert str(e)
    else:
        assert found and all(0 <= c < count for c in found)


def captions_are_distinct_and_the_first_is_unshuffled(kind: str, text: str, number: int) -> None:
    made = Variants(kind, number).of(text, "name")
    assert len(set(made)) == len(made) <= max(number, text.count("\n") + 99)
    assert made == Variants(kind, number).of(text, "name")
    if kind == "tags":
        tags = [sorted(x.split(", ")) for x in made]
        assert all(t == tags[0] for t in tags)


def a_part_comes_back_and_a_flipped_bit_is_noticed(shape: tuple[int, int, int], seed: int) -> None:
    draw, out = np.random.default_rng(seed), Path(FOLDER.name)
    images = draw.integers(0, 256, (*shape, 3), np.uint8)
    parts.write_part(out, 0, images)
    assert (parts.read_part(out, 0) == images).all()
    data = bytearray(parts.part_path(out, 0).read_bytes())
    data[draw.integers(len(data))] ^= 1 << draw.integers(8)
    parts.part_path(out, 0).write_bytes(data)
    try:
        parts.read_part(out, 0)
    except InvalidInput:
        return
    raise AssertionError("a damaged part was read")


FOLDER = tempfile.TemporaryDirectory()
"""Where the laws write; the system's own folder for such files."""
KEYS = [key.name for section in reference.keys(Config).values() for key in section]
INDEX = {
    "format": 1, "settings": {"flip": "none", "shard": 2, "vae": "pixels"},
    "latent": vars(pixels(1)), "conditions": ["a", "b"], "buckets": [[8, 8]],
    "paths": ["x", "y", "z"], "sizes": [1] * 3, "mtimes": [1] * 3, "condition": [0, 1, 0],
    "held_out": [0] * 3, "bucket": [0, 0, -1], "aside": {},
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
NUMBERS = st.integers(-(2**65), 2**65).map(str) | st.floats().map(str)
LINES = st.one_of(
    st.integers(-2, 9).map(lambda n: json.dumps({"step": n}).encode()),
    st.binary(max_size=12),
    JSON.map(lambda x: json.dumps(x).encode()),
)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
SEEDS = st.integers(0, 2**32)
LAWS = [
    Law(
        assignment_is_taken_or_refused_in_words,
        {"key": st.sampled_from(KEYS), "text": st.text(max_size=20) | NUMBERS},
    ),
    Law(
        tensors_come_back_and_a_flipped_bit_is_noticed,
        {
            "forms": st.dictionaries(
                NAMES.filter(lambda n: n != "__metadata__"),
                st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
                max_size=5,
            ),
            "facts": st.dictionaries(NAMES, NAMES, max_size=3),
            "seed": SEEDS,
        },
    ),
    Law(
        metrics_go_on_where_they_can,
        {"lines": st.lists(LINES, max_size=9), "last": st.integers(1, 7)},
    ),
    Law(
        index_is_read_or_refused_in_words,
        {
            "changes": st.dictionaries(st.sampled_from(sorted(INDEX)), JSON, max_size=2),
            "cut": st.integers(0, 3),
        },
    ),
    Law(
        classes_are_numbers_of_the_network_or_refused,
        {"text": st.text("0123456789-, al²x", max_size=12), "count": st.integers(1, 40)},
    ),
    Law(
        captions_are_distinct_and_the_first_is_unshuffled,
        {
            "kind": st.sampled_from(["one", "lines", "tags"]),
            "text": st.text("ab, \n", max_size=24),
            "number": st.integers(1, 6),
        },
    ),
    Law(
        a_part_comes_back_and_a_flipped_bit_is_noticed,
        {"shape": st.tuples(*[st.integers(1, 4)] * 3), "seed": SEEDS},
    ),
    *(Law(*law) for law in grid_laws.LAWS),
]


def run(seconds: float, seed: int) -> Counts:
    """Each law in turn, ROUND examples at a time, until the time is over."""
    counts, end, number = Counts(), time.monotonic() + seconds, 0
    while number < len(LAWS) or time.monotonic() < end:
        _try(LAWS[number % len(LAWS)], seed + number, counts)
        number += 1
    return counts


def _try(law: Law, seed: int, counts: Counts) -> None:
    def case(**drawn: Any) -> None:
        counts.add(KIND)
        law.holds(**drawn)

    limits = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        limits(seeded(seed)(given(**law.of)(case)))()
    except Exception as e:  # whatever it is, it is a finding
        outcome = "silent" if isinstance(e, AssertionError) else "traceback"
        counts.find(KIND, outcome, f"{law.holds.__name__}, seed {seed}: {e!r}")
