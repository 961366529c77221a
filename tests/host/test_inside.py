"""What is checked inside each host's own interpreter; the checks are in ``inside.py``."""

import pytest

pytestmark = pytest.mark.comfy


def test_inside(inside: dict, check: str) -> None:
    assert inside[check] is None, inside[check]
