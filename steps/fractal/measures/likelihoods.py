"""Bits per value of images under a model, and under histograms, the simplest rivals.

Three kinds, which are never compared with one another:

- ``null``: the class is not said; the published code's figure.
- ``mixture``: the mean over classes of p(image | class), each as likely as the others. It is within
  log2(classes) / values of ``conditional``, and may lie below it.
- ``conditional``: p(image | its class).

Bits are of all values of an image, so they are comparable between models of the same images only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SMOOTHING = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""What may be added to every count of a histogram."""


def conditional_bits(by_class: np.ndarray, labels: np.ndarray, values: int) -> float:
    """Bits per value given the class.

    Args:
        by_class: -log p(image | class) in nats, ``[image, class]``.
        labels: of the images.
        values: of one image: pixels times channels.
    """
    import numpy as np

    return float(by_class[np.arange(len(labels)), labels].mean() / values / math.log(2))


def mixture_bits(by_class: np.ndarray, values: int) -> float:
    """Bits per value where each class is as likely as the others; as :func:`conditional_bits`."""
    from scipy.special import logsumexp

    nats = math.log(by_class.shape[1]) - logsumexp(-by_class, axis=1)
    return float(nats.mean() / values / math.log(2))


class Histograms:
    """How often each value stands at each place of training images, all places by themselves."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, values: int, classes: int) -> None:
        """Count.

        What is added to counts is chosen by the training images alone: of ``SMOOTHING`` that under which each
        image is most likely by the counts of all others.

        Args:
            pixels: ``uint8 [image, row, column, channel]``.
            labels: ``[image]``.
            values: how many values there are.
            classes: how many classes there are; 1 for histograms that know of none.
        """
        import numpy as np

        self._places = np.arange(pixels[0].size)
        self._counts = np.zeros((classes, pixels[0].size, values))
        flat = pixels.reshape(len(pixels), -1)
        np.add.at(self._counts, (labels[:, None], self._places, flat), 1)
        others = [self._nats(flat, labels, added, 1).sum() for added in SMOOTHING]
        self.added = SMOOTHING[int(np.argmin(others))]

    def _nats(self, flat: np.ndarray, labels: np.ndarray, added: float, own: int) -> np.ndarray:
        """-log p of every value ``[image, place]``; ``own``: how often each image itself was counted."""
        import numpy as np

        there = self._counts[labels[:, None], self._places, flat] - own + added
        totals = self._counts.sum(2)[labels] - own + added * self._counts.shape[2]
        return -np.log(there / totals)

    def nats(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """-log p of every value of images that were not counted, of the shape of ``pixels``."""
        flat = pixels.reshape(len(pixels), -1)
        return self._nats(flat, labels, self.added, 0).reshape(pixels.shape)

    def by_class(self, pixels: np.ndarray) -> np.ndarray:
        """-log p(image | class), ``[image, class]``."""
        import numpy as np

        each = [
            self.nats(pixels, np.full(len(pixels), label)).reshape(len(pixels), -1).sum(1)
            for label in range(len(self._counts))
        ]
        return np.stack(each, 1)
