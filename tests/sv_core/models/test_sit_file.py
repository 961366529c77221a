"""Files that say of themselves what is not so: refused in a sentence, before anything is built."""

import json
import time

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.latent import pixels
from sv_core.models.interval import IntervalEmbedder, from_file, to_file
from sv_core.models.sit import SiT, SiTConfig
from sv_core.models.sit_file import from_checkpoint, to_metadata

TINY = SiTConfig(8, 4, 3, 16, 2, 2, num_classes=3)
STATE = SiT(TINY).state_dict()
SOON = 1.0  # seconds; to build what the file claims would take minutes


def changed(part: str, **changes) -> dict[str, str]:
    metadata = to_metadata(TINY, pixels(3))
    return metadata | {part: json.dumps(json.loads(metadata[part]) | changes)}


def refused(state, metadata=None) -> str:
    began = time.perf_counter()
    with pytest.raises(InvalidInput) as caught:
        from_checkpoint(state, metadata)
    assert time.perf_counter() - began < SOON
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_the_honest_file_is_read():
    assert from_checkpoint(STATE, to_metadata(TINY, pixels(3)))[0].config == TINY


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 300_000},
        {"depth": 10**12},
        {"hidden_size": 2**20},
        {"num_classes": 10**9},
        {"mlp_ratio": 1e6},
        {"input_size": 8 * 4096},
        {"in_channels": 4},
    ],
    ids=str,
)
def test_sizes_that_the_tensors_do_not_have(change):
    assert f"by that its {next(iter(change))} is" in refused(STATE, changed("sit", **change))


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 0},
        {"num_heads": 3},
        {"num_heads": -2},
        {"num_heads": True},
        {"patch_size": 0},
        {"patch_size": 3},
        {"hidden_size": "16"},
        {"hidden_size": 16.0},
        {"depth": None},
        {"depth": [2]},
        {"input_size": {}},
        {"num_classes": 0},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": -1},
        {"mlp_ratio": "4"},
        {"data_time": 2},
        {"learn_sigma": "no"},
        {"interval": []},
    ],
    ids=str,
)
def test_sizes_that_no_network_has(change):
    assert "description of itself (SiTConfig)" in refused(STATE, changed("sit", **change))


@pytest.mark.parametrize(
    "change",
    [
        {"scale": "2.0"},
        {"scale": 0},
        {"scale": [1.0, 0.0, 1.0]},
        {"scale": float("inf")},
        {"shift": None},
        {"shift": ["a", "b", "c"]},
        {"shift": [0.0]},
        {"scale": True},
        {"channels": -3},
        {"channels": "3"},
        {"downscale": 0},
        {"kind": 3},
    ],
    ids=str,
)
def test_latents_that_cannot_be_mapped(change):
    assert "description of itself (LatentSpec)" in refused(STATE, changed("latent", **change))


def test_latents_of_other_channels():
    assert "its latents have 4" in refused(STATE, changed("latent", channels=4))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "null", "\0"])
def test_descriptions_that_are_no_description(text):
    for part in ("sit", "latent"):
        assert "description of itself" in refused(STATE, {part: text})


@pytest.mark.parametrize(
    "state",
    [
        [STATE],
        STATE["pos_embed"],
        {"ema": [1]},
        {3: torch.ones(2)},
        STATE | {"pos_embed": "text"},
        {k: v.long() for k, v in STATE.items()},
        STATE | {"blocks.300000.mlp.fc1.weight": torch.ones(1)},
        STATE | {f"blocks.{10**30}.mlp.fc1.weight": torch.ones(1)},
        STATE | {"x_embedder.proj.weight": torch.ones(16, 0, 4, 4)},
        STATE | {"x_embedder.proj.weight": torch.ones(0, 3, 4, 4)},
        STATE | {"blocks.0.mlp.fc1.weight": torch.ones(0, 16)},
    ],
    ids=range(11),
)
def test_tensors_that_are_no_network(state):
    assert "this is not a SiT checkpoint" in refused(state)


def test_tensors_of_which_a_file_holds_one_number():
    wide = {k: torch.zeros(1).expand(v.shape) for k, v in STATE.items()}
    wide["y_embedder.embedding_table.weight"] = torch.zeros(1).expand(10**9, 16)
    assert "not stored whole" in refused(wide)
    for odd in (torch.ones(16, 16).to_sparse(), torch.ones(16, 16, device="meta")):
        state = STATE | {"t_embedder.mlp.2.weight": odd}
        assert "tensors without numbers" in refused(state)


def test_tensors_that_share_what_is_stored_are_read():
    state = STATE | {"blocks.1.mlp.fc1.weight": STATE["blocks.0.mlp.fc1.weight"]}
    assert from_checkpoint(state)[0].config.depth == TINY.depth


@pytest.mark.parametrize(
    ("name", "value"),
    [("mlp.0.weight", torch.zeros(1).expand(10**6, 10**6)), ("mlp.9.weight", torch.ones(2, 2))],
)
def test_an_embedder_s_tensors_must_be_those_of_one(name, value):
    state, metadata = to_file(IntervalEmbedder(8, 4), "Flux")
    with pytest.raises(InvalidInput, match="not an interval embedder"):
        from_file(state | {f"interval_embedder.{name}": value}, metadata)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"family": ["Flux"]}', "[]", "3", ""])
def test_an_embedder_s_description_must_be_one(text):
    state, _ = to_file(IntervalEmbedder(8, 4), "Flux")
    with pytest.raises(InvalidInput, match="not an interval embedder"):
        from_file(state, {"interval_embedder": text})
