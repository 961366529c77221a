"""The emoji model's reader: words, and files that are not the model's."""

import pytest
import torch

from sv_core.errors import InvalidInput
from training.demo import picture_model

TABLE = {"red": [3], "apple": [5, 6]}


@pytest.fixture
def words():
    vectors = torch.randn(8, 768, generator=torch.Generator().manual_seed(0))
    return picture_model.Words(TABLE, vectors)


def test_every_text_fills_77_places(words):
    context, pooled, times = words.encode(["red", "Red apple", ""])
    assert context.shape == (3, 5, 4096) and pooled.shape == (3, 2048)
    assert times.tolist() == [1, 1, 1, 1, 73] and times.sum() == 77
    assert not context[2].any() and not pooled[2].any()
    assert torch.equal(context[0, 1], context[1, 1]) and not context[:, -1].any()


def test_the_pooled_text_is_normalised_and_blind_to_order(words):
    _, pooled, _ = words.encode(["red apple", "apple red"])
    torch.testing.assert_close(pooled[0], pooled[1])
    assert pooled[0, :768].std() == pytest.approx(1, abs=0.01) and not pooled[0, 768:].any()


def test_a_word_that_was_not_learnt_is_named(words):
    with pytest.raises(InvalidInput, match="'pear'"):
        words.encode(["red pear"])


def test_a_missing_or_other_file_is_said(tmp_path):
    table = tmp_path / "words.json"
    table.write_text("{}")
    with pytest.raises(InvalidInput, match="clone of the repository"):
        picture_model.load(tmp_path / "emoji.ckpt", table, [""])
    torch.save({"state_dict": {"other": torch.ones(1)}}, tmp_path / "emoji.ckpt")
    with pytest.raises(InvalidInput, match="not the emoji model"):
        picture_model.load(tmp_path / "emoji.ckpt", table, [""])
