"""Class-wise independent pixels: the right values at every place, and nothing that holds them together."""

from __future__ import annotations

import numpy as np
import pytest

from steps.fractal.measures.rivals import classwise_pixels


def test_values_are_those_of_the_class_at_their_place_and_independent() -> None:
    train = np.zeros((6, 1, 2, 1), np.uint8)
    train[:4, 0, :, 0] = [[1, 1], [2, 2], [3, 3], [3, 3]]  # class 0: both pixels alike
    train[4:, 0, :, 0] = [[7, 8], [7, 9]]  # class 1
    labels = np.array([0, 0, 0, 0, 1, 1])
    wanted = np.arange(4000) % 2
    made = classwise_pixels(train, labels, wanted, np.random.default_rng(0))
    first, second = made[wanted == 0, 0, :, 0].T
    shares = [float((values == 3).mean()) for values in (first, second)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.04)
    # 1/16 + 1/16 + 1/4 of pairs are alike by chance; in training images all are
    assert float((first == second).mean()) == pytest.approx(0.375, abs=0.04)
    assert set(map(tuple, made[wanted == 1, 0, :, 0].tolist())) == {(7, 8), (7, 9)}
    again = classwise_pixels(train, labels, wanted, np.random.default_rng(0))
    assert (made == again).all()
