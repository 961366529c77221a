"""Seeded randomness for the toys."""

import pytest
from torch import Generator


@pytest.fixture
def generator():
    return Generator().manual_seed(0)
