"""Everything from the font to models/emoji.ckpt: python -m models.emoji.build FONT

With ComfyUI's own Python, from the repository's root. Hours on two cores; each step that is
finished is left out the next time, and the training goes on where it was.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HOME = Path("runs/emoji")
PICTURES, VAE, TEXT = HOME / "pictures", HOME / "vae/vae.safetensors", HOME / "clip_l.safetensors"
START, RUN, CACHE = HOME / "start.safetensors", HOME / "train", Path("cache/emoji")
CONFIG, CHECKPOINT = Path("training/configs/emoji.toml"), Path("models/emoji.ckpt")


class Step(NamedTuple):
    """A module with its arguments, and the file after which it need not run again."""

    made: Path
    command: list[str]


def steps(font: Path, comfy: str | None, home: Path = Path()) -> Iterator[Step]:
    """All but the last two, in their order."""
    host = ["--comfy", comfy] if comfy else []
    yield Step(PICTURES / "1f600.png", ["models.emoji.render", str(font), str(PICTURES)])
    yield Step(VAE, ["models.emoji.vae", str(PICTURES), str(VAE.parent)])
    yield Step(TEXT, ["models.emoji.text", str(TEXT)])
    said = {"family": "sd3", "vae": VAE, "text": f"['{TEXT}']", "size": 64, "captions": "lines"}
    said |= {"layout": "captions", "device": "cpu"} | ({"comfy": comfy} if comfy else {})
    keys = [part for key, value in said.items() for part in ("--set", f"{key}={value}")]
    yield Step(CACHE / "done", ["training.prepare", str(PICTURES), str(CACHE), *keys])
    yield Step(START, ["models.emoji.start", str(START), *host])
    goes_on = ["--resume"] if any((home / RUN).glob("state-*.json")) else []
    where = ["--set", f"comfy.folder={comfy}"] if comfy else []
    yield Step(RUN / "done", ["models.emoji.train", str(CONFIG), *where, *goes_on])


def newest(run: Path) -> Path:
    """The last weights of a run. Raises ValueError where there are none."""
    found = sorted(run.glob("weights-??????.safetensors"))
    if not found:
        raise ValueError(f"{run} holds no weights yet: let the training reach its first save")
    return found[-1]


def run(command: list[str]) -> None:
    print(f"python -m {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.build")
    parser.add_argument("font", metavar="FONT", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("--comfy", help="ComfyUI's folder, where it is not found")
    options = parser.parse_args(arguments)
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        for step in steps(options.font, options.comfy):
            if not step.made.exists():
                run(step.command)
        run(["models.emoji.pack", str(newest(RUN)), str(VAE), str(CHECKPOINT)])
        host = ["--comfy", options.comfy] if options.comfy else []
        run(["models.emoji.sheet", str(CHECKPOINT), str(PICTURES), str(HOME), *host])
    except subprocess.CalledProcessError as e:
        return e.returncode  # it has said why
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
