"""The command line that the toys share: a picture to write, and a quick try."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..cli import add_debug, guard


def run_command(
    run: Callable[[argparse.Namespace], int],
    program: str,
    description: str,
    picture: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a toy with its ``picture`` (a PNG's path) and ``quick``; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("picture", nargs="?", type=Path, default=Path(picture))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    add_debug(parser)
    options = parser.parse_args(arguments)
    if options.picture.suffix != ".png" or not options.picture.absolute().parent.is_dir():
        parser.error(f"{options.picture} must be a .png in a folder that exists")
    return guard(partial(run, options), options)
