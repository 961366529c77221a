"""Reading videos: frames of a file, or of a folder of numbered pictures, at a fixed rate."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from sv_core.errors import InvalidInput

from . import images
from .listing import SUFFIXES

"""Frames a second by default: what Wan2.1 was trained on."""

T = TypeVar("T")


def require_decoder() -> None:
    """Raises InvalidInput, in one sentence, when video files cannot be read here."""
    try:
        import av  # noqa: F401
    except ImportError as e:
        raise InvalidInput(
            f"reading video files needs the package av ({e}): pip install av, or give the frames "
            f"of each video as pictures in a folder called NAME.frames"
        ) from e


def shape(path: Path) -> tuple[int, int]:
    """(height, width) of a video as shown. Raises what PyAV or Pillow raise."""
    if path.is_dir():
        return images.shape(_pictures(path)[0])
    with _opened(path) as file:
        frame = next(file.decode(video=0))
        on_its_side = _rotation(frame) % 180 == 90
        return (frame.width, frame.height) if on_its_side else (frame.height, frame.width)


def pixels(path: Path, bucket: tuple[int, int], frames: int, fps: float) -> Tensor:
    """Its first ``frames`` at ``fps`` a second, as (3, frames, height, width) bytes.

    Each is cropped as a picture is. A folder's pictures are taken one by one, whatever ``fps``.
    Raises InvalidInput when it is too short, and what PyAV or Pillow raise for a damaged file.
    """
    if path.is_dir():
        kept = [images.pixels(p, bucket, 3) for p in _pictures(path)[:frames]]
    else:
        with _opened(path) as file:
            decoded = ((f.time, f) for f in file.decode(video=0) if f.time is not None)
            shown = resample(decoded, fps, frames)
            cropped: dict[int, Tensor] = {}
            for frame in shown:  # the same frame may be shown several times
                if id(frame) not in cropped:
                    picture = _upright(frame)
                    cropped[id(frame)] = images.as_bytes(images.cover(picture, *bucket))
            kept = [cropped[id(frame)] for frame in shown]
    if len(kept) < frames:
        raise InvalidInput(f"it is too short: {len(kept)} of {frames} frames at {fps:g} a second")
    return torch.stack(kept, 1)


def resample(frames: Iterable[tuple[float, T]], fps: float, count: int) -> list[T]:
    """Of (time, frame) those nearest to the times start + k / fps for k < ``count``.

    Fewer when the video ends before; its last frame lasts as long as the others on average.
    """
    kept: list[T] = []
    start = last = 0.0
    seen = 0
    previous: T | None = None
    for time, frame in frames:
        if previous is None:
            start = time
        else:
            while len(kept) < count and start + len(kept) / fps < (last + time) / 2:
                kept.append(previous)
        if len(kept) == count:
            return kept
        previous, last, seen = frame, time, seen + 1
    if previous is not None:
        lasts = (last - start) / (seen - 1) if seen > 1 else 0.0
        while len(kept) < count and (not kept or start + len(kept) / fps < last + lasts / 2):
            kept.append(previous)
    return kept


def _rotation(frame: Any) -> int:
    """The rotation in a video's metadata, degrees counterclockwise; 0 with an old PyAV."""
    return getattr(frame, "rotation", 0)


def _upright(frame: Any) -> Image.Image:
    return frame.to_image().rotate(_rotation(frame), expand=True)


def _opened(path: Path) -> Any:
    import av

    return av.open(str(path))


def _pictures(folder: Path) -> list[Path]:
    """The frames in a folder, frame_2 before frame_10."""
    found = [p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES)]
    if not found:
        raise InvalidInput("it holds no pictures")
    return sorted(found, key=lambda p: list(_numbered(p.name)))


def _numbered(name: str) -> Iterator[tuple[int, str]]:
    for digits, text in re.findall(r"(\d+)|(\D+)", name):
        yield (int(digits), "") if digits else (-1, text)
