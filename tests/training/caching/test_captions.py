"""Captions beside pictures, and their variants."""

from training.caching.captions import Variants


def test_each_line_is_a_caption_of_the_same_picture():
    lines = Variants("lines")
    assert lines.of("a cat\n\n  on a mat \na cat\n", "x") == ["a cat", "on a mat"]
    assert Variants().of("a cat\non a mat", "x") == ["a cat\non a mat"]


def test_tags_are_shuffled_but_for_the_first():
    tags = Variants("tags", number=50, keep=2)
    captions = tags.of("sks, cat, a,b , c,,d", "x.png")
    assert captions[0] == "sks, cat, a, b, c, d"
    assert all(c.startswith("sks, cat, ") for c in captions)
    assert len(captions) == len(set(captions)) > 10  # of 24
    assert {frozenset(c.split(", ")) for c in captions} == {frozenset(captions[0].split(", "))}
    assert tags.of("sks, cat, a,b , c,,d", "x.png") == captions
    assert tags.of("sks, cat, a,b , c,,d", "y.png") != captions
    assert Variants("tags", keep=9).of("a, b", "x") == ["a, b"]
