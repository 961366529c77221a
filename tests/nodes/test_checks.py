"""The nodes' checks: exactly what lies within the limits passes, the rest is one sentence."""

from importlib import import_module

import pytest
import torch

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
checks = import_module(".nodes.checks", NAME)
IMAGE = torch.rand(2, 16, 12, 3, generator=torch.Generator().manual_seed(0))


def passes(check, *values) -> bool:
    try:
        check(*values)
    except ValueError as e:
        assert "\n" not in str(e) and len(str(e)) < 300, e
        return False
    return True


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("require_split", (1e-6, 0.85, 1 - 1e-6), (0.0, 1.0, -0.1, 1.5, float("nan"))),
        ("require_boundary", (0.0, 0.875, 1 - 1e-6), (1.0, -0.1, float("nan"))),
    ],
)
def test_levels_of_noise(check, good, bad):
    check = getattr(checks, check)
    assert [passes(check, level) for level in good] == [True] * len(good)
    assert [passes(check, level) for level in bad] == [False] * len(bad)


def test_what_can_be_calibrated():
    fewest, most = checks.CALIBRATED_STEPS

    def able(steps: int, calls: int) -> bool:
        return passes(checks.require_steps, torch.linspace(1, 0, steps + 1), calls)

    assert [steps for steps in range(2, most + 9) if able(steps, 6)] == [*range(fewest, most + 1)]
    assert [calls for calls in range(1, 31) if able(30, calls)] == [*range(6, 21)]
    assert [calls for calls in range(1, 31) if able(10, calls)] == [6, 7, 8, 9]


def test_pictures_are_comparable():
    checks.require_comparable(IMAGE, IMAGE * 0.5)
    for other in (IMAGE[:1], IMAGE[:, 1:], IMAGE[:, :, 1:], IMAGE[..., :1], IMAGE / 0):
        assert not passes(checks.require_comparable, IMAGE, other)
        assert not passes(checks.require_comparable, other, IMAGE)


def test_the_first_complaint_is_the_answer():
    good, bad, worse = ((checks.require_split, split) for split in (0.85, 0.0, 1.5))
    assert checks.first_complaint() is True is checks.first_complaint(good, good)
    assert "got 0" in checks.first_complaint(good, bad, worse)
    assert "got 1.5" in checks.first_complaint(worse, bad)


def test_connected_values_are_left_to_the_run():
    assert checks.first_complaint((checks.require_split, None)) is True


def test_a_defect_is_no_complaint():
    with pytest.raises(ZeroDivisionError):
        checks.first_complaint((lambda value: 1 / value, 0))
