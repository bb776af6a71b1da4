"""Images that are no model's: what samples are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def classwise_pixels(
    pixels: np.ndarray, labels: np.ndarray, wanted: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Images of which each value is that of a random training image of the class, all by themselves.

    They have the right values everywhere, class by class, and no idea of a stroke. With smoothed counts they
    would be a weaker rival.

    Args:
        pixels: training images, ``uint8 [image, row, column, channel]``.
        labels: of them.
        wanted: classes of the images to make.
        generator: of random numbers.
    """
    import numpy as np

    made = np.empty((len(wanted), *pixels.shape[1:]), pixels.dtype)
    for label in np.unique(wanted):
        mine, places = pixels[labels == label], wanted == label
        chosen = generator.integers(len(mine), size=made[places].shape)
        made[places] = np.take_along_axis(mine, chosen, 0)
    return made
