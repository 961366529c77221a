"""What is asked for: a text file, GenEval's metadata, or T2V-CompBench's files."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sv_core.errors import InvalidInput

OWN = Path(__file__).with_name("prompts.txt")
"""Fifty of our own: text, hands, crowds, counts, textures, portraits and others."""


@dataclass(frozen=True)
class Prompt:
    """A text, the group that it belongs to, and the line that a benchmark wants back."""

    text: str
    group: str = ""
    line: dict = field(default_factory=dict)


def read_prompts(paths: Sequence[Path], limit: int | None = None) -> list[Prompt]:
    """The prompts of one or several files, in order. Raises InvalidInput.

    A ``.jsonl`` has one object a line with ``prompt``, as GenEval's evaluation_metadata.jsonl. In a
    text file every line is a prompt; ``# name`` begins a group, and without one the file's name is
    the group, as T2V-CompBench's 1_consistent_attr.txt.
    """
    found = [prompt for path in paths for prompt in _read_file(path)][:limit]
    if not found:
        raise InvalidInput(f"{', '.join(map(str, paths))} has no prompt: write one on each line")
    return found


def _read_file(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as e:
        raise InvalidInput(f"there is no file of prompts {path}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"{path} cannot be read as text: save it as UTF-8") from e
    if path.suffix == ".jsonl":
        return [_of_object(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    return _of_lines(lines, re.sub(r"^\d+_", "", path.stem))


def _of_object(path: Path, number: int, line: str) -> Prompt:
    try:
        data = json.loads(line)
        return Prompt(data["prompt"], str(data.get("tag", "")), data)
    except (ValueError, KeyError, TypeError) as e:
        raise InvalidInput(f"line {number} of {path} is no JSON object with a prompt") from e


def _of_lines(lines: list[str], group: str) -> list[Prompt]:
    found = []
    for line in lines:
        if line.startswith("#"):
            group = line.lstrip("# ").strip()
        elif line.strip():
            found.append(Prompt(line.strip(), group))
    return found
