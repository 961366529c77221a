"""Flows whose exact velocity is known, and what a run over them did."""

import itertools

import numpy as np
import torch

from sv_core.schedules import shift, uniform_grid

GRID = shift(uniform_grid(30), 3.0)
"""The 30-step grid of shift 3."""


def gaussian(interpolant, mean=0.7, std=0.5):
    """Exact velocity of data N(mean, std^2) on any path."""

    def velocity(x, t):
        a, s, da, ds = interpolant.coefficients(t, x)
        slope = (a * da * std**2 + s * ds) / (a**2 * std**2 + s**2)
        return da * mean + slope * (x - a * mean)

    return velocity


class Points:
    """Data: equal narrow Gaussians around random points; the nearest point is the mode."""

    def __init__(self, count, size, std, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.means = torch.randn(count, size, generator=g, dtype=torch.float64)
        self.std = std
        self.spread = (1 + std**2) ** 0.5
        self.generator = g

    def velocity(self, x, t):
        a = 1 - t
        variance = a**2 * self.std**2 + t**2
        logits = (a * x @ self.means.T - 0.5 * a**2 * self.means.square().sum(1)) / variance
        mean = logits.softmax(1) @ self.means
        return (t - a * self.std**2) / variance * (x - a * mean) - mean

    def noise(self, batch):
        shape = (batch, self.means.shape[1])
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def modes(self, x):
        return torch.cdist(x, self.means).argmin(1)

    def decibels(self, x, target):
        """Mean over samples of -20 log10(RMSE / std of the data)."""
        rmse = (x - target).square().mean(1).sqrt()
        return float(-20 * (rmse / self.spread).log10().mean())


def called(sampler, *args, **kwargs):
    """(result, nodes of the real calls)."""
    nodes = []
    x = sampler(*args, callback=lambda k, x, v, t: nodes.append(k), **kwargs)
    return x, nodes


def assert_calls(nodes, steps):
    assert nodes[0] == 0 and nodes[-1] < steps
    assert all(a < b for a, b in itertools.pairwise(nodes))


def gram_of(velocities):
    v = np.stack(velocities)
    return v @ v.T
