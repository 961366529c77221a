"""The campaign's short form: a few seconds of each part. The long one: dev.py test --campaign."""

import pytest

from tests.campaign.__main__ import parts
from tests.campaign.counts import OUTCOMES, Counts, table

SECONDS = 6.0
PARTS = parts()


@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_found_in_a_few_seconds(name):
    counts = PARTS[name].run(SECONDS, seed=0)
    assert counts.tried.total() > 0
    assert counts.findings == []


def test_the_table_counts_each_kind_and_all():
    counts, other = Counts(), Counts()
    counts.add("kills", 3)
    counts.find("kills", "loss", "seed 1, kill 2")
    other.add("inputs", 2)
    other.find("inputs", "traceback", "channels=2")
    counts.join(other)
    head, line, *rows = table(counts).splitlines()
    assert head.count("|") == line.count("|") == len(OUTCOMES) + 3
    assert rows == [
        "| kills | 3 | 1 | 0 | 0 | 0 | 0 |",
        "| inputs | 2 | 0 | 0 | 1 | 0 | 0 |",
        "| **all** | 5 | 1 | 0 | 1 | 0 | 0 |",
    ]
    with pytest.raises(AssertionError):
        counts.find("kills", "another", "")
