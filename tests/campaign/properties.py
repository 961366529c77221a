"""Laws that hold for every input, tried on many that are drawn."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from sv_core.errors import InvalidInput
from training.config.parse import build, override
from training.config.schema import Config

from .counts import Counts

KIND = "property cases"
ROUND = 100
"""How many examples of a law are drawn at a time."""


class Law(NamedTuple):
    """A function that raises where the law is broken, and what its arguments are drawn from."""

    holds: Callable[..., None]
    of: Mapping[str, st.SearchStrategy[Any]]


def assignment_is_taken_or_refused_in_words(key: str, text: str) -> None:
    table: dict = {}
    try:
        override(table, f"{key}={text}")
        build(Config, table)
    except InvalidInput as e:
        assert str(e)


KEYS = ["optim.lr", "run.seed", "lora.rank", "objective.span", "x"]
LAWS = [
    Law(
        assignment_is_taken_or_refused_in_words,
        {"key": st.sampled_from(KEYS), "text": st.text(max_size=20)},
    ),
]


def run(seconds: float, seed: int) -> Counts:
    """Each law in turn, ROUND examples at a time, until the time is over."""
    counts, end, number = Counts(), time.monotonic() + seconds, 0
    while number < len(LAWS) or time.monotonic() < end:
        _try(LAWS[number % len(LAWS)], seed + number, counts)
        number += 1
    return counts


def _try(law: Law, seed: int, counts: Counts) -> None:
    def case(**drawn: Any) -> None:
        counts.add(KIND)
        law.holds(**drawn)

    limits = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        limits(seeded(seed)(given(**law.of)(case)))()
    except Exception as e:  # whatever it is, it is a finding
        outcome = "silent" if isinstance(e, AssertionError) else "traceback"
        counts.find(KIND, outcome, f"{law.holds.__name__}, seed {seed}: {e!r}")
