"""Configurations of runs as files."""

import json
from pathlib import Path

from tests.host.server import PACK

DIGITS = PACK / "training/configs/digits.toml"


def configure(path: Path, **sections: dict) -> Path:
    """A TOML file."""
    lines = []
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in section.items())]
    path.write_text("\n".join(lines) + "\n")
    return path
