"""scikit-learn's digits: 1,797 real pictures of 8x8 that every install brings, and their judge.

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
    """(training, held out): 1,437 and 360 pictures, the same ones always, classes in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, target = load_digits(return_X_y=True)
    images = torch.from_numpy(values.reshape(-1, 8, 8) / 16).float()[:, None]
    labels = torch.from_numpy(target).long()
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=target
    )
    return Split(images[train], labels[train]), Split(images[held_out], labels[held_out])


class Recogniser:
    """A support vector machine that learnt the real training digits, to judge made ones."""

    def __init__(self) -> None:
        from sklearn.svm import SVC

        train, held_out = load()
        # scikit-learn has no types, and those that are read out of its defaults know no number.
        svc = SVC(gamma=0.001)  # pyright: ignore[reportArgumentType]
        self._svc = svc.fit(self._features(train.images), train.labels.numpy())
        self.accuracy = self.share(held_out.images, held_out.labels)
        """Its share of right answers on the held-out real digits."""

    @staticmethod
    def _features(images: Tensor) -> np.ndarray:
        return (images * 16).flatten(1).double().numpy()

    def classes(self, images: Tensor) -> Tensor:
        """The class it sees in each picture (n, 1, 8, 8) of [0, 1] -> (n,)."""
        return torch.from_numpy(self._svc.predict(self._features(images.cpu())))

    def share(self, images: Tensor, labels: Tensor) -> float:
        """The share of pictures recognised as their label."""
        return float((self.classes(images) == labels.cpu()).double().mean())
