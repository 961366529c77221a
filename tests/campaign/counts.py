"""What a part of the campaign tried, and what it found."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

OUTCOMES = ("loss", "silent", "traceback", "hang", "outside")
"""Saved work that is gone; a wrong result without a word; a traceback for what a user can cause;
no end within ten seconds; a file where it was not asked for."""


class Finding(NamedTuple):
    """One case that went wrong: its kind, one of OUTCOMES, and how to make it happen again."""

    kind: str
    outcome: str
    detail: str


@dataclass
class Counts:
    """Cases by kind, such as "kills of training", and the findings among them."""

    tried: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, cases: int = 1) -> None:
        """Count cases that were tried, whatever came of them."""
        self.tried[kind] += cases

    def find(self, kind: str, outcome: str, detail: str) -> None:
        """Note a case that went wrong; it must be counted by ``add``, too."""
        assert outcome in OUTCOMES, outcome
        self.findings.append(Finding(kind, outcome, detail))

    def join(self, other: "Counts") -> None:
        """Take in what another part has counted."""
        self.tried.update(other.tried)
        self.findings += other.findings


def table(counts: Counts) -> str:
    """One Markdown row per kind, and a last one of all."""
    head = "| | cases | lost work | silent wrong result | traceback | over 10 s | file outside |"
    rows = [_row(kind, n, counts.findings, (kind,)) for kind, n in counts.tried.items()]
    rows.append(_row("**all**", counts.tried.total(), counts.findings, counts.tried))
    return "\n".join([head, "|---" + "|---:" * (len(OUTCOMES) + 1) + "|", *rows])


def _row(name: str, cases: int, findings: list[Finding], kinds: Iterable[str]) -> str:
    found = Counter(f.outcome for f in findings if f.kind in set(kinds))
    return " | ".join([f"| {name}", f"{cases:,}", *(str(found[o]) for o in OUTCOMES)]) + " |"
