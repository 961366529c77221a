"""The demo in colour on the shipped model: what it says of calls and nearness, and the picture."""

import re

import pytest
from PIL import Image

from training.demo import emoji, show
from training.demo.picture_model import load


@pytest.fixture(scope="module")
def rows():
    words = emoji.WORDS[:3]
    model = load(emoji.MODELS / "emoji.ckpt", emoji.MODELS / "emoji/words.json", [*words, ""])
    return emoji.draw(model, model.decode, words)


def test_each_way_calls_as_often_as_it_is_said_to(rows):
    assert [row.calls for row in rows] == [30, 20, 20, 14, 14, 10, 8]
    assert all(row.images.shape == (3, 3, 64, 64) for row in rows)


def test_the_words_decide_the_pictures(rows):
    face, apple, _ = rows[0].images
    middle = slice(26, 38)
    red, green, blue = apple[:, middle, middle].mean((1, 2))
    assert red > 0.7 and red - green > 0.3 and red - blue > 0.3
    red, green, blue = face[:, 10:16, middle].mean((1, 2))
    assert red > 0.8 and green > 0.6 > 0.5 > blue, "a face is yellow"
    assert rows[0].images[:, :, :3, :3].mean() > 0.95, "the ground is not white"


def test_more_plain_steps_are_nearer_to_30(rows):
    nearness = {row.name: emoji.nearness(row, rows[0]) for row in rows[1:]}
    assert nearness["Euler, 20 steps"] > nearness["Euler, 14 steps"] > 25
    assert nearness["forecast and replay, 14 calls"] > nearness["forecast and replay, 8 calls"]
    for row, line in zip(rows[1:], emoji.table(rows).splitlines()[2:], strict=True):
        assert re.search(rf"{row.calls} +\d+\.\d\d +{nearness[row.name]:.1f} dB", line), line


def test_the_command_needs_no_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(show, "obtain_weights", lambda config: pytest.fail("it trains"))
    assert show.main(["--out", str(tmp_path)]) == 0
    assert "forecast and replay, 10 calls" in capsys.readouterr().out
    assert Image.open(tmp_path / "compare.png").width > 1500
