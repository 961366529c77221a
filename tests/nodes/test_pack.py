"""The pack as ComfyUI loads it: quickly, and without what only training needs."""

import sys

import pytest

from tests.nodes.loaded_pack import (
    KNOWN_MODULES,
    LOADING,
    NAME,
)

pytestmark = pytest.mark.inside


def test_pack_loads_quickly_and_brings_no_heavy_module():
    new = {m.split(".")[0] for m in sys.modules.keys() - KNOWN_MODULES if not m.startswith(NAME)}
    assert not new & {"scipy", "matplotlib", "sklearn", "pandas", "accelerate", "diffusers"}, new
    assert LOADING < 0.2, f"{LOADING:.3f} s"
