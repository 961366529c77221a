"""What files say, as names with values that can be compared to the bit: for ``same_results.py``.

A tensor becomes its type, shape, mean and the hash of its bytes; a picture the same of its pixels;
a column of metrics.jsonl the list of its numbers. Left out on purpose, because they differ between
two equal runs or say how something is kept rather than what came out: the times in TIMES, the
metadata of .safetensors (git hash, configuration) and of .png (workflow), and every kind of file
that is not in READERS (config.toml, states, logs, locks, a video's container).
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

Found = dict[str, Any]
"""Name -> a text, a number or a list of these."""

FAILED = "failed"
"""The name under which a failure is told, in place of results."""

TIMES = {"samples_per_s", "mtimes"}
"""Keys of JSON that hold times or what follows from them."""

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


def of_tensor(value: Tensor) -> str:
    """Type, shape, mean and the first 16 digits of the SHA-256 of the bytes."""
    value = value.detach().cpu().contiguous()
    digest = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    kind, shape = str(value.dtype).removeprefix("torch."), "x".join(map(str, value.shape))
    return f"{kind} {shape or 'scalar'} mean {float(value.double().mean()):.6g} {digest[:16]}"


def of_array(value: np.ndarray) -> str:
    return of_tensor(torch.from_numpy(np.array(value)))


def numbers(text: str) -> list[str]:
    """The numbers of a text in their order, so that its wording may change."""
    return NUMBER.findall(text)


def without_column(table: str, name: str) -> str:
    """A table of right-aligned columns without the one that its first line calls ``name``."""
    head, *rows = table.splitlines()
    end = head.index(name) + len(name)
    start = len(head[: head.index(name)].rstrip())
    return "\n".join(line[:start] + line[end:] for line in (head, *rows))


def _metrics(path: Path) -> Found:
    """A list per key, with null for the lines that lack it."""
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    keys = dict.fromkeys(key for record in records for key in record if key not in TIMES)
    return {key: [record.get(key) for record in records] for key in keys}


def _json(path: Path) -> Found:
    content = json.loads(path.read_text("utf-8"))
    return {key: value for key, value in content.items() if key not in TIMES}


def _tensors(path: Path) -> Found:
    return {name: of_tensor(value) for name, value in sorted(load_file(path).items())}


def _arrays(path: Path) -> Found:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: of_array(value) for name, value in arrays.items()}


def _picture(path: Path) -> Found:
    with Image.open(path) as image:
        return {"pixels": of_array(np.asarray(image))}


READERS: dict[str, Callable[[Path], Found]] = {
    "metrics.jsonl": _metrics,
    "index.json": _json,
    ".safetensors": _tensors,
    ".latent": _tensors,
    ".npz": _arrays,
    ".png": _picture,
}


def of_file(path: Path) -> Found:
    """What the file says by name; nothing for the kinds that are left out."""
    reader = READERS.get(path.name) or READERS.get(path.suffix)
    return reader(path) if reader else {}


def of_folder(folder: Path) -> Found:
    """All files below the folder, metrics first, under their paths in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (path.suffix != ".jsonl", path))
    return {
        f"{path.relative_to(folder).as_posix()} {name}": value
        for path in files
        for name, value in of_file(path).items()
    }


def differences(before: Found, after: Found) -> list[str]:
    """A line for each value that is not the same; a failure is never the same as another."""
    for found, when in ((before, "before"), (after, "after")):
        if FAILED in found:
            return [f"failed {when}: {found[FAILED]}"]
        if not found:
            return [f"nothing was found {when}"]
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            lines.append(f"{name}: only before")
        elif name not in before:
            lines.append(f"{name}: only after")
        elif where := _where(before[name], after[name]):
            lines.append(f"{name}{where}")
    return lines


def _where(before: Any, after: Any) -> str | None:
    """Where two values first differ: of lists the place, counted from 1."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True), 1):
            if where := _where(*pair):
                return f" [{number}]{where}"
        return None
    # As text, in which NaN equals itself and every float is written to its last bit.
    before, after = json.dumps(before), json.dumps(after)
    return None if before == after else f": {before[:120]} before, {after[:120]} after"
