"""scikit-learn's digits: 1,797 real pictures of 8x8 that come with its installation.

scikit-learn is imported where it is used: training on one's own pictures needs none of it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 0.2


class Split(NamedTuple):
    """Pictures (n, 1, 8, 8) in [0, 1] and their classes (n,)."""

    images: Tensor
    labels: Tensor


def load() -> tuple[Split, Split]:
    """(training, held out): 1,437 and 360 pictures, always the same, classes in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, target = load_digits(return_X_y=True)
    images = torch.from_numpy(values.reshape(-1, 8, 8) / 16).float()[:, None]
    labels = torch.from_numpy(target).long()
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=target
    )
    return Split(images[train], labels[train]), Split(images[held_out], labels[held_out])
