"""A checkpoint -> many pictures: python -m training.sample CHECKPOINT OUT [--n 50000] ...

Writes OUT/samples.npz (arr_0: N x H x W x 3 bytes, which the usual FID suites read), OUT/grid.png.
A checkpoint that was trained with MeanFlow makes every picture in one call, or in --steps of them.
Stopped at any moment, even killed, the same command goes on where it was; every picture is a
function of the seed, its number and the batch size alone.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sv_core.errors import InvalidInput
from sv_core.models.sit import SiTConfig

from .cli import add_debug, guard
from .encoders.vae import load as load_vae
from .files import clear_temporary, fingerprint
from .lock import alone
from .networks.sit import load as load_backbone
from .sampling.batch import MEANFLOW, SAMPLERS, Order, Studio, draw_grid
from .sampling.parts import (
    NPZ,
    SETTINGS,
    begin,
    join,
    part_path,
    prepare_folder,
    remove_parts,
    write_part,
)

MOST = 10_000_000
"""The most pictures, steps, and pictures at a time."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.sample", description="Sample many pictures from a SiT checkpoint."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder to make or to finish")
    add = parser.add_argument
    add("--n", type=int, default=100, help="how many pictures (100)")
    add("--classes", default="all", help="such as 0-9,207; taken in turn (all)")
    add("--sampler", choices=[*SAMPLERS, MEANFLOW],
        help="meanflow for a checkpoint that was trained with it, else euler")  # fmt: skip
    add("--steps", type=int, help="of the whole grid (50; for --sampler meanflow 1)")
    add(
        "--shift",
        type=float,
        default=1.0,
        help="of the grid towards noise; 3 for --sampler stable's figures",
    )
    add("--split", type=float, default=0.85, help="stable: thin the grid below it (0.85)")
    add("--low-steps", type=int, default=9, help="stable: calls below the split (9)")
    add("--guidance", type=float, default=1.0,
        help="scale; 1 is without (1), as for a MeanFlow that has it trained in")  # fmt: skip
    add("--interval", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"),
        help="guide where LOW <= t <= HIGH, t = 1 being noise (0 1)")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=50)
    add("--vae", type=Path, help="the VAE that turns the network's latents into pictures")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the network (fp32)")
    add_debug(parser)
    return parser.parse_args(arguments)


def parse_classes(text: str, count: int) -> list[int]:
    """Read ``0-9,207`` or ``all``. Raises InvalidInput for a class outside 0 .. ``count`` - 1."""
    if text == "all":
        return list(range(count))
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInput(f"--classes wants numbers such as 0-9,207, got {text!r}")
        found += range(int(first), min(int(last or first), count) + 1)  # one too many is refused
    wrong = [c for c in found if c >= count]
    if wrong or not found:
        raise InvalidInput(f"the network has classes 0 to {count - 1}, --classes {text} is outside")
    return found


def make_order(options: argparse.Namespace, sit: SiTConfig) -> Order:
    """The command line as an order to a network. Raises InvalidInput when it cannot be met."""
    sampler = options.sampler or (MEANFLOW if sit.interval else "euler")
    if sampler == MEANFLOW and not sit.interval:
        raise InvalidInput(
            f"{options.checkpoint} knows no average velocity, which --sampler meanflow needs: "
            f"choose another sampler, or train it with MeanFlow first"
        )
    usual = 1 if sampler == MEANFLOW else 50
    steps = usual if options.steps is None else options.steps
    for name, value in (("n", options.n), ("steps", steps), ("batch", options.batch)):
        if not 1 <= value <= MOST:
            raise InvalidInput(f"--{name} must be a number from 1 to {MOST}, got {value}")
    if not math.isfinite(options.guidance):
        raise InvalidInput(f"--guidance must be a finite number, got {options.guidance:g}")
    if not 0 < options.shift < float("inf"):
        raise InvalidInput(f"--shift must be a positive number, got {options.shift:g}")
    low, high = options.interval
    if not 0 <= low <= high <= 1:
        raise InvalidInput(f"--interval wants 0 <= LOW <= HIGH <= 1, got {low:g} {high:g}")
    order = Order(
        n=options.n,
        classes=parse_classes(options.classes, sit.num_classes),
        sampler=sampler,
        steps=steps,
        shift=options.shift,
        split=options.split,
        low_steps=options.low_steps,
        guidance=options.guidance,
        interval=(low, high),
        seed=options.seed,
        batch=options.batch,
    )
    order.grid()  # raises InvalidInput for a wrong split or low_steps
    return order


def open_studio(options: argparse.Namespace) -> Studio:
    """Raises InvalidInput, in one sentence, for files that are missing, damaged or do not fit."""
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise InvalidInput("--device is cuda, but torch sees no such GPU: use auto or cpu")
    device = "cuda" if cuda and options.device != "cpu" else "cpu"
    backbone = load_backbone(options.checkpoint)
    backbone.model.to(device)
    kind = backbone.latent.kind
    if kind == "pixels":
        if backbone.latent.channels not in (1, 3):
            raise InvalidInput(
                f"{options.checkpoint} makes {backbone.latent.channels} channels, and a picture "
                f"has 1 or 3"
            )
        if options.vae:
            raise InvalidInput(f"{options.checkpoint} makes pixels: leave out --vae")
        return Studio(backbone, lambda images: images, options.precision == "bf16")
    if options.vae is None:
        raise InvalidInput(f"{options.checkpoint} makes {kind} latents: name their VAE with --vae")
    vae = load_vae(options.vae, kind)
    vae.model.to(device)

    def decode(latents: Tensor) -> Tensor:
        return torch.cat([vae.decode(part) for part in latents.split(8)])

    return Studio(backbone, decode, options.precision == "bf16")


def run(options: argparse.Namespace) -> int:
    """Make the pictures that are missing."""
    studio = open_studio(options)
    order = make_order(options, studio.backbone.config)
    settings = json.loads(json.dumps(vars(order))) | {
        "precision": options.precision,
        "checkpoint": fingerprint(options.checkpoint),
        "vae": fingerprint(options.vae) if options.vae else None,
    }
    prepare_folder(options.out)
    with alone(options.out, "another training.sample"):
        begin(options.out, settings)
        clear_temporary(options.out)
        parts = -(-order.n // order.batch)
        if (options.out / NPZ).exists():
            remove_parts(options.out, parts)  # a kill may have come between the two
            print(f"{options.out / NPZ} is finished already: nothing to do")
            return 0
        make_missing(studio, order, options.out, parts)
        draw_grid(options.out, order)
        join(options.out, order.n, parts)
    print(options.out / NPZ)
    return 0


def make_missing(studio: Studio, order: Order, out: Path, parts: int) -> None:
    """Make the batches that are not there, each a file."""
    missing = [i for i in range(parts) if not part_path(out, i).exists()]
    done = (parts - len(missing)) * order.batch
    with tqdm(total=order.n, initial=done, desc="sample", unit="img") as bar:
        for number in missing:
            images = studio.make(order, number).numpy()
            write_part(out, number, images)
            bar.update(len(images))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return guard(
        partial(run, options),
        options,
        stopped="stopped; what is made is kept, the same command goes on",
        smaller=lambda: "lower --batch",
        folder=lambda: options.out if (options.out / SETTINGS).exists() else None,
    )


if __name__ == "__main__":
    sys.exit(main())
