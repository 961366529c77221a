"""What ``validate_inputs`` answers the host."""

from importlib import import_module

import pytest

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside

checks = import_module(".nodes.checks", NAME)


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
