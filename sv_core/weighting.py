"""Weights w(t) >= 0 for losses and for alignment: t (b,) -> (b,).

[arXiv 2602.05435, VA-REPA: each fades out where noise leaves nothing to align]
"""

import math

import torch
from torch import Tensor

from .interpolant import LINEAR, Interpolant


def constant(t: Tensor) -> Tensor:
    """1."""
    return torch.ones_like(t)


def hard(t: Tensor, split: float = 0.7) -> Tensor:
    """1 below the split, 0 from it on. [VA-REPA, w_hard]"""
    return (t < split).to(t.dtype)


def hard_high(t: Tensor, split: float = 0.7) -> Tensor:
    """0 below the split, 1 from it on: the ablation."""
    return (t >= split).to(t.dtype)


def sigmoid(t: Tensor, split: float = 0.7, k: float = 20.0) -> Tensor:
    """1 / (1 + exp(-k (split - t))): one half at the split. [VA-REPA, w_sigmoid]"""
    return torch.sigmoid(k * (split - t))


def cosine(t: Tensor, split: float = 0.7) -> Tensor:
    """(1 + cos(pi t / split)) / 2 below the split, 0 from it on."""
    return torch.where(t < split, 0.5 * (1 + torch.cos(t * (math.pi / split))), 0.0)


def snr(t: Tensor, split: float = 0.7, interpolant: Interpolant = LINEAR) -> Tensor:
    """SNR(t) / (SNR(t) + SNR(split)), SNR = alpha^2 / sigma^2. [VA-REPA, w_SNR]"""
    at_split = interpolant.log_snr(torch.as_tensor(split, dtype=t.dtype, device=t.device))
    return torch.sigmoid(2 * (interpolant.log_snr(t) - at_split))


WEIGHTS = {
    "constant": constant,
    "hard": hard,
    "hard_high": hard_high,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "snr": snr,
}
