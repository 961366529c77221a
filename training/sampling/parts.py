"""A folder of pictures that are made batch by batch and joined into one file at the end."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sv_core.errors import InvalidInput, Unavailable

from ..files import write_atomically

SETTINGS, NPZ = "settings.json", "samples.npz"


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or check that it was begun with the same settings.

    Raises InvalidInput, in one sentence and without changing anything, when it was not.
    """
    file = out / SETTINGS
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            before = json.loads(file.read_text("utf-8"))
            other = [k for k, v in settings.items() if before.get(k) != v]
            if other:
                raise InvalidInput(
                    f"{out} was begun with {other[0]} = {before.get(other[0])}, now it is "
                    f"{settings[other[0]]}: use the same again, or another folder"
                )
            return
        if any(not p.name.startswith(".") for p in out.iterdir()):
            raise InvalidInput(f"{out} holds other files: name a new or an empty folder")
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InvalidInput(f"{file} is damaged: remove {out} and begin anew") from None
    except OSError as e:
        raise Unavailable(f"cannot write into {out}: {e.strerror or e}") from e
    text = json.dumps(settings, indent=1)
    write_atomically(file, lambda f: f.write(text.encode()))


def part_path(out: Path, number: int) -> Path:
    """The path of a batch's file until all are joined."""
    return out / f"part-{number:06d}.npy"


def read_part(out: Path, number: int) -> np.ndarray:
    """A batch (b, h, w, 3) of bytes. Raises InvalidInput, in one sentence, when it is damaged."""
    path = part_path(out, number)
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise InvalidInput(
            f"{path} cannot be read ({e}): remove it and run the same command again"
        ) from e


def join(out: Path, n: int, parts: int) -> None:
    """Join all parts, ``n`` pictures, into one .npz, part by part; then delete the parts."""

    def write(file: Any) -> None:
        first = read_part(out, 0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *first.shape[1:])}
        with zipfile.ZipFile(file, "w") as archive, archive.open(
            zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True
        ) as array:  # fmt: skip
            np.lib.format.write_array_header_2_0(array, header)
            for number in range(parts):
                array.write(read_part(out, number).tobytes())

    write_atomically(out / NPZ, write)
    for number in range(parts):
        part_path(out, number).unlink()
