"""The configuration of training.prepare: a family has one spelling, and choices are checked."""

import pytest

from sv_core.errors import InvalidInput
from sv_core.models.families import latents
from training.config.parse import build
from training.config.prepare import PrepareConfig


@pytest.mark.parametrize("ways", [("Flux", "flux"), ("Wan2.2 5B", "wan22"), ("SD3.5", "sd3")])
def test_a_family_is_known_by_each_of_its_names_and_kept_under_one(ways):
    kept = {PrepareConfig(family=name).family for name in ways}
    assert len(kept) == 1 and latents(kept.pop()) == latents(ways[0])


def test_an_unknown_family_is_refused_with_those_there_are():
    with pytest.raises(InvalidInput, match="Flux"):
        PrepareConfig(family="flx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 7),
        ("channels", 2),
        ("buckets", "round"),
        ("frames", 0),
        ("fps", 0.05),
        ("batch", 0),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_key(key, value):
    with pytest.raises(InvalidInput, match=key):
        build(PrepareConfig, {key: value})
