"""One folder, one run."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.picture_files import DIGITS, write_digits
from training.caching.encode import prepare
from training.caching.lock import alone


def test_two_runs_at_once_do_not_mix(tmp_path):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    with alone(cache), pytest.raises(InvalidInput, match=r"another training\.prepare"):
        prepare(root, cache, DIGITS)
    assert prepare(root, cache, DIGITS).index.complete
