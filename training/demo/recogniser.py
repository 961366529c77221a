"""A classifier of digits that judges the demonstration's samples."""

import numpy as np
import torch
from torch import Tensor

from ..data.digits import load


class Recogniser:
    """A support vector machine, trained on the real digits, that classifies generated ones."""

    def __init__(self) -> None:
        from sklearn.svm import SVC

        train, held_out = load()
        # scikit-learn has no types; those inferred from its defaults do not allow a number here.
        svc = SVC(gamma=0.001)  # pyright: ignore[reportArgumentType]
        self._svc = svc.fit(self._features(train.images), train.labels.numpy())
        self.accuracy = self.share(held_out.images, held_out.labels)
        """Its share of right answers on the held-out real digits."""

    @staticmethod
    def _features(images: Tensor) -> np.ndarray:
        return (images * 16).flatten(1).double().numpy()

    def classes(self, images: Tensor) -> Tensor:
        """The class of each picture: (n, 1, 8, 8) in [0, 1] -> (n,)."""
        return torch.from_numpy(self._svc.predict(self._features(images.cpu())))

    def share(self, images: Tensor, labels: Tensor) -> float:
        """The share of pictures recognised as their label."""
        return float((self.classes(images) == labels.cpu()).double().mean())
