"""The pictures in the folders that the scripts of GenEval and T2V-CompBench read.

GenEval (djghosh13/geneval): METHOD/00000/metadata.jsonl with the line of its
evaluation_metadata.jsonl, and METHOD/00000/samples/0000.png and on, one for each seed.
T2V-CompBench (KaiyueSun98/T2V-CompBench): METHOD/CATEGORY/0001.mp4 and on, in the order of the
category's file of prompts; with several seeds METHOD/seed_N/CATEGORY.
"""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sv_core.errors import InvalidInput

from ..files import write_atomically
from .folder import ReportFolder, run_name
from .prompts import Prompt

GENEVAL, COMPBENCH = "geneval", "t2v-compbench"


def require_layout(name: str | None, prompts: Sequence[Prompt], is_video: bool) -> None:
    """Raises InvalidInput before the first run, when a layout does not fit."""
    if name == GENEVAL and not all(prompt.line for prompt in prompts):
        raise InvalidInput(
            "GenEval's layout needs its prompts/evaluation_metadata.jsonl as PROMPTS"
        )
    if name == COMPBENCH:
        if not is_video:
            raise InvalidInput("T2V-CompBench judges videos, and this workflow makes pictures")
        _require_av()


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as e:
        raise InvalidInput("writing .mp4 files needs the package av: pip install av") from e


def write_layout(
    name: str, folder: ReportFolder, prompts: Sequence[Prompt], seeds: Sequence[int],
    methods: Sequence[str], rate: float,
) -> Path:  # fmt: skip
    """Write what is finished; returns the folder. Files that are there are left."""
    root = folder.path / name
    for method in methods:
        if name == GENEVAL:
            _write_geneval(root / method, folder, prompts, seeds, method)
        else:
            _write_compbench(root / method, folder, prompts, seeds, method, rate)
    return root


def _write(path: Path, make: Callable[[], bytes]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = make()
        write_atomically(path, lambda file: file.write(data))


def _write_geneval(
    root: Path, folder: ReportFolder, prompts: Sequence[Prompt], seeds: Sequence[int], method: str
) -> None:
    for i, prompt in enumerate(prompts):
        place = root / f"{i:05d}"
        for j, seed in enumerate(seeds):
            name = run_name(i, seed, method)
            for picture in folder.pictures(name)[:1] if folder.run(name) is not None else []:
                _write(place / "samples" / f"{j:04d}.png", picture.read_bytes)
                _write(place / "metadata.jsonl", lambda p=prompt: json.dumps(p.line).encode())


def _write_compbench(
    root: Path, folder: ReportFolder, prompts: Sequence[Prompt], seeds: Sequence[int],
    method: str, rate: float,
) -> None:  # fmt: skip
    for seed in seeds:
        base = root if len(seeds) == 1 else root / f"seed_{seed}"
        numbers: dict[str, int] = {}
        for i, prompt in enumerate(prompts):
            number = numbers[prompt.group] = numbers.get(prompt.group, 0) + 1
            name = run_name(i, seed, method)
            if folder.run(name) is not None:
                place = base / (prompt.group or "videos") / f"{number:04d}.mp4"
                _write(place, lambda n=name: make_video(folder.pictures(n), rate))


def _read_even(path: Path) -> np.ndarray:
    """A picture's bytes, of even width and height, as H.264 wants them."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]


def make_video(frames: Sequence[Path], rate: float) -> bytes:
    """An .mp4 of pictures, H.264 at nearly no loss; odd sizes lose their last row or column."""
    import av

    with io.BytesIO() as data:
        with av.open(data, "w", format="mp4") as film:
            stream = film.add_stream("libx264", rate=round(rate), options={"crf": "12"})
            stream.height, stream.width = _read_even(frames[0]).shape[:2]
            stream.pix_fmt = "yuv420p"
            for path in frames:
                frame = av.VideoFrame.from_ndarray(_read_even(path), format="rgb24")
                film.mux(stream.encode(frame))
            film.mux(stream.encode())
        return data.getvalue()
