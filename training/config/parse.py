"""Frozen dataclasses from TOML tables and ``dotted.key=value``, whatever the dataclasses are.

Strict: what a file or the command line sets must be a known key, of the right type and, where there
are choices, one of them. Every error is one sentence.
"""

import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sv_core.errors import InvalidInput

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def knob(
    default: Any,
    help: str,
    *,
    choices: Iterable[object] = (),
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    example: object = None,
) -> Any:
    """A field of a configuration: its default and, for people, its meaning, unit and an example.

    ``choices`` are its allowed values, ``low`` its least and ``high`` its largest value; of whole
    numbers that is MANY, when it is not given.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "unit": unit,
        "example": example,
    }
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""What the values of a type are called."""


MANY = 10**9
"""The largest whole number of a key, such as a number of steps: more is a mistake."""


def _have(choices: Iterable[object]) -> str:
    return f"(have: {', '.join(map(str, choices))})"


def _value(key: str, value: Any, kind: Any, knob: Mapping[str, Any]) -> Any:
    """``value`` checked against a field's type, choices and bound."""
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)[0]
        # One value may stand for a list of one.
        parts = value if isinstance(value, list) else [value]
        return tuple(_value(key, part, of, knob) for part in parts)
    if isinstance(kind, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not types.NoneType]
        kind = next((k for k in kinds if type(value) is k), kinds[0])
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise InvalidInput(f"{key} must be a table such as {{mean = 0.0}}, got {value!r}")
        return {name: _value(f"{key}.{name}", v, float, {}) for name, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise InvalidInput(f"{key} must be {KINDS[kind]}, got {value!r}")
    if knob.get("choices") and value not in knob["choices"]:
        raise InvalidInput(f"unknown {key} {value!r} {_have(knob['choices'])}")
    low = knob.get("low")
    if low is not None and not value >= low:
        raise InvalidInput(f"{key} must be at least {low}, got {value}")
    high = knob.get("high") or (MANY if kind is int else None)
    if high is not None and not value <= high:
        raise InvalidInput(f"{key} must be at most {high}, got {value}")
    if isinstance(value, str) and "\0" in value:
        raise InvalidInput(f"{key} must be a text without NUL characters, got {value!r}")
    return value


def build(kind: type, table: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass of ``kind`` from a TOML table."""
    hints = typing.get_type_hints(kind)
    for name in table:
        if name not in hints:
            raise InvalidInput(f"unknown config key '{prefix}{name}' {_have(hints)}")
    values = {}
    for f in fields(kind):
        if f.name not in table:
            continue
        key, value = prefix + f.name, table[f.name]
        if is_dataclass(hints[f.name]):
            if not isinstance(value, dict):
                raise InvalidInput(f"'{key}' is a section: write [{key}], or {key}.<key> = ...")
            values[f.name] = build(hints[f.name], value, f"{key}.")
        else:
            values[f.name] = _value(key, value, hints[f.name], f.metadata)
    return kind(**values)


def override(table: dict[str, Any], assignment: str) -> None:
    """Put one ``dotted.key=value`` into the table; a value that is no TOML is a bare word."""
    key, equals, text = assignment.partition("=")
    *path, name = key.strip().split(".")
    if not equals or not all([*path, name]) or len(path) > 9:
        raise InvalidInput(f"--set wants key=value, such as optim.lr=1e-4, got {assignment!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidInput(f"--set {assignment}: '{part}' is a value, not a section")
    table[name] = value


def read_text(text: str, name: str) -> dict[str, Any]:
    """The table of a TOML text. Raises InvalidInput, in one sentence, when it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        deep = isinstance(e, RecursionError)
        why = "its values are nested too deeply" if deep else e
        raise InvalidInput(f"{name} is not a TOML file: {why}") from e


def read(path: Path) -> dict[str, Any]:
    """A TOML file's table. Raises InvalidInput, in one sentence, when it is missing or no TOML."""
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise InvalidInput(f"there is no config file {path}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder: name the .toml file in it") from None
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(f"{path} is not a TOML file: {e}") from e


def toml(value: Any) -> str:
    """A value of a field as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    # A JSON string is a TOML basic string; floats repr as TOML writes them, inf included.
    if not isinstance(value, str):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON lets it stand
