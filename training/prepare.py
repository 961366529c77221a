"""Pictures -> a latent cache: python -m training.prepare IMAGES CACHE [--set k=v]...

IMAGES holds a folder per class (also below train/ and val/), or pictures with .txt captions beside
them; for Wan also videos. Without a vae the cache holds plain pixels. For a model of ComfyUI name
its family, its VAE and its text encoders, and run this with ComfyUI's own Python:

    --set family=Flux --set vae=ae.safetensors
    --set 'text=["clip_l.safetensors", "t5xxl_fp16.safetensors"]'

Stopped at any moment, even killed, the same command goes on where it was; an encoder or text may be
added to a finished cache. --verify compares all of it with its checksums and the pictures.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from sv_core.errors import InvalidInput

from .caching.encode import Outcome, prepare
from .caching.plan import check
from .cli import add_debug, guard
from .config import reference
from .config.parse import build, override
from .config.prepare import PrepareConfig
from .data.cache import LatentCache
from .data.format import INDEX, SKIPPED
from .networks.comfy.folder import find


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    keys = ", ".join(key.name for key in reference.keys(PrepareConfig)[""])
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare",
        description="Make a latent cache from pictures, or finish one.",
        epilog=f"keys, of which --help KEY says what each means: {keys}",
        add_help=False,
    )
    reference.add_help(parser, PrepareConfig)
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder of pictures")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="the folder to make or finish")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set one key, such as vae=vae.safetensors; may be repeated",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all of the cache and of the pictures, and make anew what is damaged",
    )
    add_debug(parser)
    return parser.parse_args(arguments)


def configure(assignments: Iterable[str]) -> PrepareConfig:
    """Raises InvalidInput, in one sentence, for an unknown key or a value that it cannot have."""
    table: dict[str, Any] = {}
    for assignment in assignments:
        override(table, assignment)
    return build(PrepareConfig, table)


def require_host(config: PrepareConfig) -> None:
    """Raises InvalidInput, in one sentence, when there is no ComfyUI to read text encoders with."""
    check(config)
    try:
        find(config.comfy)
    except InvalidInput as e:
        raise InvalidInput(f"{e} (training.prepare: --set comfy=FOLDER)") from e


def report(path: Path, outcome: Outcome, seconds: float) -> None:
    """Print what the cache holds, what was skipped, and how long it took."""
    index, cache = outcome.index, LatentCache(path)
    captions = index.settings["layout"] == "captions"
    kept = len(index.paths) - len(index.skipped)
    held_out = len(cache.held_out)
    size = sum(file.stat().st_size for file in path.iterdir())
    counts = Counter(b for i, b in enumerate(index.bucket) if str(i) not in index.skipped)
    shapes = ", ".join(
        f"{_size(bucket)} ({counts[i]})" for i, bucket in enumerate(index.buckets) if counts[i]
    )
    print(f"pictures    {kept}, {held_out} of them held out"
          + (", each with its mirror image" if index.views == 2 else ""))  # fmt: skip
    print(f"conditions  {len(index.conditions)} {'captions' if captions else 'classes'}")
    print(f"sizes       {shapes}, width x height in pixels")
    print(f"latents     {index.latent.kind}, {index.latent.channels} channels")
    if index.model_std is not None:
        noise = index.posterior_share
        print(f"            std {index.model_std:.3f} as the network sees them (about 1 when the "
              f"family is right)"
              + ("" if noise is None else
                 f"; the VAE's own noise, left out, is {noise:.2%} of it"))  # fmt: skip
    if cache.text:
        null = cache.text[cache.text.null]
        sizes = ", ".join(f"{k} {'x'.join(map(str, v.shape))}" for k, v in sorted(null.items()))
        print(f"text        of {cache.text.null} conditions, and of none at all ({sizes})")
    for name, spec in index.features.items():
        print(f"features    {name}, {spec.dim} channels, for patches of {spec.patch_size}")
    print(f"size        {size / 2**20:.1f} MiB in {path}")
    if outcome.encoded:
        rate = outcome.encoded / seconds
        print(f"time        {seconds:.1f} s, {outcome.encoded} pictures, {rate:.1f} a second")
    missing = len(index.skipped) + len(index.aside)
    if missing:
        print(f"skipped     {missing} pictures, listed with the reasons in {path / SKIPPED}")
    if index.model_std is not None and not 0.5 <= index.model_std <= 2:
        print(f"note        a std of {index.model_std:.3g} is far from 1: is family="
              f"{index.latent.kind} that of this VAE?")  # fmt: skip
    for note in cache.notes():
        print(f"note        {note}")


def _size(bucket: tuple[int, ...]) -> str:
    height, width = bucket[-2:]
    frames = f"x{bucket[0]} frames" if bucket[:-2] not in ((), (1,)) else ""
    return f"{width}x{height}{frames}"


def run(options: argparse.Namespace) -> int:
    """Make or finish the cache, and report."""
    began = time.perf_counter()
    config = configure(options.set)
    if config.text:  # before a finished cache is opened for more
        require_host(config)
    outcome = prepare(options.images, options.cache, config, options.verify)
    if outcome.nothing_to_do:
        print(f"{options.cache} is finished already: nothing to do")
    report(options.cache, outcome, time.perf_counter() - began)
    return 0


def smaller(options: argparse.Namespace) -> str:
    """How to need less memory, for the message when it is full."""
    batch = configure(options.set).batch
    return f"lower batch (it is {batch})" if batch > 1 else "set device=cpu"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return guard(
        partial(run, options),
        options,
        stopped="stopped; finished shards are kept, the same command goes on",
        smaller=partial(smaller, options),
        folder=lambda: options.cache if (options.cache / INDEX).exists() else None,
    )


if __name__ == "__main__":
    sys.exit(main())
