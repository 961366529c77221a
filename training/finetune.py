"""Train a network: python -m training.finetune CONFIG [--set k=v]... [--resume] [--dry-run]

Everything else is a key of the configuration file: ``--help KEY`` says what it means, examples are
in training/configs. With several processes:
torchrun --nproc_per_node N -m training.finetune CONFIG ...
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from .cli import add_debug, guard
from .config.load import load
from .config.reference import add_help
from .config.schema import Config
from .run.dry_run import damaged, dry_run, remedies
from .run.folder import RunFolder
from .run.loop import train


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        description="Train a network from a TOML file.",
        add_help=False,
    )
    add_help(parser, Config)
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of it, such as optim.lr=1e-4; may be repeated",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in run.out, exactly"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build all, try one batch, write nothing"
    )
    add_debug(parser)
    return parser.parse_args(arguments)


def failure(options: argparse.Namespace, e: Exception) -> str | None:
    """One sentence why numbers were not finite or a network did not compile; else None."""
    if isinstance(e, FloatingPointError):
        return damaged(load(options.config, options.set))
    # Only a run that compiles has this module loaded, and loading it takes seconds.
    dynamo = sys.modules.get("torch._dynamo.exc")
    if dynamo is not None and isinstance(e, dynamo.TorchDynamoException):
        reason = " ".join(str(e).split("\n")[:2]) or type(e).__name__  # where, and what
        return f"run.compile failed ({reason}): leave it out"
    return None


def begun(options: argparse.Namespace) -> Path | None:
    """The run's folder, once there is one."""
    folder = RunFolder(Path(load(options.config, options.set).run.out))
    return folder.out if not options.dry_run and folder.config.exists() else None


def run(options: argparse.Namespace) -> int:
    """Train; returns the exit code, 130 for a run that was stopped."""
    config = load(options.config, options.set)
    if options.dry_run:
        dry_run(config)
        return 0
    outcome = train(config, options.resume)
    if os.environ.get("RANK", "0") != "0":
        return 0 if outcome.finished else 130
    if not outcome.finished:
        print(f"stopped at step {outcome.step} and saved; go on with the same command and --resume")
        return 130
    print(f"trained to step {outcome.step}: {outcome.weights}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return guard(
        partial(run, options),
        options,
        stopped="stopped at once; what was saved is intact, --resume goes on",
        smaller=lambda: remedies(load(options.config, options.set)),
        explain=partial(failure, options),
        folder=partial(begun, options),
    )


if __name__ == "__main__":
    sys.exit(main())
