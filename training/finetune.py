"""Train a network: python -m training.finetune CONFIG [--set k=v]... [--resume] [--dry-run]

Everything else is a key of the configuration file; see training/configs.
"""

import argparse
import sys
from pathlib import Path

import torch

from . import data
from .config import Config, load
from .loop import make_accelerator, train
from .objective import build_objective, references
from .state import TrainState


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune", description="Train a network from a TOML file."
    )
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
    return parser.parse_args(arguments)


def dry_run(config: Config) -> None:
    """Build everything, compute one batch's loss and gradient, say what it takes."""
    device = make_accelerator(config).device
    dataset = data.load(config.data)
    objective = build_objective(config.objective)
    state = TrainState(config, dataset, device)
    x0, labels, cond = data.batch(dataset, config.data, config.run.seed, 1)
    batch = data.Batch(x0.to(device), labels, cond)
    refs = references(state.bank, batch, dataset.null)
    losses = objective(
        lambda x_t, t: state.backbone.velocity(x_t, t, cond.to(device)),
        batch.x0,
        data.generator(config.run.seed, 1, "path"),
        refs,
    )
    losses.loss.mean().backward()
    size = sum(p.numel() for p in state.model.parameters())
    # Weights, their average, gradients and AdamW's two moments.
    held = 5 * size * 4 + (state.bank.items.numel() * 4 if state.bank else 0)
    counts = f"{len(dataset.train)} to learn from, {len(dataset.held_out)} held out"
    print(f"data        {config.data.name}: {counts}, {dataset.num_classes} classes")
    print(f"batch       {' x '.join(map(str, x0.shape))} ({dataset.latent.kind})")
    print(f"network     {size / 1e6:.2f} million parameters on {device}")
    print(f"memory      {held / 2**20:.0f} MiB held, activations not counted")
    if device.type == "cuda":
        print(f"peak        {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the GPU")
    print(f"loss        {losses.loss.mean():.4f} ({config.objective.kind})")
    print("nothing was written; leave out --dry-run to train")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        config = load(options.config, options.set)
        if options.dry_run:
            dry_run(config)
            return 0
        outcome = train(config, options.resume)
    except (ValueError, OSError, FloatingPointError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("error: the GPU's memory is full: lower data.batch_size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped at once; what was saved is intact, --resume goes on", file=sys.stderr)
        return 130
    if not outcome.step:
        print("stopped before the first step")
        return 130
    if not outcome.finished:
        print(f"stopped at step {outcome.step} and saved; go on with the same command and --resume")
        return 130
    print(f"trained to step {outcome.step}: {outcome.weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
