"""How fast and how exact the StableVM target is: ``python -m benchmarks.posterior``.

Compares ``sv_core.targets.stable_velocity`` (two matrix products) with the straightforward way: a
loop over chunks of references that materialises (samples, chunk, C, H, W) twice, once for the
differences whose squares are the log-probabilities and once for the conditional velocities whose
weighted sum is the target. Most of its time goes into those arrays, and up to two thirds of it into
getting their memory from the system, which depends on the allocator.

The path is linear, the numbers float32, the device one CPU core. Methods run in turns, so that a
busy machine slows all of them; errors are root mean squares against float64. At large latents the
loop is also run as published, with log-probabilities clamped at -1e4: it answers with the mean of
all references. Prints one Markdown table within a minute.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sv_core.interpolant import LINEAR, match_dims
from sv_core.targets import stable_velocity

Problem = tuple[Tensor, Tensor, Tensor]
SMALL, LARGE = (4, 32, 32), (16, 64, 64)
CHUNKS = (64, 16, 256)


def problem(
    samples: int, references: int, shape: tuple[int, ...], earliest: float = 0.5, seed: int = 0
) -> Problem:
    """(x_t, refs, t): unit Gaussian references, some of them noised to t in [earliest, 1)."""
    generator = torch.Generator().manual_seed(seed)
    refs = torch.randn(references, *shape, generator=generator)
    picked = refs[torch.randint(references, (samples,), generator=generator)]
    eps = torch.randn(samples, *shape, generator=generator)
    t = earliest + (1 - earliest) * torch.rand(samples, generator=generator)
    return LINEAR.x_t(picked, eps, t), refs, t


def chunked_loop(
    x_t: Tensor, refs: Tensor, t: Tensor, chunk: int = 64, clamp: float = -math.inf
) -> Tensor:
    """The target from differences; ``clamp`` bounds the log-probabilities from below."""
    x, t = x_t[:, None], match_dims(t, x_t[:, None])  # (b, 1, c, h, w), (b, 1, 1, 1, 1)
    parts = refs.split(chunk)
    squares = [(x - (1 - t) * part).square().flatten(2).sum(2) for part in parts]  # (b, chunk)
    log_p = torch.cat(squares, dim=1) / (-2 * t.flatten(1) ** 2)
    shares = log_p.clamp_min(clamp).softmax(1).split(chunk, dim=1)
    target = torch.zeros_like(x_t)
    for part, share in zip(parts, shares, strict=True):
        target += (share[..., None, None, None] * ((x - part) / t)).sum(1)
    return target


def stable_target(x_t: Tensor, refs: Tensor, t: Tensor) -> Tensor:
    """Ours."""
    return stable_velocity(LINEAR, x_t, refs, t)


def exact_target(x_t: Tensor, refs: Tensor, t: Tensor) -> Tensor:
    """The target in float64, from differences, one sample at a time."""
    refs = refs.double()
    rows = []
    for x, at in zip(x_t.double(), t.double(), strict=True):
        log_p = (x - (1 - at) * refs).square().flatten(1).sum(1) / (-2 * at**2)
        rows.append((x - torch.einsum("m,m...->...", log_p.softmax(0), refs)) / at)
    return torch.stack(rows)


def rms(error: Tensor) -> float:
    """Root mean square."""
    return error.square().mean().sqrt().item()


def in_turns(functions: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each function took in each round; every round runs all of them once."""
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(functions: dict[str, Callable[[], Tensor]], exact: Tensor, title: str, rounds: int):
    """Print one row for each function; ratios are to the first one's median."""
    errors = {name: rms(function() - exact) for name, function in functions.items()}
    seconds = in_turns(functions, rounds)
    first = statistics.median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"| {title} | {name} | {1e3 * median:.1f} | {1e3 * min(taken):.1f} "
            f"| {median / first:.0f} | {errors[name]:.1e} |",
            flush=True,
        )


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    print("| samples, references x latent | method | median ms | best ms | ratio | rms error |")
    print("|---|---|---|---|---|---|")
    small, large = problem(32, 256, SMALL), problem(8, 256, LARGE)
    loops = {f"loop, chunks of {n}": lambda n=n: chunked_loop(*small, chunk=n) for n in CHUNKS}
    ours = {"two products (ours)": lambda: stable_target(*small)}
    measure(ours | loops, exact_target(*small), "32, 256 x 4x32x32", rounds=9)
    large_methods = {
        "two products (ours)": lambda: stable_target(*large),
        "loop, chunks of 64": lambda: chunked_loop(*large),
        "the same, clamped at -1e4": lambda: chunked_loop(*large, clamp=-1e4),
    }
    measure(large_methods, exact_target(*large), "8, 256 x 16x64x64", rounds=3)


if __name__ == "__main__":
    main()
