"""What an older ComfyUI does not know is left out of a call, and nothing else."""

import pytest

from tests.nodes.host_free import host_free

compat = host_free("host.compat")


def old(name, *, default=0.0):
    return {"name": name, "default": default}


class New:
    def __init__(self, name, *, default=0.0, advanced=False):
        self.got = {"name": name, "default": default, "advanced": advanced}


def test_each_version_gets_what_it_knows():
    asked = {"default": 0.5, "advanced": True}
    assert compat.supported(old, "split", **asked) == {"name": "split", "default": 0.5}
    assert compat.supported(New, "split", **asked).got == {"name": "split"} | asked


def test_what_is_missing_is_still_missing():
    with pytest.raises(TypeError, match="name"):
        compat.supported(old, default=1.0)
