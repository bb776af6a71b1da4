"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

SIDE = 8
"""Of the digits, in pixels."""

VALUES = 17
"""A pixel counts the ink in a block of 4 x 4 points of the scan: 0 to 16."""

COUNT = 1797
"""How many digits there are."""


class Images(NamedTuple):
    """Images of one shape and their classes."""

    pixels: np.ndarray
    """``uint8 [image, row, column, channel]``, below ``values``."""
    labels: np.ndarray
    """``uint16 [image]``, an index into ``classes``."""
    values: int
    """How many values a pixel can have."""
    classes: list[str]
    """Their names."""


def digits() -> Images:
    """The test part of UCI's *Optical Recognition of Handwritten Digits*, in the order of scikit-learn."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.images.astype(np.uint8)[..., None]
    return Images(pixels, bunch.target.astype(np.uint16), VALUES, [str(name) for name in bunch.target_names])
