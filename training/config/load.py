"""From a TOML file and ``--set`` to a checked configuration, and back to TOML."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from .parse import build, override, read, read_text, toml
from .rules import _check
from .schema import Config


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply the overrides in order, check everything.

    Raises InvalidInput, in one sentence, for a file that is missing or no TOML, and for anything in
    it that is an unknown key or a value that the key cannot have.
    """
    table = read(path)
    for assignment in overrides:
        override(table, assignment)
    config = build(Config, table)
    _check(config)
    return config


def loads(text: str) -> Config:
    """What ``dump`` made. Raises InvalidInput, in one sentence, for another version's."""
    config = build(Config, read_text(text, "the saved configuration"))
    _check(config)
    return config


def dump(config: Config) -> str:
    """The resolved configuration as TOML, each field on its line; unset fields are left out."""
    lines = []
    for section in fields(config):
        part = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        for f in fields(part):
            value = getattr(part, f.name)
            if value is not None:
                lines.append(f"{f.name} = {toml(value)}")
        lines.append("")
    return "\n".join(lines)
