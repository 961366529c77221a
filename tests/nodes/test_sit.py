"""The nodes of SiT: lists of classes are read as they are written, and each gets its pictures."""

import random
import time
from importlib import import_module

import pytest

from tests.nodes.loaded_pack import MODEL, NAME, complaint, sit_model

pytestmark = pytest.mark.inside
sit_nodes = import_module(".nodes.sit", NAME)


def test_classes_are_read_as_they_are_written():
    draw = random.Random(0)
    for _ in range(200):
        parts, expected = [], []
        for _ in range(draw.randint(1, 5)):
            a = draw.randint(0, 999)
            b = a + draw.choice((0, 0, 1, 7))
            parts.append(f"{a}-{b}" if b > a else draw.choice((f"{a}", f" {a} ", f"{a}-{a}")))
            expected += range(a, b + 1)
        assert sit_nodes.parse_classes(",".join(parts)) == expected, parts


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-3", "1.5", "3-", "9-0", "1--2", "²", "٣", "9" * 5000]
)
def test_anything_else_is_refused_in_words(text):
    words = complaint(lambda: sit_nodes.parse_classes(text))
    assert (
        "\n" not in words
        and len(words) < 300
        and ("is not a class" in words or "is not a range" in words)
    )
    assert sit_nodes.SiTClassCondition.validate_inputs(text) == words


@pytest.mark.parametrize("text", ["0-16384", "0-100000", ",".join(["0-9999"] * 2400)])
def test_more_classes_than_a_batch_can_have_are_refused_at_once(text):
    began = time.perf_counter()
    assert "pictures, of 1 to 16384" in complaint(lambda: sit_nodes.parse_classes(text))
    assert time.perf_counter() - began < 1
    assert len(sit_nodes.parse_classes("0-16383")) == 16384


def test_every_class_gets_its_pictures_and_an_unknown_one_is_refused():
    positive, negative, latent = sit_nodes.SiTClassCondition.execute(MODEL, "2,0-1", 4).args
    size = MODEL.model.diffusion_model.config.input_size
    assert latent["samples"].shape == (12, 4, size, size) and not latent["samples"].any()
    classes = sit_model.classes_from_conditioning(positive[0][0], 12)
    assert classes.tolist() == [2, 0, 1]  # which sampling repeats over the latent
    assert sit_model.classes_from_conditioning(negative[0][0], 2).tolist() != [0, 0]
    words = complaint(lambda: sit_nodes.SiTClassCondition.execute(MODEL, "3", 1))
    assert "3" in words


def test_a_checkpoint_that_is_not_there_is_refused_before_the_run():
    told = sit_nodes.SiTLoader.validate_inputs("gone.safetensors")
    assert isinstance(told, str) and "gone.safetensors" in told
    assert sit_nodes.SiTLoader.validate_inputs(None) is True  # connected: known later
