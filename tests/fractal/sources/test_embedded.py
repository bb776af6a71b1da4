"""The digits of scikit-learn, as they are known to be."""

from __future__ import annotations

import numpy as np

from steps.fractal.sources.embedded import COUNT, SIDE, VALUES, digits


def test_the_digits_are_those_of_the_library() -> None:
    images = digits()
    assert images.pixels.shape == (COUNT, SIDE, SIDE, 1) == (1797, 8, 8, 1)
    assert images.pixels.dtype == np.uint8
    assert (images.pixels.min(), images.pixels.max()) == (0, VALUES - 1)
    assert images.values == 17
    assert images.classes == [str(digit) for digit in range(10)]
    assert images.labels[:10].tolist() == list(range(10))
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # the first one is a 0: ink around an empty middle
    assert images.pixels[0, 3, 1:7, 0].tolist() == [4, 12, 0, 0, 8, 8]
