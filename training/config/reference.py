"""What every key of a configuration means, for the command line and for docs/configuration.md.

All of it stands at the fields. ``python -m training.config.reference`` writes the page anew.
"""

import argparse
import difflib
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from sv_core.errors import InvalidInput

from .parse import KINDS, toml
from .prepare import PrepareConfig
from .schema import Config

PAGE = Path(__file__).parents[2] / "docs/configuration.md"
INTRODUCTION = """\
# Every key of the configurations

Generated from `training/config/schema.py` and `training/config/prepare.py` by
`python -m training.config.reference`. What contradicts each other is in `training/config/rules.py`.
A key that is "unset" has no value until you give it one. An example stands as it is at the top of a
TOML file, or after `--set`; one value may stand for a list of one.

"""
FINETUNE = """\
## training.finetune

A TOML file, usually with a table for each section, such as those in `training/configs/`, and
`--set KEY=VALUE` over it. `python -m training.finetune --help KEY` prints the same for one key or
one section.
"""
PREPARE = """\
## training.prepare

Keys are given by `--set KEY=VALUE` alone. `python -m training.prepare --help KEY` prints the same
for one key.
"""


class Key(NamedTuple):
    """One key, in words: its dotted name, and what a person asks of it."""

    name: str
    type: str
    default: str
    unit: str
    meaning: str
    example: str


def _type(kind: Any, low: float | None) -> str:
    """A field's type in words."""
    if typing.get_origin(kind) is tuple:
        return f"list, each {_type(typing.get_args(kind)[0], low)}"
    if typing.get_origin(kind) is dict:
        return "table of numbers"
    if isinstance(kind, types.UnionType):
        return " or ".join(_type(k, low) for k in typing.get_args(kind) if k is not types.NoneType)
    bound = "" if low is None or kind is str else f" of at least {low:g}"
    return KINDS[kind] + bound


def _key(prefix: str, field: Field, kind: Any) -> Key:
    """A field's key, in words."""
    about = field.metadata
    made = field.default_factory  # of tables, which no two configurations may share
    default = field.default if made is MISSING else made()
    words = _type(kind, about["low"])
    if about["choices"]:
        several = "any of " if typing.get_origin(kind) is tuple else ""
        words = several + ", ".join(map(str, about["choices"]))
    example = about["example"]
    return Key(
        name=prefix + field.name,
        type=words,
        default="unset" if default is None else toml(default),
        unit=about["unit"],
        meaning=about["help"],
        example="" if example is None else f"{prefix}{field.name}={toml(example)}",
    )


def sections(kind: type) -> Iterator[tuple[str, type]]:
    """(name, dataclass) of each section; of a configuration without any, itself under no name."""
    hints = typing.get_type_hints(kind)
    nested = [(f.name, hints[f.name]) for f in fields(kind) if is_dataclass(hints[f.name])]
    yield from nested or [("", kind)]


def keys(kind: type) -> dict[str, list[Key]]:
    """The keys of each section of a configuration."""
    found = {}
    for name, section in sections(kind):
        hints, prefix = typing.get_type_hints(section), f"{name}." if name else ""
        found[name] = [_key(prefix, f, hints[f.name]) for f in fields(section)]
    return found


def _text(key: Key) -> str:
    """A key for the terminal."""
    example = key.example and f"--set {shlex.quote(key.example)}"
    facts = {"type": key.type, "default": key.default, "unit": key.unit, "example": example}
    lines = [key.name, *wrap(key.meaning, 90)]
    lines += [f"{name:9}{value}" for name, value in facts.items() if value]
    return "\n    ".join(lines)


def explain(kind: type, name: str) -> str:
    """What a key, or every key of a section, means.

    Raises InvalidInput, in one sentence with the nearest names, when there is no such key.
    """
    found = keys(kind)
    every = {key.name: key for section in found.values() for key in section}
    if name in every:
        return _text(every[name])
    if name and name in found:
        about = dict(sections(kind))[name].__doc__
        return "\n\n".join([f"[{name}] {about}", *map(_text, found[name])])
    near = _near(name, [*every, *filter(None, found)])
    have = [section for section in found if section] or list(every)
    hint = f"near: {', '.join(near)}" if near else f"have: {', '.join(have)}"
    raise InvalidInput(f"there is no key or section {name!r} ({hint})")


def _near(name: str, every: Sequence[str]) -> list[str]:
    """At most four names that may have been meant, alike in whole or at the end; or the section."""
    alike = difflib.get_close_matches(name, every, 4)
    last = {k.split(".")[-1] for k in every}
    for part in difflib.get_close_matches(name.split(".")[-1], last, 2, 0.75):
        alike += [k for k in every if k.split(".")[-1] == part]
    first = name.split(".")[0]
    return list(dict.fromkeys(alike))[:4] or [first] * (first in every)


def _table(section: Sequence[Key]) -> str:
    """A section's keys as a table of the page."""
    rows = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    for key in section:
        words = f"{key.type}; {key.unit}" if key.unit else key.type
        example = f"`{key.example}`" if key.example else ""
        meaning = key.meaning.replace("*", "\\*").replace("|", "\\|")
        rows.append(f"| `{key.name}` | {words} | `{key.default}` | {meaning} | {example} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """docs/configuration.md."""
    parts = [INTRODUCTION, FINETUNE]
    about = dict(sections(Config))
    for name, section in keys(Config).items():
        parts.append(f"\n### [{name}]\n\n{about[name].__doc__}\n\n{_table(section)}")
    parts.append(f"\n{PREPARE}\n{PrepareConfig.__doc__}\n\n{_table(keys(PrepareConfig)[''])}")
    return "".join(parts)


class Help(argparse.Action):
    """``--help``: the command's own help; ``--help KEY``: what a key or section means."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, const: type, help: str):
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs="?", const=const, default=argparse.SUPPRESS,
            metavar="KEY", help=help,
        )  # fmt: skip

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is self.const:
            parser.print_help()
            parser.exit()
        try:
            print(explain(self.const, values))
        except InvalidInput as e:
            parser.exit(2, f"error: {e}\n")
        parser.exit()


def add_help(parser: argparse.ArgumentParser, kind: type) -> None:
    """The option ``--help [KEY]`` for a command with a configuration of that kind."""
    words = "show this, or what one KEY or section means, such as "
    example = next(iter(keys(kind).values()))[0].name
    parser.add_argument("-h", "--help", action=Help, const=kind, help=words + example)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
