"""Samplers as a host has them: (denoise, x, sigmas) -> x, each with a habit of its own."""

import itertools

import torch


def _times(sigma, x):
    return sigma.expand(len(x))


def euler(denoise, x, sigmas):
    for s, r in itertools.pairwise(sigmas):
        x = x + (r - s) * (x - denoise(x, _times(s, x))) / s
    return x


def heun(denoise, x, sigmas):
    """Evaluates every level but the first and the last twice."""
    for s, r in itertools.pairwise(sigmas):
        v = (x - denoise(x, _times(s, x))) / s
        ahead = x + (r - s) * v
        if r > 0:
            v = (v + (ahead - denoise(ahead, _times(r, x))) / r) / 2
        x = x + (r - s) * v
    return x


def midpoint(denoise, x, sigmas):
    """Evaluates off the grid."""
    for s, r in itertools.pairwise(sigmas):
        v = (x - denoise(x, _times(s, x))) / s
        m = (s + r) / 2
        half = x + (m - s) * v
        x = x + (r - s) * (half - denoise(half, _times(m, x))) / m
    return x


def two_step(denoise, x, sigmas):
    """Adams-Bashforth of order 2: it remembers."""
    before = None
    for s, r in itertools.pairwise(sigmas):
        v = (x - denoise(x, _times(s, x))) / s
        slope = 0 if before is None else (v - before[1]) / (s - before[0])
        x = x + (r - s) * v + (r - s) ** 2 / 2 * slope
        before = s, v
    return x


def ancestral(denoise, x, sigmas):
    """Draws from the default generator."""
    for s, r in itertools.pairwise(sigmas):
        d = denoise(x, _times(s, x))
        down = r * (0.7 + 0.3 * r / s)
        x = x * (down / s) + (1 - down / s) * d
        if r > 0:
            a, b = 1 - r, 1 - down
            x = a / b * x + (r**2 - (down * a / b) ** 2).sqrt() * torch.randn_like(x)
    return x


def writes_into_x(denoise, x, sigmas):
    """Euler, in place."""
    for s, r in itertools.pairwise(sigmas):
        x += (r - s) * (x - denoise(x, _times(s, x))) / s
    return x


def writes_into_sigmas(denoise, x, sigmas):
    """As the host's uni_pc does."""
    sigmas[-1] = 0.001
    return euler(denoise, x, sigmas)


def out_of_order(denoise, x, sigmas):
    """Looks two levels ahead, then steps once, as the host's heunpp2 does."""
    for k in range(len(sigmas) - 1):
        s, r = sigmas[k], sigmas[k + 1]
        v = (x - denoise(x, _times(s, x))) / s
        if k + 2 < len(sigmas) - 1:
            far = sigmas[k + 2]
            ahead = x + (far - s) * v
            v = 0.75 * v + 0.25 * (ahead - denoise(ahead, _times(far, x))) / far
        x = x + (r - s) * v
    return x


def with_a_norm(denoise, x, sigmas):
    """Euler, with steps that are a little shorter the larger they are: no weights can say that."""
    for s, r in itertools.pairwise(sigmas):
        v = (x - denoise(x, _times(s, x))) / s
        x = x + (r - s) * v * (1 - 0.01 * v.square().mean().sqrt())
    return x


def self_willed(denoise, x, sigmas):
    """Chooses its steps by what the network says."""
    s = sigmas[0]
    while s > 0.05:
        v = (x - denoise(x, _times(s, x))) / s
        r = s * (0.9 if v.abs().mean() > 1 else 0.8)
        x, s = x + (r - s) * v, r
    return x
