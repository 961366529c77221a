"""A folder of pictures that are made batch by batch and joined into one file at the end."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sv_core.errors import InvalidInput, Unavailable

from ..files import write_atomically

SETTINGS, NPZ = "settings.json", "samples.npz"
DIGEST = 16
"""Bytes of a part's checksum."""


def prepare_folder(out: Path) -> None:
    """Make the folder. Raises InvalidInput, in one sentence, when it holds other files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / SETTINGS).exists() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise InvalidInput(f"{out} holds other files: name a new or an empty folder")
    except OSError as e:
        if isinstance(e, InvalidInput):
            raise
        raise Unavailable(f"cannot write into {out}: {e.strerror or e}") from e


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder and note the settings, or check that it was begun with the same ones.

    Raises InvalidInput, in one sentence and without changing anything, when it was not.
    """
    prepare_folder(out)
    file = out / SETTINGS
    try:
        before = json.loads(file.read_text("utf-8")) if file.exists() else settings
        if not isinstance(before, dict):
            raise InvalidInput(f"{file} is damaged: remove {out} and begin anew")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(f"{file} is damaged: remove {out} and begin anew") from None
    except OSError as e:
        raise Unavailable(f"cannot read {file}: {e.strerror or e}") from e
    other = [k for k, v in settings.items() if before.get(k) != v]
    if other:
        raise InvalidInput(
            f"{out} was begun with {other[0]} = {before.get(other[0])}, now it is "
            f"{settings[other[0]]}: use the same again, or another folder"
        )
    if not file.exists():
        text = json.dumps(settings, indent=1)
        write_atomically(file, lambda f: f.write(text.encode()))


def part_path(out: Path, number: int) -> Path:
    """The path of a batch's file until all are joined."""
    return out / f"part-{number:06d}.npy"


def write_part(out: Path, number: int, images: np.ndarray) -> None:
    """Write a batch (b, h, w, 3) of bytes and, behind what NumPy reads, its BLAKE2."""
    data = io.BytesIO()
    np.save(data, images)
    whole = data.getvalue() + _digest(data.getvalue())
    write_atomically(part_path(out, number), lambda file: file.write(whole))


def read_part(out: Path, number: int) -> np.ndarray:
    """A batch (b, h, w, 3) of bytes. Raises InvalidInput, in one sentence, when it is damaged."""
    path = part_path(out, number)
    try:
        data = path.read_bytes()
        if _digest(data[:-DIGEST]) == data[-DIGEST:]:
            return np.load(io.BytesIO(data), allow_pickle=False)
        reason = "its checksum is not that of its content"
    except (ValueError, EOFError, OSError) as e:
        reason = str(e)
    raise InvalidInput(
        f"{path} cannot be read ({reason}): remove it and run the same command again"
    )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


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
    remove_parts(out, parts)


def remove_parts(out: Path, parts: int) -> None:
    """Delete the batches' files, which are joined."""
    for number in range(parts):
        part_path(out, number).unlink(missing_ok=True)
