"""Listing a folder of pictures or videos: which are used, each with its condition."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sv_core.errors import InvalidInput
from sv_core.models import families

from . import captions
from .captions import ONE, Variants

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
VIDEOS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".gif")
FRAMES = ".frames"
"""The suffix of a folder whose pictures are the frames of one video."""
SPLITS = {
    "train": "train", "training": "train",
    "val": "held out", "valid": "held out", "validation": "held out", "test": "held out",
}  # fmt: skip
"""Folder names that mean a split of the data set, not a class."""
_REPEATS = re.compile(r"(\d+)_(.+)")
_MASK = ".mask"


class Picture(NamedTuple):
    """A picture: its path below the root (with /), when it changed, its condition, its split.

    ``others`` are further captions of it, ``repeats`` how often it counts, ``mask`` the path of its
    mask.
    """

    path: str
    size: int
    mtime: int
    condition: str
    held_out: bool
    others: tuple[str, ...] = ()
    repeats: int = 1
    mask: str | None = None


class Listing(NamedTuple):
    """``conditions`` are the class names, or the distinct captions, in the order of their numbers.

    ``aside`` are pictures that cannot be used, each with the reason.
    """

    layout: str
    pictures: list[Picture]
    conditions: list[str]
    aside: dict[str, str]


def is_video(path: str) -> bool:
    """Whether a path is a video's. A GIF counts as one: call this only where videos are used."""
    return path.lower().endswith((*VIDEOS, FRAMES))


def scan(
    root: Path,
    layout: str = "auto",
    *,
    variants: Variants = ONE,
    repeats: bool = False,
    masks: bool = False,
    videos: bool = False,
) -> Listing:
    """List the pictures (and ``videos``) below ``root``, in the order of their paths.

    ``classes``: the class is the first folder, after a train/val folder if there is one.
    ``captions``: the condition is the text of the ``.txt`` beside the picture, with its
    ``variants``. ``auto`` means captions if any picture has such a text. With ``repeats`` a first
    folder called ``10_name`` is the class ``name`` and its pictures count ten times. With ``masks``
    ``a.mask.png`` is the mask of ``a.jpg``. Raises InvalidInput, in one sentence, when ``root`` is
    not a folder or nothing in it can be used.
    """
    if not root.is_dir():
        raise InvalidInput(f"there is no folder {root}: name the one that holds the pictures")
    files, aside = _readable(_files(root, videos))
    texts = {path[:-4]: root / path for path in files if path.lower().endswith(".txt")}
    kinds = SUFFIXES + ((*VIDEOS, FRAMES) if videos else ())
    found = [path for path in files if path.lower().endswith(kinds)]
    mask_of = {_stem(p)[: -len(_MASK)]: p for p in found if _stem(p).endswith(_MASK) and masks}
    taken = set(mask_of.values())
    found = [path for path in found if path not in taken]
    if not videos:
        aside |= _videos_aside(set(files) - set(found))
    if not found:
        raise InvalidInput(f"{root} holds no pictures ({', '.join(kinds)})")
    if layout == "auto":
        layout = "captions" if any(_stem(path) in texts for path in found) else "classes"
    pictures = []
    for path in found:
        first, count = _first_folder(path, repeats)
        problem, others = "it lies in no class folder", ()
        if layout == "captions":
            first, others, problem = _captions(texts.get(_stem(path)), path, variants)
        if count == 0:
            first, problem = None, "the name of its folder says that it counts 0 times"
        if first is None:
            aside[path] = problem
            continue
        mask = mask_of.get(_stem(path))
        size, mtime, problem = _stat(files_of(root, path, mask))
        if problem:
            aside[path] = problem
            continue
        where = (path, size, mtime, first, _is_held_out(path))
        pictures.append(Picture(*where, others, count, mask))
    if not pictures:
        example = next(iter(aside))
        raise InvalidInput(
            f"none of the {len(aside)} pictures in {root} can be used ({example}: "
            f"{aside[example]}): put each class into a folder of its own, or a .txt caption "
            f"beside each picture"
        )
    names = {c for p in pictures for c in (p.condition, *p.others)}
    return Listing(layout, pictures, sorted(names), aside)


def _videos_aside(paths: Iterable[str]) -> dict[str, str]:
    """The videos among these, each with the reason why it is not used."""
    takers = " and ".join(f.name for f in families.having("layout") if f.moving)
    reason = f"it is a video, which only family={takers} take"
    return dict.fromkeys(sorted(p for p in paths if p.lower().endswith(VIDEOS)), reason)


def _captions(
    file: Path | None, path: str, variants: Variants
) -> tuple[str | None, tuple[str, ...], str]:
    """A picture's condition and its other captions; without any, a sentence with the reason."""
    text, problem = captions.read(file)
    if not text:
        return None, (), problem
    first, *others = variants.of(text, path)
    return first, tuple(others), problem


def _files(root: Path, videos: bool) -> Iterator[str]:
    """Paths below the root, with /, in an order that is the same on every machine."""
    inside = {str(root): {os.path.realpath(root)}}  # of each folder, it and those above it
    for folder, folders, names in os.walk(root, followlinks=True):
        # Hidden files are the system's (.DS_Store, ._photo.jpg), not pictures.
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if videos:
            names = names + [f for f in folders if f.lower().endswith(FRAMES)]
            folders[:] = [f for f in folders if f not in names]
        above = inside.pop(folder)
        real = {f: os.path.realpath(os.path.join(folder, f)) for f in folders}
        folders[:] = [f for f in folders if real[f] not in above]  # a link to where it is itself
        inside |= {os.path.join(folder, f): above | {real[f]} for f in folders}
        below = Path(folder).relative_to(root).as_posix()
        for name in sorted(n for n in names if not n.startswith(".")):
            yield name if below == "." else f"{below}/{name}"


def _readable(paths: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The paths whose names are UTF-8, and the others, as they can be written, with the reason."""
    good, bad = [], {}
    for path in paths:
        try:
            path.encode()
            good.append(path)
        except UnicodeEncodeError:
            spelled = os.fsencode(path).decode("utf-8", "backslashreplace")
            bad[spelled] = "its name is not UTF-8: give it another one"
    return good, bad


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _first_folder(path: str, repeats: bool) -> tuple[str | None, int]:
    """(the first folder's name, if any; how often its pictures count)."""
    folders = path.split("/")[:-1]
    if folders and folders[0].lower() in SPLITS:
        folders = folders[1:]
    name = folders[0] if folders else None
    if repeats and name and (match := _REPEATS.fullmatch(name)):
        return match[2], int(match[1])
    return name, 1


def content(files: Iterable[Path]) -> str:
    """The bytes of files, or of all that are in a folder of frames, in 16 letters."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def files_of(root: Path, path: str, mask: str | None) -> list[Path]:
    """A picture's files: its own, and its mask's."""
    return [root / name for name in (path, mask) if name is not None]


def _is_held_out(path: str) -> bool:
    part, _, rest = path.partition("/")
    return bool(rest) and SPLITS.get(part.lower()) == "held out"


def _stat(files: Iterable[Path]) -> tuple[int, int, str]:
    """(bytes in all, the latest change in ns) of files, or of what is in folders; or a reason."""
    try:
        flat = [inner for f in files for inner in (sorted(f.iterdir()) if f.is_dir() else [f])]
        stats = [file.stat() for file in flat]
    except OSError as e:  # such as a link to a file that is gone
        return 0, 0, f"it cannot be read ({e.strerror or e})"
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0), ""
