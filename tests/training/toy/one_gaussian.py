"""Data of one Gaussian."""

import torch

from training.toy.models import Mixture

ONE = Mixture(torch.tensor([[0.5, -1.0]]), 0.7)
